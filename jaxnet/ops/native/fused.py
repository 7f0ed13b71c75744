"""Convolutions and matrix products in C whose weights were packed before, with what follows them.

A net that answers has the same weights in each call. They are packed once, as the inner loops read
them, and the bias, another array, bounds and an activation are applied while a result is still in
a register or in the first cache.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.convolution_lowering import Form
from jaxnet.ops.native import compute, countable, instructions

LANES = {"AVX-512-BF16": 16, "AVX-512": 16, "AVX2": 8, "NEON": 4}  # floats of a vector
# In the order of activation_tiles.h; the first one stands for none.
ACTIVATIONS = (
    "", "silu", "hard_swish", "gelu", "gelu_tanh", "sigmoid", "hard_sigmoid", "tanh",
)  # fmt: skip
LINE = 16  # floats of a line of the cache

# What two cores of a server do in a nanosecond, roughly: only their ratios matter.
DIRECT_PRODUCTS = 190  # twice the products of two numbers, in direct convolution
TILE_PRODUCTS = 170  # in Winograd's
WEIGHT_BYTES = 25  # read from memory
ARRAY_BYTES = 60  # of transformed tiles, written and read


class Packed(NamedTuple):
    """How the library computes a convolution, over (batch, frames, rows, columns, features).

    Fields:
      numbers: What fused.h expects up to the activation.
      inputs, outputs: Shapes of x and of the result.
      size: Number of packed weights.
    """

    numbers: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    size: int

    @property
    def tile(self) -> int:
        """Results of a tile of Winograd's algorithm per axis; 0 for direct convolution."""
        return self.numbers[0]


def supports(form: Form, batch: int, inputs: int, features: int) -> bool:
    """Return whether the library computes a convolution of float32 so.

    Args:
      form: Description of the convolution.
      batch: Number of examples.
      inputs, features: Number of features of x and of the result.

    Example:
      >>> form = Form((1,), ((0, 0),), (1,), (2,), 1, inputs=(3,), window=(2,))
      >>> supports(form, 1, 8, 8)  # x is dilated
      False
    """
    if len(form.window) > 3 or max(form.input_dilation) > 1 or instructions() is None:
        return False
    known = jax.ShapeDtypeStruct((batch, *form.inputs, *form.outputs, inputs, features), "float32")
    return countable(known)


def plan(form: Form, batch: int, inputs: int, features: int, *, tile: int | None = None) -> Packed:
    """Return how the library computes a convolution that it supports.

    Args:
      form, batch, inputs, features: Arguments of `supports`.
      tile: Results of Winograd's algorithm per axis, 0 for direct convolution; the faster one by
        default.

    Example:
      >>> form = Form((1,), ((1, 1),), (1,), (1,), 1, inputs=(4,), window=(3,))
      >>> plan(form, 2, 8, 16).outputs  # doctest: +SKIP
      (2, 1, 1, 4, 16)
    """
    if tile is None:
        tile = _fastest_tile(form, batch, inputs, features)
    flat = (1,) * (3 - len(form.window))
    before = [low for low, _ in form.padding]
    x = (batch, *flat, *form.inputs)
    y = (batch, *flat, *form.outputs)
    if is_pointwise(form):
        x = y = (1, 1, *_rows_and_columns(math.prod(x)))
    numbers = (
        tile, form.groups,
        *flat, *form.strides,
        *flat, *form.dilation,
        *[0] * len(flat), *before,
        *flat, *form.window,
        inputs, features,
    )  # fmt: skip
    return Packed(numbers, (*x, inputs), (*y, features), _size(form, tile, inputs, features))


def is_pointwise(form: Form) -> bool:
    """Return whether a convolution is a matrix product of all pixels, which may have any shape.

    Example:
      >>> is_pointwise(Form((1,), ((0, 0),), (1,), (1,), 1, inputs=(3,), window=(1,)))
      True
    """
    zeros = [number for pair in form.padding for number in pair]
    return form.groups == 1 and max(*form.window, *form.strides) == 1 and not any(zeros)


