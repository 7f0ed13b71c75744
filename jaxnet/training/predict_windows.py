"""Predict large inputs window by window, and blend the outputs where windows overlap."""

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State, as_layer
from jaxnet.services.checks import (
    as_dict,
    as_rows,
    as_spatial,
    at_least,
    check_list,
    one_of,
    within,
)
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.trees import PyTree, shapes_of
from jaxnet.training.evaluate import predict

WHO = "predict_windows"
BLENDS = ("gaussian", "uniform", "crop")


@explain_keywords
def predict_windows(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array | np.ndarray,
    window: int | Sequence[int],
    *,
    overlap: float = 0.5,
    blend: str = "gaussian",
    batch_size: int = 8,
) -> PyTree:
    """Return the net's outputs for inputs that are too large for it, window by window.

    Windows of one size cover each input, the last ones end at its border, and their outputs are
    blended. Pictures, series and volumes may so be larger than what the net was trained on, or than
    the memory of the device: only `batch_size` windows are there at a time.

    Args:
      net: Layer whose outputs have the axes of its input: (batch, *space, ...), or a whole multiple
        of each side, as after upsampling. It may return a pytree of such outputs.
      params, state: Params and state of the net.
      x: Series (n, time, channels), pictures (n, height, width, channels), volumes (n, depth,
        height, width, channels), or data with more spatial axes.
      window: Size of a window, one number for all spatial axes or one per axis; at most the sides
        of x.
      overlap: Fraction of a window that the next window shares along each axis, in [0, 1).
      blend: How outputs are combined. "gaussian" averages them with weights that fall from the
        center of a window to its border, with a standard deviation of an eighth of the window;
        "uniform" averages them equally. "crop" takes each output from the window that sees most
        around it. So if half the overlap is at least what an output sees on each side, "crop" gives
        the outputs of the whole input. For that, a net with strides needs sides, windows and
        distances of windows that are multiples of its strides.
      batch_size: Number of windows at a time; changes speed and memory, not the result.

    Returns:
      NumPy arrays (n, *space, ...) in the outputs' dtypes.

    Raises:
      TypeError: If outputs to average are not floats, such as labels; "crop" takes any.
      ValueError: If `window` does not fit x, or if the outputs do not have the axes of the input.
      ValueError: As in `jn.predict`.

    Example:
      A net that sees one pixel to each side, so windows of 8 that share 2 pixels are enough:

      >>> net = jn.conv(2, 3)
      >>> x = np.random.default_rng(0).normal(size=(1, 20, 30, 1)).astype(np.float32)
      >>> params, state = net.init(jax.random.key(0), x)
      >>> y = predict_windows(net, params, state, x, window=8, overlap=2 / 8, blend="crop")
      >>> y.shape, bool(np.allclose(y, jn.predict(net, params, state, x), atol=1e-5))
      ((1, 20, 30, 2), True)
    """
    at_least(WHO, "batch_size", batch_size)
    within(WHO, "overlap", overlap, "[0, 1)")
    one_of(WHO, "blend", blend, BLENDS)
    net = as_layer(net, WHO, "net")
    params, state = as_dict(WHO, "params", params), as_dict(WHO, "state", state)
    x = _checked_inputs(x)
    window = _window_sizes(window, x.shape)
    cuts = [_cut(*sizes, overlap, blend) for sizes in zip(x.shape[1:-1], window, strict=True)]
    outputs, structure = _outputs(net, params, state, x, window, blend)
    for places, rows in _batches(x, window, cuts, batch_size):
        y = jax.tree.leaves(predict(net, params, state, rows, batch_size=len(rows)))
        for row, (example, *index) in enumerate(places):
            for output, patches in zip(outputs, y, strict=True):
                output.add(example, index, patches[row], cuts)
    for output in outputs:
        output.close()
    return jax.tree.unflatten(structure, [output.result for output in outputs])


def _checked_inputs(x: Any) -> np.ndarray:
    x = as_rows(x, f"{WHO}: x")
    if not hasattr(x, "ndim") or x.ndim < 3:
        as_spatial(WHO, "x", x)
    return np.asarray(x)


def _window_sizes(window: Any, shape: tuple[int, ...]) -> list[int]:
    """Return the checked size of a window along each spatial axis of inputs of this shape."""
    sides = shape[1:-1]
    if isinstance(window, Sequence):
        sizes = check_list(WHO, "window", window, "sizes")
    else:
        sizes = [window] * len(sides)
    for size in sizes:
        at_least(WHO, "window", size)
    if len(sizes) != len(sides) or not all(map(operator.le, sizes, sides)):
        raise ValueError(
            f"{WHO}: window must have one size for each spatial axis of x {shape}, at most its "
            f"side, got {tuple(sizes)}. Pad x, or choose a smaller window"
        )
    return sizes


class _Cut(NamedTuple):
    """How one axis is cut into windows.

    Fields:
      starts: First places of the windows, (windows,).
      weights: Weights of their outputs, (windows, size); at each place of the axis they sum to 1.
    """

    starts: np.ndarray
    weights: np.ndarray


