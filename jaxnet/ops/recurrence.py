"""Recurrence: one step of the simple, LSTM and GRU cells, and fast loops over all steps.

Why the loops are fast: the inputs are multiplied by their kernel for all steps at once, before the
loop. The loop has its own rule for tangents: a linear loop, into which the tangent of the recurrent
kernel enters as one product of all steps, with slopes saved by the forward loop. Its transpose,
which JAX derives, is a backward loop without a sum over the kernel, and one product after it. As a
rule for tangents it also gives forward mode and higher derivatives.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import lstm
from jaxnet.ops.native.call import native_call
from jaxnet.ops.product import add_bias, product
from jaxnet.services.jax_versions import linear
from jaxnet.services.trees import memo_of

Carry = Any  # h, or {"c": c, "h": h}
Some = jax.Array | None


class Cell(NamedTuple):
    """One step of a recurrence, and its derivative.

    Fields:
      gates: Number of columns of the kernels, in multiples of the features.
      memory: Whether the carry has a memory c next to h.
      step: (pre, product, carry) -> (carry, slopes), with pre = x @ kernel + bias and product =
        h @ recurrent_kernel (+ recurrent_bias); the derivative needs the slopes.
      inject: (slopes, d_pre, d_product) -> d, the tangents that do not come from the carry, for
        all steps at once.
      push: (slopes, d, d_product, d_carry) -> d_carry, one step of the tangents, linear in the last
        three; d_product = d_h @ recurrent_kernel.
    """

    gates: int
    memory: bool
    step: Callable
    inject: Callable | None
    push: Callable | None


def hidden(carry: Carry) -> jax.Array:
    """Return the output h of a carry.

    Example:
      >>> hidden({"c": 1, "h": 2}), hidden(3)
      (2, 3)
    """
    return carry["h"] if isinstance(carry, dict) else carry


def unroll(
    cell: Cell, pre: jax.Array, kernel: jax.Array, biases: tuple[Some, Some], carry: Any, mask: Some
) -> tuple[jax.Array, Carry]:
    """Run all steps of a cell.

    Args:
      cell: `LSTM`, `GRU` or `simple_cell(activation)`.
      pre: Projected inputs without bias, (time, batch, gates * features).
      kernel: Recurrent kernel, (features, gates * features).
      biases: Biases of the inputs and of the product with the kernel, each (gates * features,) or
        None.
      carry: Carry before the first step.
      mask: Booleans (time, batch, 1); steps that are False keep the carry. None is all True.

    Returns:
      h of all steps, (time, batch, features), and the last carry.

    Example:
      A sum, as a simple cell with the identity for activation and for kernel:

      >>> cell = simple_cell(lambda z: z)
      >>> pre = jnp.arange(1.0, 4.0).reshape(3, 1, 1)
      >>> h, final = unroll(cell, pre, jnp.eye(1), (None, None), jnp.zeros((1, 1)), None)
      >>> h.ravel(), final
      (Array([1., 3., 6.], dtype=float32), Array([[6.]], dtype=float32))
    """
    if cell in _IN_C and biases[0] is None:
        biases = jnp.zeros(pre.shape[-1:], pre.dtype), None
    # Compiled by itself, so that calls outside jit do not compile it each time.
    memo = memo_of(cell.step)
    loop = memo.of("loop", lambda: jax.jit(partial(_unrolled, cell)))
    return loop(pre, kernel, biases, carry, mask)


# The three cells.


def _sigmoid_of_tanh(t):
    return 0.5 * t + 0.5  # sigmoid(z) = tanh(z / 2) / 2 + 1 / 2


def _lstm_step(pre, product, carry):
    # One tanh over all gates, at half the argument except for the candidate g.
    *before, columns = pre.shape
    half = np.array([0.5, 0.5, 1, 0.5], pre.dtype)
    half = half.reshape((1,) * len(before) + (4, 1))
    z = (pre + product).reshape(*before, 4, columns // 4)
    t = jnp.tanh(z * half)  # (batch, 4, features)
    i = _sigmoid_of_tanh(t[..., 0, :])
    f = _sigmoid_of_tanh(t[..., 1, :])
    o = _sigmoid_of_tanh(t[..., 3, :])
    g = t[..., 2, :]
    c = f * carry["c"] + i * g
    squashed = jnp.tanh(c)
    by_i = g * i * (1 - i)
    by_f = carry["c"] * f * (1 - f)
    by_g = i * (1 - g * g)
    by_o = squashed * o * (1 - o)
    by_gates = jnp.concatenate([by_i, by_f, by_g, by_o], -1)
    by_c = o * (1 - squashed * squashed)
    return {"c": c, "h": o * squashed}, (by_gates, f, by_c)


def _lstm_push(slopes, d, d_product, d_carry):
    by_gates, by_old_c, by_c = slopes
    to_i, to_f, to_g, to_o = jnp.split(by_gates * (d + d_product), 4, -1)
    d_c = by_old_c * d_carry["c"] + to_i + to_f + to_g
    return {"c": d_c, "h": by_c * d_c + to_o}


def _gru_step(pre, product, h):
    pre_r, pre_u, pre_n = jnp.split(pre, 3, -1)
    r, u, inner = jnp.split(product, 3, -1)
    r = _sigmoid_of_tanh(jnp.tanh(0.5 * (pre_r + r)))
    u = _sigmoid_of_tanh(jnp.tanh(0.5 * (pre_u + u)))
    n = jnp.tanh(pre_n + r * inner)
    by_n = (1 - u) * (1 - n * n)
    by_r = by_n * inner * r * (1 - r)
    by_u = (h - n) * u * (1 - u)
    new_h = n + u * (h - n)
    by_gates = jnp.concatenate([by_r, by_u, by_n], -1)
    return new_h, (by_gates, r, u)


def _gru_reset(r, d_product):
    """Multiply the candidate's part of the product by the reset gate."""
    r_and_u, n = jnp.split(d_product, [2 * r.shape[-1]], -1)
    return jnp.concatenate([r_and_u, r * n], -1)


