"""Kernels in 8 or 4 bits: nets with integer params, and training that is aware of the rounding."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, as_layer
from jaxnet.core.errors import compare
from jaxnet.ops.precision import wide
from jaxnet.services.checks import abstract, at_least, check_dict, check_options, one_of
from jaxnet.services.paths import check_patterns
from jaxnet.services.trees import Memo, PyTree, signature
from jaxnet.transforms.kernels import Axes, axes_of, matching, replaced

WHERE = "*(kernel|embedding)"
LARGEST = {8: 127, 4: 7}  # symmetric ranges, so -128 and -8 are not used


def quantized(
    layer: Layer,
    bits: int = 8,
    *,
    where: str = WHERE,
    group: int | None = None,
    aware: bool = False,
) -> Layer:
    """Return a layer whose kernels are integers of 8 or 4 bits, with scales.

    A kernel is integers * scale, with integers from -127 to 127 or from -7 to 7. A scale is the
    largest absolute value among the numbers that share it, divided by 127 or 7, so 0 stays 0. It
    is shared by the inputs of one output channel, or by one row of a table of an embedding. With
    4 bits, at most `group` neighbors along the last axis of these share it.

    The layer computes in floats: it saves memory and storage, and saves time only if reading
    weights is the bottleneck. `jn.quantize` makes its params from the params of a trained net.

    Training is aware of the rounding with `aware=True`: the params are the float params of
    `layer`, and each call rounds them, in evaluation too. Gradients pass through the rounding as if
    it were not there (straight-through estimator). The integers of `jn.quantize` then give the same
    outputs as the floats that were trained.

    A trainer leaves integers as they are, and trains the other params. See `jn.lora` for more.

    Args:
      layer: Any layer.
      bits: Number of bits, 8 or 4.
      where: Pattern of the paths of the kernels; by default, all kernels and tables.
      group: Largest number of values that share a scale, at least 1; None is 32 with 4 bits and all
        with 8. The values belong to one output channel along the last input axis; if the axis is
        not longer than `group`, all inputs share the scale.
      aware: Whether params stay floats, to be trained.

    Params:
      The layer's params. Without `aware`, instead of each kernel (*inputs, *outputs) a dict with
      int8 (*inputs, *outputs), or int4, uint8 with two numbers per byte along the last axis; and
      scale, of the same number of axes, with sizes of 1 or the number of groups for the inputs. The
      table of an embedding (vocabulary, features) has a scale (vocabulary, groups). A table with 2
      or an odd number of features is never packed.

    Raises:
      ValueError: In `init`, if no param fits `where`, or if one that fits is not a kernel.

    Example:
      >>> net = jn.serial(jn.dense(64), jax.nn.relu, jn.dense(10, name="head"))
      >>> small = jn.quantized(net, 4)
      >>> params, state = small.init(jax.random.key(0), jn.spec((2, 128)))
      >>> jax.tree.map(jnp.shape, params["dense"])
      {'bias': (64,), 'kernel': {'int4': (128, 32), 'scale': (4, 64)}}

      Training that is aware of the rounding, and then the integers:

      >>> aware = jn.quantized(net, 4, aware=True)
      >>> params, state = aware.init(jax.random.key(0), jn.spec((2, 128)))
      >>> x = jax.random.normal(jax.random.key(1), (2, 128))
      >>> y, _ = aware.apply(params, state, x)
      >>> same, _ = small.apply(jn.quantize(small, params, x), state, x)
      >>> bool((y == same).all())
      True

    Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference"; Bengio et al. 2013, "Estimating or Propagating Gradients
    Through Stochastic Neurons", on straight-through estimators.
    """
    layer = as_layer(layer, "quantized", "layer")
    one_of("quantized", "bits", bits, LARGEST)
    check_patterns("quantized", "where", [where])
    check_options("quantized", aware=aware)
    if group is not None:
        at_least("quantized", "group", group)
    group = 32 if group is None and bits == 4 else group
    return _quantized(layer, _Options(bits, where, group, aware), layer, Memo())


def quantize(layer: Layer, params: Params, x: PyTree) -> Params:
    """Return the params of a quantized layer: the params of the layer inside, rounded.

    `jn.merge(layer, quantized_params)` is the inverse, up to the rounding.

    Args:
      layer: Layer made by `jn.quantized`.
      params: Params of the layer inside it, such as trained ones.
      x: Input or its spec, which tells inputs of a kernel from its outputs.

    Raises:
      TypeError: If `layer` is not made by `jn.quantized`, or is made with `aware=True`.
      ValueError: If `params` do not fit.

    Example:
      >>> net = jn.dense(3)
      >>> params = {"kernel": jnp.array([[0.5, 0, 1], [-1.27, 0, 1]]), "bias": jnp.zeros(3)}
      >>> small = jn.quantize(jn.quantized(net), params, jn.spec((4, 2)))
      >>> small["kernel"]["int8"].tolist(), small["kernel"]["scale"].shape
      ([[50, 0, 127], [-127, 0, 127]], (1, 3))
    """
    layer = as_layer(layer, "quantize", "layer")
    check_dict("quantize", "params", params)
    packed = getattr(layer.inside[1], "packed", None) if isinstance(layer.inside, tuple) else None
    if packed is None:
        made = "jn.quantized with aware=True" if layer.kind == "quantized" else f"a {layer.kind}"
        raise TypeError(
            f"quantize: layer must be jn.quantized(net), whose params are integers, got {made}"
        )
    if _has_integers(params):
        raise ValueError("quantize: params are quantized already")
    needed, _ = jax.eval_shape(layer.inside[0].init, jax.random.key(0), abstract(x, "quantize"))
    compare("quantize: params", needed, params, x)
    return packed(params, x)


class _Options(NamedTuple):
    bits: int
    where: str
    group: int | None
    aware: bool


def _quantized(layer: Layer, options: _Options, bare: Layer, known: Memo) -> Layer:
    """Return a quantized layer; `bare`, the layer without watches, shows the axes of kernels."""
    bits, where, group, aware = options

    def changed(change, params, x):
        """Return the params with `change(kernel, axes, bits, group)` instead of each kernel."""
        x = abstract(x, "quantized")
        kernels = matching("quantized", where, params)
        axes = known.of(signature(x), lambda: axes_of(bare, kernels, x))
        new = {path: change(leaf, axes[path], bits, group) for path, leaf in kernels.items()}
        return replaced(params, new)

    def init(key, x):
        params, state = layer.init(key, x)
        if aware:
            matching("quantized", where, params)
            return params, state
        return changed(_packed, params, x), state

    def apply(params, state, x, *, key=None, train=False):
        floats = changed(_through, params, x) if aware else _floats(params)
        return layer.apply(floats, state, x, key=key, train=train)

    rewrap: Any = lambda inner: _quantized(inner, options, bare, known)  # noqa: E731

    def packed(params, x):
        return changed(_packed, params, x)

    def merge(params):
        if not aware and not _has_integers(params):
            raise ValueError("merge: params hold no integers of jn.quantize")
        return _floats(params)

    rewrap.merge, rewrap.packed, rewrap.of_params = merge, None if aware else packed, True
    return as_layer(Layer(init, apply, layer.name, "quantized"))._replace(inside=(layer, rewrap))


def _reduced(shape: tuple[int, ...], axes: Axes, group: int | None) -> tuple[list[int], int, int]:
    """Return the axes that share a scale, the axis that is cut, and the size of its groups.

    Groups have about equal sizes, which follow from their number and the size of the axis.
    """
    first = axes.copies
    shared = [first + 1] if axes.table else list(range(first, first + axes.inputs))
    last = shared[-1]
    length = max(shape[last], 1)
    if group is None or length <= group:
        return shared, last, length
    return [], last, -(-length // -(-length // group))


def _grid(kernel: Any, axes: Axes, bits: int, group: int | None) -> tuple[jax.Array, jax.Array]:
    """Return the integers of a kernel, still floats, and their scales."""
    w = wide(jnp.asarray(kernel))
    shared, last, size = _reduced(w.shape, axes, group)
    length = w.shape[last]
    if shared:
        largest = jnp.abs(w).max(shared, keepdims=True, initial=0)
    else:
        groups = -(-length // size)
        widths = [(0, groups * size - length if axis == last else 0) for axis in range(w.ndim)]
        cut = jnp.pad(jnp.abs(w), widths)
        largest = cut.reshape(*w.shape[:last], groups, size, *w.shape[last + 1 :]).max(last + 1)
    scale = largest / LARGEST[bits]
    scale = jnp.where(scale == 0, 1, scale).astype(kernel.dtype)  # for values that are all 0
    return jnp.round(w / wide(_spread(scale, w.shape))), scale


def _spread(scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the scale of each value, or a shape that broadcasts to it."""
    for axis, (groups, length) in enumerate(zip(scale.shape, shape, strict=True)):
        if groups not in (1, length):
            size = -(-length // groups)
            scale = jnp.repeat(scale, size, axis)
            scale = jax.lax.slice_in_dim(scale, 0, length, axis=axis)
    return scale


def _scaled(numbers: jax.Array, scale: jax.Array) -> jax.Array:
    """Return each number times its scale."""
    shape = numbers.shape
    for axis, (groups, length) in enumerate(zip(scale.shape, shape, strict=True)):
        if groups not in (1, length) and length % groups == 0:
            # Spread scales are constants, which exporters store instead of the scales.
            cut = numbers.reshape(*shape[:axis], groups, length // groups, *shape[axis + 1 :])
            return (cut * jnp.expand_dims(scale, axis + 1)).reshape(shape)
    return numbers * _spread(scale, shape)


def _through(kernel: jax.Array, axes: Axes, bits: int, group: int | None) -> jax.Array:
    """Return the rounded kernel, with the gradient of the identity."""
    numbers, scale = _grid(jax.lax.stop_gradient(kernel), axes, bits, group)
    nearest = _scaled(numbers.astype(kernel.dtype), scale)
    # The value of the difference is exactly 0.
    return nearest + (kernel - jax.lax.stop_gradient(kernel))


def _packed(kernel: Any, axes: Axes, bits: int, group: int | None) -> dict[str, jax.Array]:
    """Return the integers of a kernel and their scales."""
    numbers, scale = _grid(kernel, axes, bits, group)
    length = kernel.shape[-1]
    unknown = scale.shape[-1] != length and (length % 2 or scale.shape[-1] == length - 1)
    if bits == 8 or unknown:  # the scale must show whether the last number only fills a byte
        return {"int8": numbers.astype(jnp.int8), "scale": scale}
    if length % 2:
        numbers = jnp.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, 1)])
    nibbles = (numbers.astype(jnp.int32) & 15).astype(jnp.uint8)
    return {"int4": nibbles[..., ::2] | nibbles[..., 1::2] << 4, "scale": scale}


