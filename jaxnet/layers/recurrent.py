"""Recurrent layers of any cell, and the parts shared by `rnn`, `lstm` and `gru`.

`rnn`, `lstm` and `gru` run over whole sequences, in the forms of `jaxnet.layers.sequence`.
`rnn_cell`, `lstm_cell` and `gru_cell` compute one step with the same params. `recurrent` makes a
sequence layer of any cell, including the user's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State, as_layer, compose, transformed
from jaxnet.core.errors import compare
from jaxnet.initializers import Initializer, normal, zeros
from jaxnet.layers.sequence import Sequence, read_chunk
from jaxnet.ops import linalg
from jaxnet.ops.product import add_bias, product
from jaxnet.ops.recurrence import GRU, RESET_BEFORE, Cell, hidden, reset_before, unroll
from jaxnet.ops.varying import varying
from jaxnet.services.checks import (
    at_least,
    check_input,
    check_options,
    check_rank,
    is_traced,
    on_device,
)
from jaxnet.services.trees import PyTree, describe, key_spec


def orthogonal_blocks(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
    """Draw square orthogonal matrices next to each other, (n, k * n), one per gate.

    Example:
      >>> q = orthogonal_blocks(jax.random.key(0), (3, 12))[:, 3:6]
      >>> bool(jnp.allclose(q @ q.T, jnp.eye(3), atol=1e-6))
      True

    Reference: Saxe et al. 2014, "Exact solutions to the nonlinear dynamics of learning".
    """
    n, columns = shape
    a = normal(1.0)(key, (max(1, columns // n), n, n), dtype)
    if is_traced(a):
        q, r = linalg.qr(a)
        xp = jnp
    else:  # in NumPy, since jnp.linalg.qr compiles for every shape
        q, r = np.linalg.qr(np.asarray(a, np.float64))
        xp = np
    # Otherwise q is not uniformly distributed.
    signs = xp.sign(xp.diagonal(r, axis1=1, axis2=2))
    q = q * signs[:, None]
    blocks = xp.concatenate(list(q), 1)  # (n, k * n)
    return on_device(blocks.astype(dtype))


@dataclass(frozen=True)
class Recurrence:
    """A cell with its sizes and initializers, which makes its sequence layer and one-step layer."""

    cell: Cell
    features: int
    use_bias: bool
    kernel_init: Initializer
    recurrent_init: Initializer
    bias_init: Initializer
    name: str

    def __post_init__(self) -> None:
        at_least(self.name, "features", self.features)
        check_options(
            self.name,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            recurrent_init=self.recurrent_init,
            bias_init=self.bias_init,
        )

    def layer(self, kind: str) -> Layer:
        """Return the layer over sequences."""

        def forward(m, inputs):
            sequence = read_chunk(m, inputs, self.name)
            x = sequence.without_padding()
            mask = sequence.mask()
            if mask is not None:
                mask = mask.T[..., None]  # (time, batch, 1)
            weights = self._weights(m, x)
            kernel, recurrent_kernel, *biases = weights
            # The bias is added in the loop, which avoids an array of all steps.
            pre = product(x.swapaxes(0, 1), kernel)  # (time, batch, gates * f)
            previous_carry = None if m.stream is None else self._previous_carry(m, x)
            initial = sequence.initial if previous_carry is None else previous_carry
            carry = self._carry(initial, x, weights)
            pre = pre.astype(hidden(carry).dtype)
            h, final = unroll(self.cell, pre, recurrent_kernel, tuple(biases), carry, mask)
            if previous_carry is not None:
                before = _entries(previous_carry)
                for entry, value in _entries(final).items():
                    m.update(entry, value.astype(before[entry].dtype))
            return sequence.write(h.swapaxes(0, 1), final)  # (batch, time, features)

        return compose(forward, name=self.name, kind=kind)

    def step(self, kind: str) -> Layer:
        """Return the layer of one step."""

        def forward(m, inputs):
            carry, x = _read_step(inputs, self.name)
            weights = self._weights(m, x)
            kernel, recurrent_kernel, bias, recurrent_bias = weights
            carry = self._carry(carry, x, weights)
            pre = add_bias(product(x, kernel), bias)
            if self.cell == RESET_BEFORE:
                carry = reset_before(pre, recurrent_kernel, carry)
                return carry, carry
            recurrent_pre = add_bias(product(hidden(carry), recurrent_kernel), recurrent_bias)
            carry, _ = self.cell.step(pre, recurrent_pre, carry)
            return carry, hidden(carry)

        return compose(forward, name=self.name, kind=kind)

    def _weights(self, m: Any, x: Any) -> list[Any]:
        """Return the two kernels and the two biases, None without them."""
        features = self.features
        columns = self.cell.gates * features
        kernel = m.kernel("kernel", self.kernel_init, (x.shape[-1], columns))
        recurrent_kernel = m.kernel(
            "recurrent_kernel", self.recurrent_init, (features, columns), array=True
        )

        def entry(name, size):
            # Narrow below `cast`, as what is kept of all steps must be; the op sums in float32.
            return m.param(name, self.bias_init, (size,)).astype(recurrent_kernel.dtype)

        bias = entry("bias", columns) if self.use_bias else None
        recurrent_bias = None
        if self.use_bias and self.cell == GRU:
            # The bias of the candidate; the gates do not need a second bias.
            candidate_bias = entry("recurrent_bias", features)
            none = jnp.zeros_like(candidate_bias)
            recurrent_bias = jnp.concatenate([none, none, candidate_bias])
        return [kernel, recurrent_kernel, bias, recurrent_bias]

    def _previous_carry(self, m: Any, x: jax.Array) -> PyTree:
        """Return the carry after the previous chunk of a stream."""
        shape = (x.shape[0], self.features)
        if not self.cell.memory:
            return m.state("h", zeros, shape)
        return {name: m.state(name, zeros, shape) for name in ("c", "h")}

    def _carry(self, initial: PyTree, x: jax.Array, weights: list[Any]) -> PyTree:
        """Return the given carry, or zeros, in the dtype of the computation."""
        shape = (x.shape[0], self.features)
        dtypes = [weight.dtype for weight in weights if weight is not None]
        dtype = jnp.result_type(x.dtype, *dtypes)
        like = {"c": dtype, "h": dtype} if self.cell.memory else dtype
        if initial is None:
            initial = jax.tree.map(lambda dtype: jnp.zeros(shape, dtype), like)
        shapes = {getattr(leaf, "shape", None) for leaf in jax.tree.leaves(initial)}
        fits = jax.tree.structure(initial) == jax.tree.structure(like)
        if not fits or shapes != {shape}:
            form = "a dict of c and h, each" if self.cell.memory else "an array"
            got = jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf).__name__), initial)
            raise ValueError(
                f"{self.name}: the initial carry must be {form} (batch, features) = {shape}, "
                f"got {got}. Omit it to start from zeros"
            )
        carry = jax.tree.map(lambda leaf: leaf.astype(dtype), initial)
        return varying(carry, x, weights)


def _entries(carry: PyTree) -> dict[str, jax.Array]:
    return carry if isinstance(carry, dict) else {"h": carry}


def _read_step(inputs: PyTree, who: str) -> tuple[PyTree, Any]:
    if not isinstance(inputs, tuple | list) or len(inputs) != 2:
        raise ValueError(f"{who}: a cell takes (carry, x), where None is a carry of zeros")
    carry, x = inputs
    check_rank(who, x, 0, "(batch, features)")
    if len(x.shape) != 2:
        raise ValueError(
            f"{who}: expected x of one step, (batch, features), got {x.shape}. "
            "For a sequence use the layer without _cell"
        )
    return carry, x


def recurrent(cell: Layer | Callable, *, name: str | None = None) -> Layer:
    """Run any cell over time, such as one made by `compose`, as a sequence layer.

    A cell is a layer `(carry, x_t) -> (carry, y_t)`, where x_t has no time axis and the carry is a
    pytree of arrays, batch axis first. It must accept None as the carry before the first step; the
    carry it returns for None gives the shapes of the carry, which then starts as zeros of these
    shapes. `recurrent(lstm_cell(8))` has the values of `lstm(8)`, which trains faster. The state of
    the cell passes from step to step, and each step has its own random key.

    Args:
      cell: Cell as above.
      name: Name of the layer; the name of the cell by default.

    Params:
      The params of the cell.

    Returns:
      A layer from a sequence to the outputs of the cell at each step.

    Raises:
      ValueError: If the input is not a sequence.
      ValueError: If the carry does not fit.

    Example:
      A leaky sum:

      >>> def leaky(m, given):
      ...     total, x = given
      ...     total = x if total is None else 0.5 * total + x
      ...     return total, total
      >>> layer = recurrent(jn.compose(leaky))
      >>> y, _ = layer.apply({}, {}, jnp.ones((2, 3, 1)))
      >>> y[0].ravel().tolist()
      [1.0, 1.5, 1.75]
    """
    cell = as_layer(cell, "recurrent", "cell")
    name = cell.name if name is None else name

    def init(run, key, inputs):
        step = _one_step(read_chunk(run.mode, inputs, name, rank=2).x)
        in_stream = run.mode.stream is not None
        run = run.changed(stream=None)
        params, state = run.init(key, (None, step))
        for entry in state:
            if entry.startswith(CARRY):
                raise ValueError(
                    f"{name}: the cell has the state {entry!r}; names that begin with {CARRY!r} "
                    "are those of the carry in a stream. Give it another name"
                )
        if in_stream:
            state = state | _state_entries(_zero_carry(partial(run, turn=0), params, state, step))
        return params, state

    def apply(run, params, state, inputs):
        sequence = read_chunk(run.mode, inputs, name, rank=2)
        if run.mode.stream is None:
            y, final, state = _over_time(name, run, params, state, sequence)
            return sequence.write(y, final), state
        run = run.changed(stream=None)  # the cell runs step by step
        before, inner = {}, {}
        for entry, value in state.items():
            part = before if entry.startswith(CARRY) else inner
            part[entry] = value
        zero = _zero_carry(partial(run, turn=0), params, inner, _one_step(sequence.x))
        needed = _state_entries(zero)
        compare("state", needed, before, inputs)
        leaves = [before[entry] for entry in needed]
        carry = jax.tree.unflatten(jax.tree.structure(zero), leaves)
        sequence = sequence._replace(initial=carry)
        y, final, inner = _over_time(name, run, params, inner, sequence)
        after = {}
        for entry, value in _state_entries(final).items():
            after[entry] = value.astype(before[entry].dtype)
        return sequence.write(y, final), inner | after

    return transformed(cell, apply, kind="recurrent", init=init, name=name, inputs=())


CARRY = "carry_"  # beginning of the names of a carry in the state of a stream


def _one_step(x: Any) -> jax.ShapeDtypeStruct:
    """Return the spec of x_t."""
    return jax.ShapeDtypeStruct((x.shape[0], *x.shape[2:]), x.dtype)


def _over_time(
    name: str, run: Callable, params: Params, state: State, sequence: Sequence
) -> tuple[jax.Array, PyTree, State]:
    """Return the outputs, the last carry and the state of a cell that runs over a sequence."""
    zero = _zero_carry(partial(run, turn=0), params, state, _one_step(sequence.x))
    carry = _initial(name, sequence.initial, zero)
    x = sequence.without_padding()
    mask = sequence.mask()
    if mask is not None:
        mask = mask.T  # (time, batch)

    def step(loop, now):
        carry, state = loop
        x, counts, t = now
        (new, y), after = run(params, state, (carry, x), turn=t)
        if after.keys() != state.keys():
            raise ValueError(
                f"{name}: values sown inside a cell cannot be collected; return them as outputs "
                "of the cell"
            )
        if describe(new) != describe(carry):
            raise ValueError(
                f"{name}: the cell must return a carry like the one that it gets, "
                f"{describe(carry)}, got {describe(new)}"
            )
        if counts is not None:
            new = _where(counts, new, carry)
        return (new, after), y

    steps = (x.swapaxes(0, 1), mask, jnp.arange(x.shape[1]))
    start = varying((carry, state), params, carry, x)
    (final, state), y = jax.lax.scan(step, start, steps)
    return y.swapaxes(0, 1), final, state


def _initial(name: str, initial: PyTree, zero: PyTree) -> PyTree:
    """Return the given carry, or zeros; raise unless it has the shapes of the zeros."""
    if initial is None:
        return zero
    needed, got = jax.tree.map(jnp.shape, zero), jax.tree.map(jnp.shape, initial)
    if got != needed:
        raise ValueError(
            f"{name}: the initial carry must have the shapes {needed}, got {got}. "
            "Omit it to start from zeros"
        )
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), initial, zero)


def _where(counts: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """Return the new carry of the examples whose step counts, else the old one."""

    def where(new, old):
        ones = [1] * (new.ndim - 1)
        return jnp.where(counts.reshape(-1, *ones), new, old)

    return jax.tree.map(where, new, old)


def initial_carry(cell: Layer, x: Any) -> PyTree:
    """Return the carry of zeros of a cell, for a hand-written loop.

    Args:
      cell: Layer `(carry, x_t) -> (carry, y_t)`.
      x: Input of one step, or its spec, without the time axis.

    Returns:
      Zeros of the shape of the carry: an array, or a dict of arrays as for `lstm_cell`.

    Example:
      >>> initial_carry(jn.layers.gru_cell(4), jn.spec((2, 3))).shape
      (2, 4)
    """
    cell = as_layer(cell, "initial_carry", "cell")
    x = check_input("initial_carry", x)
    params, state = jax.eval_shape(lambda key: cell.init(key, (None, x)), key_spec())

    def run(params, state, inputs):
        return cell.apply(params, state, inputs, key=jax.random.key(0), train=True)

    return _zero_carry(run, params, state, x)


def _state_entries(carry: PyTree) -> dict[str, Any]:
    """Return a carry as entries of the state of a stream."""
    return {f"{CARRY}{i}": leaf for i, leaf in enumerate(jax.tree.leaves(carry))}


def _zero_carry(run: Callable, params: Params, state: State, x: Any) -> PyTree:
    """Return the carry of zeros of a cell, given as a function of params, state and input."""

    def carry(params, state, inputs):
        pair, _ = run(params, state, inputs)
        return pair[0]

    shapes = jax.eval_shape(carry, params, state, (None, x))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
