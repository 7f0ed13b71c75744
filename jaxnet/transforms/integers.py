"""Kernels in 8 or 4 bits: nets with integer params, and training that is aware of the rounding."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, as_layer, transformed
from jaxnet.core.errors import compare
from jaxnet.ops.integers import scaled, scales_of_values, unpacked
from jaxnet.ops.native.gemv import few_rows, is_few
from jaxnet.ops.precision import at_least_float32
from jaxnet.ops.product import broadcast, product, rows
from jaxnet.services.checks import abstract, as_dict, at_least, check_options, one_of
from jaxnet.services.nodes import Stored, materialized
from jaxnet.services.paths import KERNEL_OR_TABLE, check_patterns
from jaxnet.services.trees import PyTree, flat, floats_of, key_spec
from jaxnet.transforms.kernels import FACTORS, Axes, Marked, axes_of, matching, replaced

LARGEST = {8: 127, 4: 7}  # symmetric ranges, so -128 and -8 are not used
PACKED = {(numbers, scale) for numbers in ("int8", "int4") for scale in ("scale", "scale16")}


def quantized(
    layer: Layer,
    bits: int = 8,
    *,
    where: str = KERNEL_OR_TABLE,
    group: int | None = None,
    aware: bool = False,
) -> Layer:
    """Return a layer whose kernels are integers of 8 or 4 bits, with scales.

    A kernel is integers * scale, with integers from -127 to 127 or from -7 to 7. A scale is the
    largest absolute value among the numbers that share it, divided by 127 or 7, so 0 stays 0. It
    is shared by the inputs of one output channel, or by one row of a table of an embedding. With
    4 bits, at most `group` neighbors along the last axis of these share it.

    The layer computes in floats: it saves memory and storage, and saves time only if reading
    weights is the bottleneck, as in generation on CPU. There, up to eight rows of the input become
    integers too, about as exact as float32: of 22 bits for 4 bits in groups of 32 and, with
    AVX-512, of 28 bits for 8 bits. NaN or infinity makes their row NaN. `jn.quantize` makes its
    params from those of a trained net.

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
      scale, of the same number of axes, with sizes of 1 or the number of groups for the inputs. It
      has the kernel's dtype. With 4 bits, a kernel has scale16 instead, in bfloat16, and the dtype
      of the other params. The table of an embedding (vocabulary, features) has a scale (vocabulary,
      groups). A table with 2 or an odd number of features is never packed.

    Returns:
      A layer with the params of `quantize`, or with those of `layer` if `aware`.

    Raises:
      ValueError: In `init`, if no param fits `where`, or if one that fits is not a kernel.

    Example:
      >>> net = jn.serial(jn.dense(64), jax.nn.relu, jn.dense(10, name="head"))
      >>> small = jn.quantized(net, 4)
      >>> params, state = small.init(jax.random.key(0), jn.spec((2, 128)))
      >>> jax.tree.map(jnp.shape, params["dense"])
      {'bias': (64,), 'kernel': {'int4': (128, 32), 'scale16': (4, 64)}}

      Training that is aware of the rounding, and then the integers:

      >>> aware = jn.quantized(net, 4, aware=True)
      >>> params, state = aware.init(jax.random.key(0), jn.spec((2, 128)))
      >>> x = jax.random.normal(jax.random.key(1), (2, 128))
      >>> for layer, tree in ((aware, params), (small, jn.quantize(small, params, x))):
      ...     print(np.asarray(layer.apply(tree, state, x)[0][0, :4]).round(3))
      [-0.584 -0.5    0.189 -0.939]
      [-0.584 -0.5    0.189 -0.939]

    Reference: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference"; Bengio et al. 2013, "Estimating or Propagating Gradients
    Through Stochastic Neurons", on straight-through estimators.
    """
    one_of("quantized", "bits", bits, LARGEST)
    check_patterns("quantized", "where", [where])
    check_options("quantized", aware=aware)
    at_least("quantized", "group", group, optional=True)
    group = 32 if group is None and bits == 4 else group

    def changed(change, layer, params, x):
        """Return the params with `change(kernel, axes, bits, group)` instead of each kernel."""
        matches = matching("quantized", where, params)
        kernels = {path: leaf for path, leaf in matches.items() if not path.endswith(FACTORS)}
        axes = axes_of(layer, kernels, abstract(x, "quantized"))
        new = {}
        for path, kernel in kernels.items():
            new[path] = change(kernel, axes[path], bits, group)
        return replaced(params, new)

    def pack(layer, params, x):
        return changed(_packed, layer, params, x)

    def init(run, key, x):
        params, state = run.init(key, x)
        if aware:
            matching("quantized", where, params)
            return params, state
        return pack(run.layer, params, x), state

    def apply(run, params, state, x):
        held = changed(_through, run.layer, params, x) if aware else _stored(params, x)
        return run(held, state, x)

    def merge(params):
        if not aware and not _has_integers(params):
            raise ValueError("merge: params hold no integers of jn.quantize")
        return materialized(_stored(params))

    options = Quantization(None if aware else pack, _stored)
    return transformed(
        layer,
        apply,
        kind="quantized",
        init=init,
        new_entries=True,
        clear=True,
        join=merge,
        options=options,
    )


class Quantization(NamedTuple):
    """What others need of a quantized layer.

    Fields:
      pack: `(layer, params, x) -> params` with integers and scales instead of each kernel; None if
        the params of the layer are not made by it.
      hold: `(params, x) -> params` with one node instead of each pair of integers and scales.
    """

    pack: Callable[[Layer, Params, PyTree], Params] | None
    hold: Callable[[Params, PyTree], Params]


def quantize(layer: Layer, params: Params, x: PyTree) -> Params:
    """Return the params of a quantized layer: the params of the layer inside, rounded.

    `jn.merge(layer, quantized_params)` is the inverse, up to the rounding.

    Args:
      layer: Layer made by `jn.quantized`.
      params: Params of the layer inside it, such as trained ones.
      x: Input or its spec, which tells inputs of a kernel from its outputs.

    Returns:
      Params for the quantized layer.

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
    params = as_dict("quantize", "params", params)
    options = getattr(layer.inside, "options", None)
    if not isinstance(options, Quantization) or options.pack is None:
        is_aware = isinstance(options, Quantization)
        got = "jn.quantized with aware=True" if is_aware else f"a {layer.kind}"
        raise TypeError(
            f"quantize: layer must be jn.quantized(net), whose params are integers, got {got}"
        )
    if _has_integers(params):
        raise ValueError("quantize: params are quantized already")
    inner = layer.inside.layer
    needed, _ = jax.eval_shape(inner.init, key_spec(), abstract(x, "quantize"))
    compare("quantize: params", needed, params, x)
    return options.pack(inner, params, x)


