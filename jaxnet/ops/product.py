"""What layers do with their params: multiply by a kernel, add a bias, look up rows of a table.

Each sums in its gradient over all examples and positions: in at least float32, also where the layer
computes in 16 bits, whose few digits a sum of thousands of terms would lose.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.convolution import multiply
from jaxnet.ops.native.conv import is_wide
from jaxnet.ops.native.gemv import few_rows, is_few
from jaxnet.ops.precision import at_least_float32, output_dtype
from jaxnet.services.checks import (
    all_native,
    at_least,
    check_options,
    check_range,
    check_type,
    looks_at_data,
)
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.nodes import Stored


def product(
    x: jax.Array, kernel: jax.Array | Stored, inputs: int = 1, *, transposed: bool = False
) -> jax.Array:
    """Return the product of the last axes of x and the first axes of a kernel.

    With a kernel as `m.kernel` returns it, integers stay integers until they are multiplied, and
    the factors of `jn.lora` are multiplied one after the other.

    Args:
      x: Array (..., *inputs).
      kernel: Array or stored kernel (*inputs, *outputs).
      inputs: Number of axes that are summed.
      transposed: Whether the kernel is (outputs, inputs) instead, as the table of an embedding.

    Returns:
      (..., *outputs).

    Example:
      >>> def scaled_dense(m, x):
      ...     kernel = m.kernel("kernel", jn.initializers.lecun_normal(), (x.shape[-1], 4))
      ...     return jn.product(x, kernel) * 2
      >>> net = jn.quantized(jn.compose(scaled_dense), where="kernel")  # multiplies by int8
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> net.apply(params, state, jnp.ones((2, 5, 3)))[0].shape
      (2, 5, 4)
      >>> jn.product(jnp.ones((2, 3)), jnp.ones((7, 3)), transposed=True).shape
      (2, 7)
    """
    x, kernel = _read("product", x=x, kernel=kernel)
    at_least("product", "inputs", inputs)
    check_options("product", transposed=transposed)
    before = x.shape[: x.ndim - inputs]
    summed = x.shape[x.ndim - inputs :]
    of_kernel = kernel.shape[1:] if transposed else kernel.shape[:inputs]
    if summed != of_kernel or len(summed) != inputs:
        raise ValueError(f"product: x {x.shape} does not fit the kernel {kernel.shape}")
    if isinstance(kernel, Stored):
        return kernel.product(x, inputs, transposed)
    if jax.typeof(x).sharding.mesh.explicit_axes:  # a sharded axis cannot be merged with others
        return jnp.tensordot(x, kernel.T if transposed else kernel, inputs)
    outputs = kernel.shape[:1] if transposed else kernel.shape[inputs:]
    # With two axes XLA transposes the product without copies. With more it also loses digits: on
    # CPU, the gradient of a kernel in bfloat16 is then summed in bfloat16 (JAX 0.12).
    flat = x.reshape(math.prod(before), math.prod(summed))
    if not transposed:
        kernel = kernel.reshape(math.prod(summed), math.prod(outputs))
    y = _of_matrices(flat, kernel, transposed)
    return y.reshape(*before, *outputs)


def _of_matrices(x, kernel, transposed):
    """Return the product of two matrices, in the way that is fastest for their sizes."""
    if is_few(x, kernel):
        dtype = jnp.result_type(x, kernel)  # as the product of many rows has
        return few_rows(x.astype(dtype), kernel, transposed=transposed)
    if is_wide(x, kernel):
        return multiply(x, kernel, transposed=transposed)
    if transposed:
        kernel = kernel.T
    return x @ kernel


def _read(who: str, **named: Any) -> Any:
    """Return arrays as JAX has them, and stored kernels; raise for anything else."""
    kinds = jax.Array | np.ndarray | np.generic | Stored
    for what, array in named.items():
        check_type(who, what, array, kinds, "a JAX or NumPy array")
    return all_native(list(named.values()), who)


def broadcast(a: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcast an array, with a gradient that is summed in at least float32.

    Returns:
      The array, broadcast to `shape`.

    Example:
      >>> total = lambda a: broadcast(a, (1000, 1)).sum()
      >>> jax.grad(total)(jnp.ones(1, jnp.bfloat16))  # bfloat16 has no 257
      Array([1000], dtype=bfloat16)
    """
    if a.shape == shape:
        return a
    return jnp.broadcast_to(at_least_float32(a), shape).astype(a.dtype)


def add_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Return y + bias, broadcast against each other; y if the bias is None.

    Returns:
      Array of the broadcast shape.

    Example:
      >>> add_bias(jnp.ones((2, 3)), jnp.arange(3.0))[1].tolist()
      [1.0, 2.0, 3.0]
    """
    if bias is None:
        return y
    both: list[jax.Array] = _read("plus", y=y, bias=bias)
    shape = jnp.broadcast_shapes(*(a.shape for a in both))
    y, bias = (broadcast(a, shape) for a in both)
    return y + bias


@on_auto_axes
def rows(table: jax.Array | Stored, ids: jax.Array) -> jax.Array:
    """Return the rows of a table (n, ...); NaN for ids out of range, including negative ids.

    If the table comes from `m.kernel`, only the rows that are read become floats. The rows of a
    table of integers become floats too, because integers have no NaN. `jn.fit` and other functions
    that get data raise for such ids before they compute anything, as they do for `jn.embedding`.

    Returns:
      Array (*ids.shape, ...) of floats: of the table's dtype, or float32 for a table of integers.

    Example:
      >>> rows(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 2])).tolist()
      [[3.0, 4.0], [nan, nan]]
    """
    table, ids = _read("rows", table=table, ids=ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(f"rows: ids must hold integers, got {ids.dtype}")
    if looks_at_data():
        check_range(ids, table.shape[0], "rows: ids")
    ids = ids.astype(jnp.promote_types(ids.dtype, jnp.int32))  # 8 bits count no further than 127
    if isinstance(table, Stored):
        return table.rows(ids)
    table = jnp.asarray(table)
    beyond = table.shape[0]
    ids = jnp.where(ids < 0, beyond, ids)
    if jnp.issubdtype(table.dtype, jnp.inexact):
        return _rows(table, ids)
    picked = table.at[ids].get(mode="fill", fill_value=0)
    per_row = (1,) * (table.ndim - 1)
    in_range = (ids < beyond).reshape(ids.shape + per_row)
    return jnp.where(in_range, picked.astype(output_dtype(table)), jnp.nan)


@jax.custom_jvp
def _rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    return table.at[ids].get(mode="fill", fill_value=jnp.nan)


@_rows.defjvp
def _rows_jvp(primals, tangents):
    """The gradient of a row that occurs often is a sum in float32; the table itself stays."""
    table, ids = primals
    moved = at_least_float32(tangents[0]).at[ids].get(mode="fill", fill_value=0)
    return _rows(table, ids), moved.astype(table.dtype)