def _unpacked(entry: dict[str, jax.Array]) -> jax.Array:
    """Return the kernel in floats."""
    scale = entry["scale"]
    if "int8" in entry:
        numbers = entry["int8"]
    else:
        both = entry["int4"].astype(jnp.int32)
        # ONNX supports these operations.
        pair = jnp.stack([both & 15, jax.lax.div(both, np.int32(16))], -1)
        numbers = pair.reshape(*both.shape[:-1], 2 * both.shape[-1])
        numbers = jnp.where(numbers > 7, numbers - 16, numbers)
        if scale.shape[-1] % 2 and scale.shape[-1] == numbers.shape[-1] - 1:
            numbers = numbers[..., :-1]  # the last number only fills a byte
    return _scaled(numbers.astype(scale.dtype), scale)


def _is_packed(entry: Any) -> bool:
    return isinstance(entry, dict) and set(entry) in ({"int8", "scale"}, {"int4", "scale"})


def _floats(params: Params) -> Params:
    """Return the params with floats instead of integers and scales."""
    return jax.tree.map(
        lambda entry: _unpacked(entry) if _is_packed(entry) else entry, params, is_leaf=_is_packed
    )


def _has_integers(params: Params) -> bool:
    return any(map(_is_packed, jax.tree.leaves(params, is_leaf=_is_packed)))
