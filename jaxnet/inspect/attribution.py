"""What in an input speaks for an output: gradients, integrated gradients and occlusion."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.inspect.activations import run

CHUNK = 128  # covered images that go through the network at a time


def saliency(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array | np.ndarray,
    target: Any = None,
    *,
    path: str | None = None,
) -> jax.Array:
    """The gradient of a score with respect to the input: which change of it would count most.

    Signed, one number for each number of x. The paper's map is the largest absolute value over the
    channels, `jnp.abs(gradient).max(-1)`. In evaluation mode, as everything in this module.

    Args:
      net: the network; params, state: of it.
      x: inputs of floats, (batch, ...).
      target: whose score. A class, or one an example, (batch,), where the output is
        (batch, classes); None takes the largest. Or an index into the output of one example, such
        as (4, 5, 2), the unit in row 4, column 5 of map 2; what a slice picks is summed up.
      path: of the layer whose output that is, as `activations` names it; None is the network.

    Returns:
      An array of the shape of x.

    Raises:
      TypeError: for an x that is not of floats.
      ValueError: for a path or target that is not there.

    Example:
      >>> net = jn.dense(3)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 4)))
      >>> gradient = saliency(net, params, state, jnp.ones((2, 4)), target=[0, 2])
      >>> bool(jnp.allclose(gradient, params["kernel"].T[jnp.array([0, 2])]))
      True

    Reference: Simonyan, Vedaldi and Zisserman 2013, "Deep Inside Convolutional Networks:
    Visualising Image Classification Models and Saliency Maps".
    """
    x, chosen = choose("saliency", net, params, state, x, target, path)
    return _gradient(net, params, state, x, chosen, path)


def integrated_gradients(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array | np.ndarray,
    target: Any = None,
    *,
    baseline: Any = 0.0,
    steps: int = 32,
    path: str | None = None,
) -> jax.Array:
    """What each number of the input adds to a score, beyond that of a baseline.

    The mean gradient on the straight way from the baseline to x, times the way. The sum over an
    example is its score minus that of the baseline, up to the error of the mean, which is taken by
    Gauss-Legendre quadrature: exact where the score is a polynomial of degree 2 steps along the
    way, and near it for rectified networks. Where the baseline has the value of x, nothing
    is attributed: with 0, black pixels have no part.

    Args:
      net, params, state, x, target, path: as for `saliency`.
      baseline: an input that says nothing: a number, or an array that broadcasts to x.
      steps: gradients a way, at least 1.

    Returns:
      An array of the shape of x, in the unit of the score.

    Raises:
      TypeError, ValueError: as `saliency`; for no steps; for a baseline of another shape.

    Example:
      >>> net = jn.serial(lambda x: x[:, :1] * x[:, 1:])
      >>> found = integrated_gradients(net, {}, {}, jnp.array([[3.0, 4.0]]))  # 12 = 6 + 6
      >>> bool(jnp.allclose(found, 6))
      True

    Reference: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks".
    """
    if steps < 1:
        raise ValueError(f"integrated_gradients: steps must be at least 1, got {steps}")
    x, chosen = choose("integrated_gradients", net, params, state, x, target, path)
    baseline = jnp.asarray(baseline, x.dtype)
    if np.broadcast_shapes(baseline.shape, x.shape) != x.shape:
        raise ValueError(
            f"integrated_gradients: the baseline {baseline.shape} must broadcast to x, {x.shape}"
        )
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    points = jnp.asarray(nodes / 2 + 0.5, x.dtype), jnp.asarray(weights / 2, x.dtype)
    return _integrated(net, params, state, x, chosen, path, baseline, points)


def occlusion(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array | np.ndarray,
    target: Any = None,
    *,
    size: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    value: Any = 0.0,
    path: str | None = None,
) -> jax.Array:
    """How much a score drops where a patch of the image is covered.

    The patch moves over the image in strides, cut at its right and lower border. A pixel has the
    mean drop of the patches that cover it. It costs a forward pass for every place of the patch.

    Args:
      net, params, state, target, path: as for `saliency`.
      x: images of floats, (batch, height, width, channels).
      size: of the patch in pixels, or (rows, columns).
      strides: from one place to the next, at most size; by default size, so that no two overlap.
      value: what covers: a number, or one a channel, (channels,).

    Returns:
      (batch, height, width), in the unit of the score.

    Raises:
      TypeError, ValueError: as `saliency`; for other axes; for a size or strides that do not fit.

    Example:
      >>> net = jn.serial(lambda x: x.sum((1, 2)))
      >>> image = jnp.arange(12.0).reshape(1, 2, 6, 1)
      >>> occlusion(net, {}, {}, image, size=(2, 3))[0].tolist()  # 0+1+2+6+7+8, 3+4+5+9+10+11
      [[24.0, 24.0, 24.0, 42.0, 42.0, 42.0], [24.0, 24.0, 24.0, 42.0, 42.0, 42.0]]

    Reference: Zeiler and Fergus 2013, "Visualizing and Understanding Convolutional Networks".
    """
    x, chosen = choose("occlusion", net, params, state, x, target, path)
    if x.ndim != 4:
        raise ValueError(f"occlusion: x must be (batch, height, width, channels), got {x.shape}")
    patch = _pair("size", size)
    step = patch if strides is None else _pair("strides", strides)
    for n, s, pixels in zip(patch, step, x.shape[1:3], strict=True):
        if not 1 <= s <= n <= pixels:
            raise ValueError(
                "occlusion: needs 1 <= strides <= size <= pixels, so that every pixel is covered, "
                f"got strides {step}, size {patch} and {x.shape[1]}×{x.shape[2]} pixels"
            )
    covers = [_covers(*of_axis) for of_axis in zip(x.shape[1:3], patch, step, strict=True)]
    rows, columns = covers  # each (places, pixels), whether a patch there covers it
    value = jnp.asarray(value, x.dtype)
    drops = _drops(net, params, state, x, chosen, path, rows, columns, value)
    sums = jnp.einsum("nij,ih,jw->nhw", drops, rows.astype(x.dtype), columns.astype(x.dtype))
    return sums / (rows.sum(0)[:, None] * columns.sum(0)).astype(x.dtype)


def choose(
    who: str, net: Layer, params: Params, state: State, x: Any, target: Any, path: str | None
) -> tuple[jax.Array, jax.Array]:
    """x as an array of floats, and which entries of the output make the score: booleans.

    They have the shape of the output, or 1 for the batch.

    Example:
      >>> net = jn.serial(lambda x: x[:, ::2])
      >>> choose("who", net, {}, {}, jnp.array([[3.0, 4.0, 5.0]]), None, None)[1].tolist()
      [[False, True]]
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{who}: x must be of floats, got {x.dtype}; write x / 255 for images of bytes"
        )
    y = jax.eval_shape(lambda x: output_at(net, params, state, x, path), x)
    where = net.name if path is None else f"{net.name}/{path}"
    if not hasattr(y, "shape"):
        raise ValueError(
            f"{who}: {where} gives a {type(y).__name__}, not one array; choose a layer by its path"
        )
    if isinstance(target, tuple):
        chosen = np.zeros(y.shape[1:], bool)
        try:
            chosen[target] = True
        except IndexError:
            raise ValueError(
                f"{who}: target {target} is no index into what {where} gives for one example, "
                f"{y.shape[1:]}"
            ) from None
        return x, jnp.asarray(chosen)[None]
    if len(y.shape) != 2:
        raise ValueError(
            f"{who}: {where} gives {y.shape}, not (batch, classes): choose units by an index into "
            "the output of one example, such as target=(4, 5, 2)"
        )
    classes = y.shape[1]
    if target is None:
        best = _output(net, params, state, x, path).argmax(1)
    else:
        best = np.asarray(target)
        if best.dtype.kind not in "iu" or best.shape not in ((), y.shape[:1]):
            raise ValueError(
                f"{who}: target must be a class, or one for each of {y.shape[0]} examples, got "
                f"{best.dtype} of shape {best.shape}"
            )
        if best.min() < 0 or best.max() >= classes:
            raise ValueError(
                f"{who}: target must be in 0..{classes - 1}, as {where} has {classes} outputs, got "
                f"{best.min()}..{best.max()}"
            )
    return x, jnp.asarray(best).reshape(-1, 1) == jnp.arange(classes)