def _grid(kernel: Any, axes: Axes, bits: int, group: int | None) -> tuple[jax.Array, str, Any]:
    """Return the integers of a kernel, still floats, and their scales after the name of these."""
    w = at_least_float32(jnp.asarray(kernel))
    first = axes.copies
    shared = list(range(first, first + axes.inputs))
    if axes.table:
        shared = [first + 1]
    last = shared[-1]
    if group is None or w.shape[last] <= group:
        largest = jnp.abs(w).max(shared, keepdims=True, initial=0)
    else:
        largest = _largest_of_groups(jnp.abs(w), last, group)
    # Rounding to 4 bits loses far more than scales in bfloat16 do.
    name = "scale16" if bits == 4 and not axes.table else "scale"
    scale_dtype = jnp.bfloat16 if name == "scale16" else kernel.dtype
    scale = (largest / LARGEST[bits]).astype(scale_dtype)
    scale = jnp.where(scale == 0, 1, scale)  # for values that are all 0
    divisor = at_least_float32(scales_of_values(scale, w.shape))
    return jnp.round(w / divisor), name, scale


def _largest_of_groups(values: jax.Array, axis: int, group: int) -> jax.Array:
    """Return the largest value of each group of at most `group` neighbors along an axis.

    The groups have about equal sizes, which follow from their number and the size of the axis.
    """
    length = values.shape[axis]
    size = _ceil_divide(length, _ceil_divide(length, group))
    groups = _ceil_divide(length, size)
    widths = [(0, 0)] * values.ndim
    widths[axis] = (0, groups * size - length)
    padded = jnp.pad(values, widths)
    cut = padded.reshape(*values.shape[:axis], groups, size, *values.shape[axis + 1 :])
    return cut.max(axis + 1)


