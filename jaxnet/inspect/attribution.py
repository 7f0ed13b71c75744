"""Attribution: which input features contribute to an output."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.inspect.activations import run
from jaxnet.nets import check_net
from jaxnet.services.checks import a_pair, as_array, at_least, check_type, on_host, within
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import compiled_for

CHUNK = 128  # covered images per forward pass


@on_auto_axes
def saliency(
    net: Layer,
    params: Params,
    state: State,
    x: jax.Array | np.ndarray,
    target: Any = None,
    *,
    path: str | None = None,
) -> jax.Array:
    """Return the gradient of a score with respect to the input.

    It is signed, with one value per entry of x. The paper's saliency map is its largest absolute
    value over the channels, `jnp.abs(gradient).max(-1)`. The network runs in evaluation mode, as in
    all functions of this module.

    Args:
      net: Network.
      params, state: Params and state of the network.
      x: Inputs of floats, (batch, ...).
      target: Unit of the score. For an output (batch, classes) a class, or one per example,
        (batch,); None takes the class with the largest output. For any output an index into the
        output of one example, such as (4, 5, 2), row 4 and column 5 of map 2; slices are summed.
      path: Path of the layer with this output, as `activations` names it; None is the network.

    Returns:
      An array of the shape of x.

    Raises:
      TypeError: If `x` is not of floats, or `target` or `path` has the wrong type.
      TypeError, ValueError: As in `net.apply`.
      ValueError: If `path` or `target` does not exist.

    Example:
      >>> net = jn.serial(lambda x: jnp.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1]], 1))
      >>> x = jnp.array([[3.0, 4.0], [3.0, 4.0]])
      >>> saliency(net, {}, {}, x, target=[0, 1]).tolist()  # of x0², and of x0 x1
      [[6.0, 0.0], [4.0, 3.0]]

    Reference: Simonyan, Vedaldi and Zisserman 2013, "Deep Inside Convolutional Networks:
    Visualising Image Classification Models and Saliency Maps".
    """
    net, params, state, x, chosen = choose("saliency", net, params, state, x, target, path)
    return _gradient(net, params, state, x, chosen, path)


@on_auto_axes
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
    """Return the contribution of each input entry to a score, compared with a baseline.

    It is the mean gradient along the straight line from the baseline to x, times x - baseline. The
    sum over an example is its score minus the baseline's score, up to the error of the quadrature
    (Gauss-Legendre, exact for scores that are polynomials of degree 2 * steps along the line).
    Entries equal to the baseline get 0: with a baseline of 0, black pixels contribute nothing.

    Args:
      net, params, state, x, target, path: Arguments of `saliency`.
      baseline: Input without information: a number, or an array that broadcasts to x.
      steps: Number of gradients along the line, at least 1.

    Returns:
      An array of the shape of x, in the unit of the score.

    Raises:
      TypeError, ValueError: As in `saliency`, or if `steps` is below 1 or `baseline` does not
        broadcast to x.

    Example:
      >>> net = jn.serial(lambda x: x[:, :1] * x[:, 1:])
      >>> found = integrated_gradients(net, {}, {}, jnp.array([[3.0, 4.0]]))
      >>> found.round(2).tolist()  # 3 * 4 = 12 = 6 + 6
      [[6.0, 6.0]]

    Reference: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks".
    """
    who = "integrated_gradients"
    at_least(who, "steps", steps)
    net, params, state, x, chosen = choose(who, net, params, state, x, target, path)
    if isinstance(baseline, int | float):
        within(who, "baseline", baseline, "(-inf, inf)")
        baseline = jnp.asarray(baseline, x.dtype)
    baseline = as_array(who, "baseline", baseline, dtype="reals").astype(x.dtype)
    shapes = zip(baseline.shape[::-1], x.shape[::-1], strict=False)
    if baseline.ndim > x.ndim or any(size not in (1, there) for size, there in shapes):
        raise ValueError(
            f"{who}: the baseline must broadcast to x, {x.shape}, got {baseline.shape}"
        )
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    fractions = jnp.asarray(nodes / 2 + 0.5, x.dtype)
    points = fractions, jnp.asarray(weights / 2, x.dtype)
    return _integrated(net, params, state, x, chosen, path, baseline, points)


@on_auto_axes
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
    """Return the drop of a score when a patch of the image is covered.

    The patch moves over the image in strides and is cut at the right and lower border. Each pixel
    gets the mean drop over the patches that cover it. It takes one forward pass per position.

    Args:
      net, params, state, target, path: Arguments of `saliency`.
      x: Images of floats, (batch, height, width, channels).
      size: Size of the patch in pixels, or (rows, columns).
      strides: Strides between positions, at most `size`, which is the default (no overlap).
      value: Value of the patch: a number, or one per channel, (channels,).

    Returns:
      (batch, height, width), in the unit of the score.

    Raises:
      TypeError, ValueError: As in `saliency`, or if `x` has the wrong rank, or `size` and `strides`
        do not cover every pixel.

    Example:
      >>> net = jn.serial(lambda x: x.sum((1, 2)))
      >>> image = jnp.arange(12.0).reshape(1, 2, 6, 1)
      >>> occlusion(net, {}, {}, image, size=(2, 3))[0].tolist()  # 0+1+2+6+7+8, 3+4+5+9+10+11
      [[24.0, 24.0, 24.0, 42.0, 42.0, 42.0], [24.0, 24.0, 24.0, 42.0, 42.0, 42.0]]

    Reference: Zeiler and Fergus 2013, "Visualizing and Understanding Convolutional Networks".
    """
    patch = a_pair("occlusion", "size", size, "(rows, columns)")
    step = patch if strides is None else a_pair("occlusion", "strides", strides, "(rows, columns)")
    x = as_array("occlusion", "x", x, "(batch, height, width, channels)")
    net, params, state, x, chosen = choose("occlusion", net, params, state, x, target, path)
    pixels = x.shape[1:3]
    if any(not s <= n <= most for n, s, most in zip(patch, step, pixels, strict=True)):
        raise ValueError(
            "occlusion: expected 1 <= strides <= size <= pixels, so that every pixel is "
            f"covered, got strides {step}, size {patch} and {pixels[0]}×{pixels[1]} pixels"
        )
    # Each is (positions, pixels): whether the patch at a position covers a pixel.
    rows = _covers(pixels[0], patch[0], step[0])
    columns = _covers(pixels[1], patch[1], step[1])
    if isinstance(value, int | float):
        within("occlusion", "value", value, "(-inf, inf)")
    shape = "()" if np.ndim(value) == 0 else "(channels,)"
    gray = on_host("occlusion", "value", value, shape, sizes={"channels": x.shape[-1]})
    gray = jnp.asarray(gray, x.dtype)
    return _drops(net, params, state, x, chosen, path, rows, columns, gray)


def choose(
    who: str, net: Layer, params: Params, state: State, x: Any, target: Any, path: str | None
) -> tuple[Layer, Params, State, jax.Array, jax.Array]:
    """Return net, params, state, x as floats, and a mask of the output entries in the score.

    The mask has the shape of the output, or 1 for the batch.

    Example:
      >>> net = jn.serial(lambda x: x[:, ::2])
      >>> choose("who", net, {}, {}, jnp.array([[3.0, 4.0, 5.0]]), None, None)[-1].tolist()
      [[False, True]]
    """
    net, params, state = check_net(who, net, params, state, x)
    check_type(who, "path", path, str | None, "the name of a layer inside")
    x = as_array(who, "x", x, "(batch, ...)", "booleans or numbers", empty=False)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{who}: x must have a float dtype, got {x.dtype}; for images of bytes pass x / 255"
        )
    y = jax.eval_shape(lambda x: output_at(net, params, state, x, path), x)
    where = net.name if path is None else f"{net.name}/{path}"
    if not hasattr(y, "shape"):
        raise ValueError(
            f"{who}: the output of {where} must be one array, got a {type(y).__name__}; choose a "
            "layer with path=..."
        )
    if isinstance(target, tuple):
        if not all(isinstance(place, slice | int | np.integer) for place in target):
            raise TypeError(
                f"{who}: target must be an index of integers and slices, got {target!r:.60}"
            )
        mask = marked(f"{who}: target {target}", where, y.shape[1:], target)
        return net, params, state, x, jnp.asarray(mask)[None]
    if len(y.shape) != 2:
        raise ValueError(
            f"{who}: the output of {where} has shape {y.shape}, not (batch, classes); choose a "
            "unit by its index in the output of one example, such as target=(4, 5, 2)"
        )
    if target is None:
        chosen = _best(net, params, state, x, path)
    else:
        chosen = _of_classes(who, where, target, *y.shape)
    return net, params, state, x, chosen


def _of_classes(who: str, where: str, target: Any, examples: int, classes: int) -> jax.Array:
    """Return a mask of the output of one class, or of a class for each example."""
    target = on_host(who, "target", target, dtype="booleans or numbers")
    if target.dtype.kind not in "iu" or target.shape not in ((), (examples,)):
        raise ValueError(
            f"{who}: target must be a class, or one for each of {examples} examples, got "
            f"{target.dtype} of shape {target.shape}"
        )
    if target.min() < 0 or target.max() >= classes:
        raise ValueError(
            f"{who}: target must be in 0..{classes - 1}, as {where} has {classes} outputs, got "
            f"{target.min()}..{target.max()}"
        )
    return jnp.asarray(target.reshape(-1, 1) == np.arange(classes))


def marked(what: str, where: str, shape: tuple[int, ...], index: tuple) -> np.ndarray:
    """Return booleans of the shape of one example's output, True at an index of it."""
    chosen = np.zeros(shape, bool)
    try:
        chosen[index] = True
    except IndexError:
        raise ValueError(
            f"{what} is out of range for {where}, whose output for one example has shape {shape}"
        ) from None
    return chosen