def output_at(net: Layer, params: Params, state: State, x: jax.Array, path: str | None) -> Any:
    """The output of a network, or of a layer inside, in evaluation mode.

    Raises:
      ValueError: for a path that is not there.

    Example:
      >>> net = jn.serial(jn.dense(7, name="hidden"), jnp.tanh, jn.dense(3))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 5)))
      >>> output_at(net, params, state, jnp.ones((2, 5)), "hidden").shape
      (2, 7)
    """
    return shifted(net, params, state, x, path, None)[1]


def shifted(
    net: Layer, params: Params, state: State, x: jax.Array, path: str | None, shift: Any
) -> tuple[Any, Any]:
    """The output of a network to whose layer something is added; and the output of that layer.

    The gradient with respect to the shift is that with respect to the layer's output.
    """
    names: list[str] = []
    found = []

    def note(name, x, y):
        names.append(name)
        if name == (path or ""):
            y = y if shift is None else y + shift
            found.append(y)
        return y

    y, _ = run(net, params, state, x, None, False, note)
    if not found:
        there = ", ".join(name for name in names if name) or "none, as it is a single layer"
        raise ValueError(f"{net.name} has no layer {path!r} inside; it has {there}")
    return y, found[0]


def score(net, params, state, x, chosen, path) -> jax.Array:
    """The sum of the chosen outputs, (batch,)."""
    return total(output_at(net, params, state, x, path), chosen)