def _cut(side: int, size: int, overlap: float, blend: str) -> _Cut:
    """Cut an axis of `side` places into windows of `size`, the last of which ends at the border."""
    step = max(1, math.floor(round(size * (1 - overlap), 6)))
    last = side - size
    starts = np.minimum(np.arange(0, last + step, step), last)
    places = starts[:, None] + np.arange(size)
    if blend == "crop":
        middles = (starts[1:] + starts[:-1] + size) // 2  # of what two windows share
        first, end = np.append(0, middles), np.append(middles, side)
        weights = ((places >= first[:, None]) & (places < end[:, None])).astype(np.float64)
    else:
        deviation = size / 8 if blend == "gaussian" else np.inf
        from_center = (np.arange(size) - (size - 1) / 2) / deviation
        weights = np.tile(np.exp(-(from_center**2) / 2), (len(starts), 1))
    total = np.zeros(side)
    np.add.at(total, places, weights)
    return _Cut(starts, weights / total[places])


def _batches(
    x: np.ndarray, window: list[int], cuts: list[_Cut], batch_size: int
) -> Iterator[tuple[list[tuple[int, ...]], np.ndarray]]:
    """Yield the places (example, index of the window along each axis) and windows of each batch.

    All batches have the same number of windows, so that one program computes them; the last batch
    has fewer places.
    """
    places = list(itertools.product(range(len(x)), *[range(len(cut.starts)) for cut in cuts]))
    batch_size = min(batch_size, len(places))
    for begin in range(0, len(places), batch_size):
        chosen = places[begin : begin + batch_size]
        rows = np.empty((batch_size, *window, x.shape[-1]), x.dtype)
        for row in range(batch_size):
            example, *index = chosen[min(row, len(chosen) - 1)]
            starts = [cut.starts[i] for cut, i in zip(cuts, index, strict=True)]
            part = [slice(a, a + size) for a, size in zip(starts, window, strict=True)]
            rows[row] = x[(example, *part)]
        yield chosen, rows


@dataclass
class _Output:
    """A leaf of the outputs, which is put together one example after another.

    Fields:
      result: Outputs (n, *space, ...).
      scales: How many places an output has per place of the input, along each spatial axis.
      total: Sum of the weighted windows of the current example; exact for equal windows.
      example: Number of the current example.
    """

    result: np.ndarray
    scales: tuple[int, ...]
    total: np.ndarray
    example: int = 0

    def add(self, example: int, index: list[int], patch: np.ndarray, cuts: list[_Cut]) -> None:
        """Add the outputs of a window, whose number along each axis is `index`."""
        if example != self.example:
            self.close()
            self.example = example
        into, part, weight = [], [], np.ones(())
        for cut, i, scale in zip(cuts, index, self.scales, strict=True):
            used = np.flatnonzero(cut.weights[i])
            first, end = used[0], used[-1] + 1
            part.append(slice(scale * first, scale * end))
            start = cut.starts[i]
            into.append(slice(scale * (start + first), scale * (start + end)))
            weight = weight[..., None] * np.repeat(cut.weights[i, first:end], scale)
        rest = patch.ndim - len(cuts)
        self.total[tuple(into)] += weight.reshape(*weight.shape, *[1] * rest) * patch[tuple(part)]

    def close(self) -> None:
        """Keep the sum as the result of the current example, and begin anew."""
        self.result[self.example] = self.total
        self.total[...] = 0


def _outputs(
    net: Layer, params: Params, state: State, x: np.ndarray, window: list[int], blend: str
) -> tuple[list[_Output], Any]:
    """Return the outputs to put together, and their structure; raise if they cannot be."""
    windows = jax.ShapeDtypeStruct((1, *window, x.shape[-1]), x.dtype)
    y, _ = jax.eval_shape(net.apply, *shapes_of((params, state)), windows)
    leaves, structure = jax.tree.flatten(y)
    outputs, axes = [], len(window)
    for leaf in leaves:
        sides = leaf.shape[1 : 1 + axes]
        fits = leaf.shape[:1] == (1,) and len(sides) == axes
        if not fits or any(a % b or not a for a, b in zip(sides, window, strict=True)):
            raise ValueError(
                f"{WHO}: expected outputs of {net.name} with the spatial axes of its input, or a "
                f"multiple of each, got {leaf.shape} for a window {windows.shape}. If the net "
                "shrinks its input, pad it or end in jn.resize; for one output per input, use "
                "jn.predict"
            )
        if blend != "crop" and not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"{WHO}: {blend} windows are averaged, so outputs of {net.name} must be floats, "
                f'got {leaf.dtype}. Return logits or probabilities, or pass blend="crop"'
            )
        scales = tuple(a // b for a, b in zip(sides, window, strict=True))
        whole = [a * b for a, b in zip(x.shape[1:-1], scales, strict=True)]
        result = np.empty((len(x), *whole, *leaf.shape[1 + axes :]), leaf.dtype)
        exact = np.promote_types(leaf.dtype, np.float64) if leaf.dtype.kind == "c" else np.float64
        outputs.append(_Output(result, scales, np.zeros(result.shape[1:], exact)))
    return outputs, structure