def _rows_and_columns(pixels: int) -> tuple[int, int]:
    """Return rows and columns of pixels, so that tiles of at most 14 waste few."""
    widest, tile, usual = 800, 14, 112
    best = (math.inf, 1, pixels)
    for rows in range(1, pixels + 1):
        columns, rest = divmod(pixels, rows)
        if columns < tile < pixels:
            break
        if rest or (columns > widest and rows < 64):
            continue
        wasted = -(-columns // tile) * tile / columns
        best = min(best, (wasted + 4e-4 * abs(columns - usual) / usual, rows, columns))
    return best[1:]


def _fastest_tile(form, batch, inputs, features) -> int:
    """Return the tile of Winograd's algorithm that takes least time, 0 for direct convolution.

    For few pixels, reading the weights takes longest, and transformed ones are up to four times as
    large.
    """
    steps = (*form.strides, *form.dilation, form.groups)
    near = all(0 <= number <= 2 for pair in form.padding for number in pair)
    is_exact = form.precision in ("highest", "float32")
    if form.window != (3, 3) or max(steps) > 1 or min(inputs, features) < 8 or not near or is_exact:
        return 0
    weights = inputs * features
    products = batch * math.prod(form.outputs) * 9 * weights
    times = {0: products * 2 / DIRECT_PRODUCTS + 9 * weights * 4 / WEIGHT_BYTES}
    for size in (2, 4):
        tiles = batch * math.prod(-(-length // size) for length in form.outputs)
        places = (size + 2) ** 2
        products = places * weights * tiles
        arrays = tiles * places * (inputs + features)
        reading = places * weights * 4 / WEIGHT_BYTES
        times[size] = products * 2 / TILE_PRODUCTS + reading + arrays * 4 / ARRAY_BYTES
    return min(times, key=lambda size: times[size])


def has_far_taps(kernel: np.ndarray, tile: int) -> bool:
    """Return whether taps of a kernel are too far apart for tiles: `has_far_weights` in C.

    Args:
      kernel: Kernel (3, 3, inputs, features).
      tile: Results of a tile per axis.

    Example:
      >>> has_far_taps(np.ones((3, 3, 8, 8), np.float32), 4)
      False
    """
    most_added = 128  # products in a row
    leak = (5.4e-7 + 1.2e-7 * math.sqrt(min(kernel.shape[-2], most_added))) / (
        8 if tile == 2 else 1
    )
    squares = np.square(kernel.astype(np.float64)).sum((-2, -1))
    usual = 1e-28 <= squares.max() < 1e20
    return bool(not usual or squares.max() > 1e-10 / leak**2 * squares.min())


def _size(form, tile, inputs, features) -> int:
    """Return the number of packed weights, as `merge_groups` of conv.h divides them."""
    lanes = LANES[str(instructions())]

    def in_vectors(count):
        return -(-count // lanes) * lanes

    if tile:
        return (tile + 2) ** 2 * in_vectors(inputs) * in_vectors(features)
    groups, depth, own = form.groups, inputs // form.groups, features // form.groups
    together = lanes // own
    while together > 1 and groups % together:
        together -= 1
    if depth == own == 1 and groups > 1:
        groups, own = 1, groups
    elif together > 1:
        groups, own = groups // together, own * together
    return groups * math.prod(form.window) * depth * in_vectors(own)


def packed(kernel: Any, how: Packed) -> jax.Array:
    """Return the weights of a finite kernel (*window, inputs // groups, features), packed.

    Args:
      kernel: Kernel in float32.
      how: What `plan` returned.
    """
    window = how.numbers[11:14]
    w = jnp.asarray(kernel, jnp.float32).reshape(*window, *kernel.shape[-2:])
    (result,) = compute("jaxnet_pack", [(how.size,)], w, form=_form(how))
    return result


def padded_bias(bias: np.ndarray) -> np.ndarray:
    """Return a bias with zeros behind it, since whole vectors of it are read.

    Example:
      >>> padded_bias(np.ones(3, np.float32)).shape
      (32,)
    """
    return np.pad(bias, (0, -len(bias) % LINE + LINE))


def run(
    x: jax.Array,
    constants: jax.Array,
    added: jax.Array | None,
    *,
    how: Packed,
    places: tuple[int, int, int],
    least: float,
    most: float,
    activation: str,
) -> jax.Array:
    """Return activation(clip(convolution + bias + added)), of the shape `how.outputs`.

    Args:
      x: Input, of any shape of that size.
      constants: All constants of a program.
      added: Array of the size of the result, or None.
      how: What `plan` returned.
      places: Where packed weights, bias and kernel begin in the constants.
      least, most: Bounds.
      activation: Name of `ACTIVATIONS`.
    """
    arrays = [x.reshape(how.inputs), constants]
    if added is not None:
        arrays.append(added.reshape(how.outputs))
    form = _form(how, activation, places)
    bounds = {"least": np.float32(least), "most": np.float32(most)}
    (y,) = compute("jaxnet_fused", [how.outputs], *arrays, form=form, **bounds)
    return y


def _form(how, activation="", places=(0, 0, 0)) -> np.ndarray:
    return np.array([*how.numbers, ACTIVATIONS.index(activation), *places], np.int64)
