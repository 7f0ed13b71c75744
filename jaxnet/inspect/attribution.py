"""Attribution: which entries of an input, or of a layer's output, contribute to a score."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.inspect.scores import Chosen, array_at, choose, input_arrays, score
from jaxnet.services.checks import as_array, at_least, on_host, within
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import PyTree, compiled_for, describe

CHUNK = 128  # covered examples per forward pass


@on_auto_axes
def saliency(
    net: Layer,
    params: Params,
    state: State,
    x: PyTree,
    target: Any = None,
    *,
    path: str | None = None,
    at: str | None = None,
) -> jax.Array:
    """Return the gradient of a score with respect to the input, or to the output of a layer.

    It is signed, with one value per entry of x. The paper's saliency map is its largest absolute
    value over the channels, `jnp.abs(gradient).max(-1)`. The network runs in evaluation mode, as in
    all functions of this module.

    Ids of tokens have no gradient, so a score of a text is attributed to the vectors of its tokens:
    with `at="embedding"` the result is (batch, time, features), and its sum over the features has
    one value per token. Positions that the score does not depend on, such as padding, get 0.

    Args:
      net: Network.
      params, state: Params and state of the network.
      x: Input of the network: an array (batch, ...), or a tuple or dict of arrays, such as
        (x, lengths). Without `at`, exactly one of its arrays holds floats.
      target: Unit of the score. For an output (batch, classes) a class, or one per example,
        (batch,); None takes the class with the largest output. For any output an index into the
        output of one example, such as (4, 5, 2), row 4 and column 5 of map 2; slices are summed.
      path: Path of the layer with this output, as `activations` names it; None is the network.
      at: Path of the layer to whose output the score is attributed, such as "embedding", which has
        one array of floats in its output; None is the input. Paths inside `jn.cast` exist as well.

    Returns:
      An array of the shape of the floats in x, or in the output of the layer `at`; float32 if these
      have 16 bits.

    Raises:
      TypeError: If `x` does not hold exactly one array of floats and `at` is None.
      TypeError: If `target`, `path` or `at` has the wrong type.
      TypeError, ValueError: As in `net.apply`.
      ValueError: If `path`, `at` or `target` does not exist, or `at` runs in a loop or after
        `path`.

    Example:
      >>> net = jn.serial(lambda x: jnp.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1]], 1))
      >>> x = jnp.array([[3.0, 4.0], [3.0, 4.0]])
      >>> saliency(net, {}, {}, x, target=[0, 1]).tolist()  # of x0², and of x0 x1
      [[6.0, 0.0], [4.0, 3.0]]

      Of a text, here the sum of the vectors of its tokens:

      >>> net = jn.serial(jn.embedding(5, 2), lambda x: x.sum(1))
      >>> params, state = net.init(jax.random.key(0), jn.spec((1, 3), jnp.int32))
      >>> ids = jnp.array([[4, 0, 2]])
      >>> saliency(net, params, state, ids, target=1, at="embedding").tolist()
      [[[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]]

    Reference: Simonyan, Vedaldi and Zisserman 2013, "Deep Inside Convolutional Networks:
    Visualising Image Classification Models and Saliency Maps".
    """
    chosen = choose("saliency", net, params, state, x, target, path, at)
    return _gradient(*chosen.arguments)


@on_auto_axes
def integrated_gradients(
    net: Layer,
    params: Params,
    state: State,
    x: PyTree,
    target: Any = None,
    *,
    baseline: Any = 0.0,
    steps: int = 32,
    path: str | None = None,
    at: str | None = None,
) -> jax.Array:
    """Return the contribution of each input entry to a score, compared with a baseline.

    It is the mean gradient along the straight line from the baseline to x, times x - baseline. The
    sum over an example is its score minus the baseline's score, up to the error of the quadrature
    (Gauss-Legendre, exact for scores that are polynomials of degree 2 * steps along the line).
    Entries equal to the baseline get 0: with a baseline of 0, black pixels contribute nothing.

    With `at`, the line goes from the baseline's output of that layer to the output of x.

    Args:
      net, params, state, x, target, path, at: Arguments of `saliency`.
      baseline: Input without information: a number, or an array that broadcasts to the floats in x.
        With `at`, a number is the value of all entries of the layer's output; anything else is an
        input in the form of x, of the same batch size or of one example, whose output of the layer
        is the baseline, such as the ids of a text of padding.
      steps: Number of gradients along the line, at least 1.

    Returns:
      An array of the shape of the floats in x, or in the output of the layer `at`, in the unit of
      the score; float32 if these have 16 bits.

    Raises:
      TypeError, ValueError: As in `saliency`, or if `steps` is below 1 or `baseline` does not
        broadcast to x.
      TypeError: If `at` is given and `baseline` is neither a number nor in the form of x.

    Example:
      >>> net = jn.serial(lambda x: x[:, :1] * x[:, 1:])
      >>> found = integrated_gradients(net, {}, {}, jnp.array([[3.0, 4.0]]))
      >>> found.round(2).tolist()  # 3 * 4 = 12 = 6 + 6
      [[6.0, 6.0]]

      Of a text, compared with a text of padding, id 0:

      >>> net = jn.serial(jn.embedding(3, 1), lambda x: jnp.square(x.sum(1)))
      >>> params = {"embedding": {"embedding": jnp.array([[0.5], [1.0], [2.0]])}}
      >>> ids = jnp.array([[2, 1, 0]])
      >>> padding = jnp.zeros_like(ids)
      >>> options = {"baseline": padding, "at": "embedding"}
      >>> found = integrated_gradients(net, params, {}, ids, 0, **options)
      >>> found[0, :, 0].round(2).tolist()  # 3.5² - 1.5² = 10 = 7.5 + 2.5
      [7.5, 2.5, 0.0]

    Reference: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks".
    """
    who = "integrated_gradients"
    at_least(who, "steps", steps)
    chosen = choose(who, net, params, state, x, target, path, at)
    baseline = _baseline(who, chosen, baseline)
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    fractions = jnp.asarray(nodes / 2 + 0.5, baseline.dtype)
    points = fractions, jnp.asarray(weights / 2, baseline.dtype)
    return _integrated(*chosen.arguments, baseline, points)


def _baseline(who: str, chosen: Chosen, baseline: Any) -> jax.Array:
    """Return the baseline of the array that the score is attributed to."""
    shape, dtype = chosen.array.shape, jnp.promote_types(chosen.array.dtype, jnp.float32)
    if isinstance(baseline, int | float):
        within(who, "baseline", baseline, "(-inf, inf)")
        return jnp.asarray(baseline, dtype)
    if chosen.place.at is None:
        baseline = as_array(who, "baseline", baseline, dtype="reals").astype(dtype)
        what = "the baseline"
    else:
        if jax.tree.structure(baseline) != jax.tree.structure(chosen.x):
            raise TypeError(
                f"{who}: with at=, baseline must be a number, or an input in the form of x, "
                f"{describe(chosen.x)}, got {describe(baseline):.60}"
            )
        baseline = input_arrays(who, "baseline", baseline)
        baseline = _array(chosen.net, chosen.params, chosen.state, baseline, chosen.place)
        what = f"the output of {chosen.place.at} for the baseline"
    sizes = zip(baseline.shape[::-1], shape[::-1], strict=False)
    if baseline.ndim > len(shape) or any(size not in (1, there) for size, there in sizes):
        there = "x" if chosen.place.at is None else "the output for x"
        raise ValueError(f"{who}: {what} must broadcast to {there}, {shape}, got {baseline.shape}")
    return baseline


@on_auto_axes
def occlusion(
    net: Layer,
    params: Params,
    state: State,
    x: PyTree,
    target: Any = None,
    *,
    size: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    value: Any = 0.0,
    path: str | None = None,
    at: str | None = None,
) -> jax.Array:
    """Return the drop of a score when a patch of the input is covered.

    The patch moves over the input in strides and is cut at the end of each axis. Each position gets
    the mean drop over the patches that cover it. It takes one forward pass per position.

    Args:
      net, params, state, target, path, at: Arguments of `saliency`.
      x: Input of `saliency`. The array of floats in it, or in the output of the layer `at`, is a
        table (batch, features) or has channels, (batch, *space, channels): a series, images,
        volumes or the vectors of tokens. Further arrays have the batch axis first.
      size: Size of the patch. A number covers a square or cube of all axes of *space, with all
        channels: pixels of an image, steps of a series, features of a table. A sequence has a
        number for each axis after the batch axis; axes at the end that it leaves out are covered
        whole. (rows, columns) is a patch of an image, and (steps, 1) one channel of a series.
      strides: Strides between positions, at most `size`, which is the default (no overlap).
      value: Value of the patch: a number, or one per channel, (channels,), such as the mean of each
        feature of a table.

    Returns:
      (batch, *axes), the axes that `size` has a number for, in the unit of the score: (batch,
      features) for a table, (batch, time) for a series, (batch, height, width) for images.

    Raises:
      TypeError, ValueError: As in `saliency`, or if `size` and `strides` do not fit the axes of the
        array, or do not cover every position.

    Example:
      >>> net = jn.serial(lambda x: x.sum((1, 2)))
      >>> image = jnp.arange(12.0).reshape(1, 2, 6, 1)
      >>> occlusion(net, {}, {}, image, size=(2, 3))[0].tolist()  # 0+1+2+6+7+8, 3+4+5+9+10+11
      [[24.0, 24.0, 24.0, 42.0, 42.0, 42.0], [24.0, 24.0, 24.0, 42.0, 42.0, 42.0]]

      Of a table, feature by feature:

      >>> net = jn.serial(lambda x: x[:, :1] * x[:, 1:2] + x[:, 2:])
      >>> occlusion(net, {}, {}, jnp.array([[3.0, 4.0, 5.0]]), size=1).tolist()
      [[12.0, 12.0, 5.0]]

    Reference: Zeiler and Fergus 2013, "Visualizing and Understanding Convolutional Networks".
    """
    chosen = choose("occlusion", net, params, state, x, target, path, at)
    shape = chosen.array.shape
    patch, step = _patch(shape, size, strides)
    if isinstance(value, int | float):
        within("occlusion", "value", value, "(-inf, inf)")
    form = "()" if np.ndim(value) == 0 else "(channels,)"
    gray = on_host("occlusion", "value", value, form, sizes={"channels": shape[-1]})
    gray = jnp.asarray(gray, jnp.promote_types(chosen.array.dtype, jnp.float32))
    if shape[0] != chosen.output.shape[0]:
        raise ValueError(
            f"occlusion: the patch covers one example at a time, but {shape} has another first "
            f"axis than the output with the score, {chosen.output.shape}"
        )
    axes = zip(shape[1:], patch, step, strict=False)
    covers = tuple(_covers(pixels, size, stride) for pixels, size, stride in axes)
    return _drops(*chosen.arguments, covers, gray)


def _patch(shape: tuple[int, ...], size: Any, strides: Any) -> tuple[tuple[int, ...], ...]:
    """Return size and strides of the patch, one number for each axis over which it moves."""
    if len(shape) < 2:
        raise ValueError(
            "occlusion: expected a table (batch, features) or (batch, *space, channels), got "
            f"{shape}"
        )
    space = max(1, len(shape) - 2)
    patch = _of_axes("size", size, space, len(shape) - 1)
    step = patch if strides is None else _of_axes("strides", strides, len(patch), len(shape) - 1)
    fits = [1 <= s <= n <= most for s, n, most in zip(step, patch, shape[1:], strict=False)]
    if len(step) != len(patch) or not all(fits):
        raise ValueError(
            "occlusion: expected 1 <= strides <= size <= the size of the axis, so that every "
            f"position is covered, got strides {step}, size {patch} and axes "
            f"{shape[1 : 1 + len(patch)]}"
        )
    return patch, step


def _of_axes(what: str, value: Any, count: int, most: int) -> tuple[int, ...]:
    """Return one number of at least 1 for each axis, of which a single number is all."""
    numbers = tuple(value) if isinstance(value, tuple | list) else (value,) * count
    if not 1 <= len(numbers) <= most:
        axes = "1" if most == 1 else f"1 to {most}"
        raise ValueError(
            f"occlusion: {what} must be a number, or one for each of {axes} axes after the batch "
            f"axis, got {value}"
        )
    for number in numbers:
        at_least("occlusion", what, number)
    return numbers


@compiled_for(static_argnums=3)
def _array(net, params, state, x, place):
    return array_at(net, params, state, x, place)


@compiled_for(static_argnums=4)
def _gradient(net, params, state, x, mask, place):
    array = array_at(net, params, state, x, place)
    return jax.grad(lambda array: score(net, params, state, x, mask, place, array).sum())(array)


@compiled_for(static_argnums=4)
def _integrated(net, params, state, x, mask, place, baseline, points):
    array = array_at(net, params, state, x, place)

    def total(array):
        return score(net, params, state, x, mask, place, array).sum()

    def add(mean, point):
        fraction, weight = point
        interpolated = baseline + fraction * (array - baseline)
        return mean + weight * jax.grad(total)(interpolated), None

    mean, _ = jax.lax.scan(add, jnp.zeros_like(array), points)
    # Padding has no gradient, and may be NaN.
    return jnp.where(mean == 0, 0, (array - baseline) * mean)


@compiled_for(static_argnums=4)
def _drops(net, params, state, x, mask, place, covers, value):
    """Return the mean drop of each position over the patches that cover it."""
    array = array_at(net, params, state, x, place)
    examples, places = len(array), math.prod(map(len, covers))
    mask = jnp.broadcast_to(mask, (examples, *mask.shape[1:]))

    def covered(pairs):
        index, patch = pairs // (places + 1), pairs % (places + 1)
        cover = (patch < places)[(...,) + (None,) * (array.ndim - 1)]  # the last covers nothing
        starts = jnp.unravel_index(jnp.minimum(patch, places - 1), tuple(map(len, covers)))
        for axis, (along, start) in enumerate(zip(covers, starts, strict=True), 1):
            others = [i for i in range(1, array.ndim) if i != axis]
            cover &= jnp.expand_dims(along[start], others)
        seen = jnp.where(cover, value, array[index])
        rows = jax.tree.map(lambda leaf: leaf[index] if leaf.shape[:1] == (examples,) else leaf, x)
        return score(net, params, state, rows, mask[index], place, seen)

    # The last chunk is padded with pairs from the beginning.
    count = examples * (places + 1)
    size = min(CHUNK, count)
    pairs = jnp.resize(jnp.arange(count), (math.ceil(count / size), size))
    scores = jax.lax.map(covered, pairs).reshape(-1)[:count].reshape(examples, places + 1)
    drops = scores[:, -1:] - scores[:, :-1]
    sums = drops.reshape(examples, *map(len, covers))
    patches = jnp.ones(())  # that cover each position
    for along in covers:
        along = along.astype(drops.dtype)
        sums = jnp.tensordot(sums, along, ((1,), (0,)))
        patches = jnp.multiply.outer(patches, along.sum(0))
    return sums / patches[None]


def _covers(pixels: int, size: int, step: int) -> jax.Array:
    """Return whether the patch at each position covers each pixel, (positions, pixels)."""
    positions = 1 - (size - pixels) // step
    first = step * np.arange(positions)[:, None]
    pixel = np.arange(pixels)
    return jnp.asarray((pixel >= first) & (pixel < first + size))