def output_at(net: Layer, params: Params, state: State, x: jax.Array, path: str | None) -> Any:
    """Return the output of a network, or of a layer inside, in evaluation mode.

    Raises:
      ValueError: If `path` does not exist.

    Example:
      >>> net = jn.serial(jn.dense(7, name="hidden"), jnp.tanh, jn.dense(3))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 5)))
      >>> output_at(net, params, state, jnp.ones((2, 5)), "hidden").shape
      (2, 7)
    """
    _, output = shifted(net, params, state, x, path, None)
    return output


def shifted(
    net: Layer, params: Params, state: State, x: jax.Array, path: str | None, shift: Any
) -> tuple[Any, Any]:
    """Return a network's output after a shift of one layer's output, and that layer's output.

    The gradient with respect to the shift is the gradient with respect to the layer's output.
    """
    wanted = path or ""
    outputs: dict[str, Any] = {}

    def note(name, x, y):
        is_wanted = name == wanted and shift is not None
        outputs[name] = y + shift if is_wanted else y
        return outputs[name]

    y, _ = run(net, params, state, x, None, False, note)
    if wanted not in outputs:
        there = ", ".join(filter(None, outputs)) or "none, it is a single layer"
        raise ValueError(f"{net.name} has no layer {path!r}; layers inside: {there}")
    return y, outputs[wanted]