def total(y: jax.Array, chosen: jax.Array) -> jax.Array:
    """Of each example: (batch, ...) -> (batch,). An output that is not chosen may be infinite."""
    return jnp.where(chosen, y, 0).reshape(y.shape[0], -1).sum(1)


@partial(jax.jit, static_argnums=(0, 4))
def _output(net, params, state, x, path):
    return output_at(net, params, state, x, path)


@partial(jax.jit, static_argnums=(0, 5))
def _gradient(net, params, state, x, chosen, path):
    return jax.grad(lambda x: score(net, params, state, x, chosen, path).sum())(x)


@partial(jax.jit, static_argnums=(0, 5))
def _integrated(net, params, state, x, chosen, path, baseline, points):
    def add(mean, point):
        share, weight = point
        here = baseline + share * (x - baseline)
        return mean + weight * _gradient(net, params, state, here, chosen, path), None

    mean, _ = jax.lax.scan(add, jnp.zeros_like(x), points)
    return (x - baseline) * mean


@partial(jax.jit, static_argnums=(0, 5))
def _drops(net, params, state, x, chosen, path, rows, columns, value):
    """Of each image and place of the patch, (batch, rows, columns)."""
    places = len(rows) * len(columns)
    count = len(x) * places
    chosen = jnp.broadcast_to(chosen, (len(x), *chosen.shape[1:]))

    def covered(pairs):
        image, place = pairs // places, pairs % places
        i, j = place // len(columns), place % len(columns)
        cover = (rows[i][:, :, None] & columns[j][:, None])[..., None]  # (chunk, height, width, 1)
        seen = jnp.where(cover, value, x[image])
        return score(net, params, state, seen, chosen[image], path)

    # The last chunk is filled up with places from the beginning.
    size = min(CHUNK, count)
    pairs = jnp.resize(jnp.arange(count), (-(-count // size), size))
    scores = jax.lax.map(covered, pairs).reshape(-1)[:count]
    whole = score(net, params, state, x, chosen, path)
    return (whole[:, None] - scores.reshape(len(x), places)).reshape(-1, len(rows), len(columns))


def _covers(pixels: int, size: int, step: int) -> jax.Array:
    """Whether the patch at each of its places covers each pixel, (places, pixels)."""
    first = step * np.arange(1 - (size - pixels) // step)[:, None]
    return jnp.asarray((np.arange(pixels) >= first) & (np.arange(pixels) < first + size))


def _pair(what: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise ValueError(f"occlusion: {what} is a number or (rows, columns), got {value}")
    return pair