def _ceil_divide(a: int, b: int) -> int:
    return -(-a // b)


def _through(kernel: jax.Array, axes: Axes, bits: int, group: int | None) -> jax.Array:
    """Return the rounded kernel, with the gradient of the identity."""
    if isinstance(kernel, Marked):  # a transform around this one looks for the axes of its product
        return kernel
    kernel = materialized(kernel)
    constant = jax.lax.stop_gradient(kernel)
    numbers, _, scale = _grid(constant, axes, bits, group)
    rounded = scaled(numbers.astype(kernel.dtype), scale)
    return rounded + (kernel - constant)  # the value of the difference is exactly 0


def _packed(kernel: Any, axes: Axes, bits: int, group: int | None) -> dict[str, jax.Array]:
    """Return the integers of a kernel and their scales."""
    numbers, name, scale = _grid(kernel, axes, bits, group)
    length, scales = kernel.shape[-1], scale.shape[-1]
    is_odd = length % 2 == 1
    # The scale must show whether the last number only fills a byte.
    unknown = scales != length and (is_odd or scales == length - 1)
    if bits == 8 or unknown:
        return {"int8": numbers.astype(jnp.int8), name: scale}
    if is_odd:
        widths = [(0, 0)] * numbers.ndim
        widths[-1] = (0, 1)
        numbers = jnp.pad(numbers, widths)
    nibbles = (numbers.astype(jnp.int32) & 15).astype(jnp.uint8)
    low, high = nibbles[..., ::2], nibbles[..., 1::2]
    return {"int4": low | high << 4, name: scale}


@partial(jax.tree_util.register_dataclass, data_fields=["numbers", "scale"], meta_fields=["dtype"])
@dataclass(frozen=True, eq=False)
class Quantized(Stored):
    """A kernel as integers and scales.

    Fields:
      numbers: Integers, int8, or uint8 with two numbers per byte along the last axis.
      scale: Scales, of the same number of axes.
      dtype: Dtype of the kernel.
    """

    numbers: Any
    scale: Any
    dtype: Any

    @property
    def shape(self) -> tuple[int, ...]:
        *rest, last = self.numbers.shape
        if self.numbers.dtype != jnp.uint8:
            return (*rest, last)
        scales = self.scale.shape[-1]
        numbers = 2 * last
        # An odd number of scales shows whether the last number only fills a byte.
        last_only_fills = scales % 2 == 1 and scales == numbers - 1
        return (*rest, numbers - 1 if last_only_fills else numbers)

    def array(self) -> jax.Array:
        return jax.checkpoint(_unpacked)(self)

    def astype(self, dtype: Any) -> "Quantized":
        return replace(self, dtype=jnp.dtype(dtype))

    def product(self, x: jax.Array, inputs: int, transposed: bool) -> jax.Array:
        x = x.astype(jnp.result_type(x, self.dtype))  # few rows and many give the same dtype
        matrix = self if transposed else self._matrix(inputs)
        if matrix is None:
            return _in_blocks(x, self, inputs, transposed)
        axes = x.ndim - inputs
        before, summed = x.shape[:axes], x.shape[axes:]
        outputs = self.shape[:1] if transposed else self.shape[inputs:]
        x = x.reshape(math.prod(before), math.prod(summed))
        if is_few(x, matrix.numbers):
            in_jax = _few_in_jax(self.dtype, transposed)
            y = few_rows(x, matrix.numbers, matrix.scale, transposed=transposed, in_jax=in_jax)
        else:
            y = _in_blocks(x, matrix, 1, transposed)
        return y.reshape(*before, *outputs)

    def _matrix(self, inputs: int) -> "Quantized | None":
        """Return the kernel as a matrix (inputs, outputs); None if its scales do not fit."""
        shape = self.shape
        if len(shape) == 2:
            in_groups_of_outputs = self.scale.shape[1] != shape[1]
            return None if in_groups_of_outputs else self
        *others, groups = self.scale.shape[:inputs]
        # Groups of the last axis are groups of all inputs if they are equal.
        one_group = groups == 1 and set(others) <= {1}
        equal = tuple(others) == shape[: inputs - 1] and shape[inputs - 1] % groups == 0
        fits_inputs = inputs == 1 or one_group or equal
        fits_outputs = self.scale.shape[inputs:] == shape[inputs:]
        fills_a_byte = self.numbers.dtype == jnp.uint8 and shape[-1] % 2 == 1
        if fills_a_byte or not fits_inputs or not fits_outputs:
            return None

        def flat(a):
            summed = math.prod(a.shape[:inputs])
            return a.reshape(summed, -1)

        return replace(self, numbers=flat(self.numbers), scale=flat(self.scale))

    def block(self, i: Any, count: int, axis: int) -> "Quantized":
        """Return the i-th of several blocks of equal size along an axis of outputs."""

        def cut(a):
            size = a.shape[axis] // count
            return jax.lax.dynamic_slice_in_dim(a, i * size, size, axis)

        return replace(self, numbers=cut(self.numbers), scale=cut(self.scale))

    def rows(self, ids: jax.Array) -> jax.Array:
        if self.scale.shape[0] != self.shape[0]:  # not quantized as a table
            return rows(self.array(), ids)
        beyond = self.numbers.shape[0]
        ids = jnp.where(ids < 0, beyond, ids)
        numbers = jnp.asarray(self.numbers).at[ids].get(mode="fill", fill_value=0)
        picked = Quantized(numbers, rows(self.scale, ids), self.dtype)
        return _unpacked(picked)


@cache  # one function, so that `jit` finds what it has compiled
def _few_in_jax(dtype: Any, transposed: bool) -> Callable[..., jax.Array]:
    def run(x, numbers, scale):
        return _in_blocks(x, Quantized(numbers, scale, dtype), 1, transposed)

    return run


def _in_blocks(x: jax.Array, kernel: Quantized, inputs: int, transposed: bool) -> jax.Array:
    """Return the product, with few rows in blocks of outputs, so that few floats are held."""
    axis = 0 if transposed else len(kernel.shape) - 1
    count = _blocks(x, kernel, axis) if inputs == 1 else 1
    # Not kept for the backward pass, since floats are larger than integers.
    run = jax.checkpoint(partial(_product, inputs=inputs, transposed=transposed))
    if count == 1:
        return run(x, kernel)

    def outputs_of(i):
        return run(x, kernel.block(i, count, axis))

    y = jax.lax.map(outputs_of, jnp.arange(count))  # (blocks, ..., outputs of a block)
    y = jnp.moveaxis(y, 0, -2)
    return y.reshape(*x.shape[:-1], kernel.shape[axis])


def _blocks(x: jax.Array, kernel: Quantized, axis: int) -> int:
    """Return the number of blocks."""
    examples = math.prod(x.shape[:-1])  # not a number in an export with open sizes
    few = isinstance(examples, int) and examples <= 64
    large = len(kernel.shape) == 2 and kernel.numbers.size >= 2**21
    # Unequal groups of scales would begin between the blocks.
    even = kernel.shape[axis] % kernel.scale.shape[axis] == 0
    if not (few and large and even):
        return 1
    numbers, scales = kernel.numbers.shape[axis], kernel.scale.shape[axis]
    most = kernel.shape[axis] // 512
    for count in range(most, 1, -1):
        if numbers % count == 0 and scales % count == 0:
            return count
    return 1


def _unpacked(kernel: Quantized) -> jax.Array:
    """Return the kernel in floats."""
    dtype = jnp.promote_types(kernel.dtype, kernel.scale.dtype)  # the scale's may have few digits
    numbers = unpacked(kernel.numbers, kernel.shape[-1]).astype(dtype)
    return scaled(numbers, kernel.scale).astype(kernel.dtype)


def _product(x: jax.Array, kernel: Quantized, inputs: int, transposed: bool) -> jax.Array:
    # The integers become floats only when x is known. Otherwise XLA makes the floats of all layers
    # first, and keeps them.
    x, kernel = jax.lax.optimization_barrier((x, kernel))
    scale = kernel.scale
    shared = scale.shape[1:] if transposed else scale.shape[:inputs]
    in_groups = any(groups != 1 for groups in shared)
    would_overflow = kernel.dtype == jnp.float16
    if in_groups or would_overflow:
        return product(x, _unpacked(kernel), inputs, transposed=transposed)
    numbers = unpacked(kernel.numbers, kernel.shape[-1]).astype(kernel.dtype)
    y = product(x, numbers, inputs, transposed=transposed)
    scale = scale[:, 0] if transposed else scale.reshape(scale.shape[inputs:])
    return (y * broadcast(scale, y.shape)).astype(y.dtype)


def _is_packed(entry: Any) -> bool:
    return isinstance(entry, dict) and tuple(sorted(entry)) in PACKED


def _stored(params: Params, x: PyTree = ()) -> Params:
    """Return the params with one node instead of each pair of integers and scales.

    A scale16 does not tell the dtype of its kernel: the other params do or, without any, x.
    """
    others = [leaf for path, leaf in flat(params) if not path.endswith("/scale16")]
    floats = jax.tree.leaves(floats_of(others))
    if not floats:
        floats = jax.tree.leaves(floats_of(x))
    widest = jnp.result_type(*floats) if floats else jnp.float32
    dtype = jnp.finfo(widest).dtype  # a float, even if there are complex params

    def each(entry):
        if not _is_packed(entry):
            return entry
        (_, numbers), (name, scale) = sorted(entry.items())
        scale_dtype = dtype if name == "scale16" else scale.dtype
        return Quantized(numbers, scale, scale_dtype)

    return jax.tree.map(each, params, is_leaf=_is_packed)


def _has_integers(params: Params) -> bool:
    entries = jax.tree.leaves(params, is_leaf=_is_packed)
    return any(_is_packed(entry) for entry in entries)