def _gru_inject(slopes, d_pre, d_product):
    _, r, _ = slopes
    return d_pre + _gru_reset(r, d_product)


def _gru_push(slopes, d, d_product, d_h):
    by_gates, r, u = slopes
    moved = by_gates * (d + _gru_reset(r, d_product))
    to_r, to_u, to_n = jnp.split(moved, 3, -1)
    return u * d_h + to_r + to_u + to_n


def _add(slopes, d_pre, d_product):
    return d_pre + d_product


def reset_before(pre: jax.Array, kernel: jax.Array, h: jax.Array) -> jax.Array:
    """Compute one step of the paper's GRU, whose reset gate acts on h before the product.

    Args:
      pre: x @ kernel + bias, (batch, 3 * features).
      kernel: Recurrent kernel, (features, 3 * features).
      h: Carry (batch, features).

    Example:
      >>> h = reset_before(jnp.zeros((1, 6)), jnp.zeros((2, 6)), jnp.ones((1, 2)))
      >>> h.tolist()  # half of the old, half of tanh(0)
      [[0.5, 0.5]]

    Reference: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder".
    """
    columns = 2 * h.shape[-1]
    gates, candidate = jnp.split(pre, [columns], -1)
    gates = jax.nn.sigmoid(gates + h @ kernel[:, :columns])
    r, u = jnp.split(gates, 2, -1)
    n = jnp.tanh(candidate + (r * h) @ kernel[:, columns:])
    return n + u * (h - n)


def _tanh_step(pre, product, h):
    h = jnp.tanh(pre + product)
    return h, (1 - h * h,)


def _tanh_push(slopes, d, d_product, d_h):
    (by_z,) = slopes
    return by_z * (d + d_product)


LSTM = Cell(4, True, _lstm_step, _add, _lstm_push)
TANH = Cell(1, False, _tanh_step, _add, _tanh_push)
GRU = Cell(3, False, _gru_step, _gru_inject, _gru_push)
RESET_BEFORE = Cell(3, False, reset_before, None, None)  # its second product has no fast loop


def simple_cell(activation: Callable[[jax.Array], jax.Array]) -> Cell:
    """Return the cell h_t = activation(pre + product).

    Args:
      activation: Function of an array that keeps its shape.

    Example:
      >>> h, _ = simple_cell(jnp.tanh).step(jnp.ones((1, 2)), -jnp.ones((1, 2)), None)
      >>> h.tolist()
      [[0.0, 0.0]]
    """

    def step(pre, product, h):
        z = pre + product
        return activation(z), (z,)

    def push(slopes, d, d_product, d_h):
        (z,) = slopes
        _, tangent = jax.jvp(activation, (z,), (d + d_product,))
        return tangent

    cell = TANH if activation is jnp.tanh else Cell(1, False, step, _add, push)
    # One cell per activation, so that equal layers share their compiled loops.
    return memo_of(activation).of("simple cell", lambda: cell)