def score(net, params, state, x, chosen, path) -> jax.Array:
    """Sum the chosen outputs, (batch,)."""
    return total(output_at(net, params, state, x, path), chosen)


def total(y: jax.Array, chosen: jax.Array) -> jax.Array:
    """Sum the chosen outputs per example; other outputs may be infinite."""
    return jnp.where(chosen, y, 0).sum(range(1, y.ndim))


@compiled_for(static_argnums=3)
def _best(net, params, state, x, path):
    """Return a mask of the largest output of each example, (batch, classes)."""
    y = output_at(net, params, state, x, path)
    return y.argmax(1, keepdims=True) == jnp.arange(y.shape[1])[None]


@compiled_for(static_argnums=4)
def _gradient(net, params, state, x, chosen, path):
    return jax.grad(lambda x: score(net, params, state, x, chosen, path).sum())(x)


@compiled_for(static_argnums=4)
def _integrated(net, params, state, x, chosen, path, baseline, points):
    def add(mean, point):
        fraction, weight = point
        interpolated = baseline + fraction * (x - baseline)
        return mean + weight * _gradient(net, params, state, interpolated, chosen, path), None

    mean, _ = jax.lax.scan(add, jnp.zeros_like(x), points)
    return (x - baseline) * mean


@compiled_for(static_argnums=4)
def _drops(net, params, state, x, chosen, path, rows, columns, value):
    """Return the mean drop of each pixel over the positions of the patch that cover it."""
    places = len(rows) * len(columns)
    count = len(x) * places
    chosen = jnp.broadcast_to(chosen, (len(x), *chosen.shape[1:]))

    def covered(pairs):
        image, place = pairs // places, pairs % places
        i, j = place // len(columns), place % len(columns)
        cover = rows[i][:, :, None] & columns[j][:, None]  # (chunk, height, width)
        cover = cover[..., None]
        seen = jnp.where(cover, value, x[image])
        return score(net, params, state, seen, chosen[image], path)

    # The last chunk is padded with positions from the beginning.
    size = min(CHUNK, count)
    chunks = math.ceil(count / size)
    pairs = jnp.resize(jnp.arange(count), (chunks, size))
    scores = jax.lax.map(covered, pairs).reshape(-1)[:count]
    full_score = score(net, params, state, x, chosen, path)
    drops = full_score[:, None] - scores.reshape(len(x), places)
    drops = drops.reshape(-1, len(rows), len(columns))
    sums = jnp.einsum("nij,ih,jw->nhw", drops, rows.astype(x.dtype), columns.astype(x.dtype))
    patches = jnp.multiply.outer(rows.sum(0), columns.sum(0))  # that cover each pixel
    return sums / patches[None].astype(x.dtype)


def _covers(pixels: int, size: int, step: int) -> jax.Array:
    """Return whether the patch at each position covers each pixel, (positions, pixels)."""
    positions = 1 - (size - pixels) // step
    first = step * np.arange(positions)[:, None]
    pixel = np.arange(pixels)
    return jnp.asarray((pixel >= first) & (pixel < first + size))