# All steps, and their tangents.


def _keep(mask, new, old):
    """Return the new carry if the mask is True, else the old one."""
    if mask is None:
        return new
    return jax.tree.map(partial(jnp.where, mask), new, old)


def _advance(cell, pre, kernel, biases, carry, mask):
    """Return the carry after one step, and its slopes."""
    of_inputs, of_product = biases
    recurrent_pre = add_bias(product(hidden(carry), kernel), of_product)
    new, slopes = cell.step(add_bias(pre, of_inputs), recurrent_pre, carry)
    return _keep(mask, new, carry), slopes


def _loop(cell, pre, kernel, biases, carry, mask):
    """Return h of all steps and the last carry."""

    def body(carry, now):
        pre, mask = now
        carry, _ = _advance(cell, pre, kernel, biases, carry, mask)
        return carry, hidden(carry)

    final, h = jax.lax.scan(body, carry, (pre, mask))
    return h, final


def _loop_with_slopes(cell, pre, kernel, biases, carry, mask):
    """Return h of all steps, the last carry, and the slopes of all steps."""

    # The slopes of the gates overwrite pre step by step, and the bias is added in the loop. Less
    # memory also takes less time, since the system provides new pages at each call.
    def step(loop, now):
        carry, saved = loop
        t, mask = now
        pre = jax.lax.dynamic_index_in_dim(saved, t, keepdims=False)
        carry, (by_gates, *slopes) = _advance(cell, pre, kernel, biases, carry, mask)
        saved = jax.lax.dynamic_update_index_in_dim(saved, by_gates, t, 0)
        return (carry, saved), (hidden(carry), slopes)

    steps = jnp.arange(len(pre))
    (final, by_gates), (h, slopes) = jax.lax.scan(step, (carry, pre), (steps, mask))
    return h, final, (by_gates, *slopes)


def _finite_unless_kept(mask, slopes):
    return jnp.where(mask | jnp.isfinite(slopes), slopes, 0)


def _push(cell, slopes, kernel, mask, d, d_carry):
    """Return the tangents of h of all steps and of the last carry, linear in d and d_carry."""
    if mask is not None:
        # The gradient of a step that is left out is 0, but not 0 times NaN.
        slopes = jax.tree.map(partial(_finite_unless_kept, mask), slopes)
    # So the backward loop multiplies in the plain order, instead of this loop.
    transposed = kernel.T
    rows_of_both = (((1,), (1,)), ((), ()))

    def body(d_carry, now):
        slopes, d, mask = now
        d_product = jax.lax.dot_general(hidden(d_carry), transposed, rows_of_both)
        moved = cell.push(slopes, d, d_product, d_carry)
        d_carry = _keep(mask, moved, d_carry)
        return d_carry, hidden(d_carry)

    def loop(d_carry, d):
        return jax.lax.scan(body, d_carry, (slopes, d, mask))

    d_final, d_h = linear(loop, d_carry, d)
    return d_h, d_final


# In 32 and 16 bits these cells run these loops in C on CPU.
_LOOPS = _loop, _loop_with_slopes, _push
_IN_C = {
    LSTM: dict(zip(_LOOPS, lstm.loops(memory=True), strict=True)),
    TANH: dict(zip(_LOOPS, lstm.loops(memory=False), strict=True)),
}


def _run(loop, cell, *args):
    if cell in _IN_C:
        return native_call(partial(loop, cell), _IN_C[cell][loop], *args)
    return loop(cell, *args)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _unrolled(cell, pre, kernel, biases, carry, mask):
    return _run(_loop, cell, pre, kernel, biases, carry, mask)


@_unrolled.defjvp
def _unrolled_tangents(cell, primals, tangents):
    pre, kernel, biases, carry, mask = primals
    d_pre, d_kernel, (d_bias, d_recurrent_bias), d_carry, _ = tangents
    h, final, slopes = _run(_loop_with_slopes, cell, pre, kernel, biases, carry, mask)
    first = hidden(carry)
    before = jnp.concatenate([first[None], h[:-1]])  # (time, batch, features)
    d_product = add_bias(product(before, d_kernel), d_recurrent_bias)
    d = cell.inject(slopes, add_bias(d_pre, d_bias), d_product)
    return (h, final), _run(_push, cell, slopes, kernel, mask, d, d_carry)
