"""When the loops of recurrent layers run in C, and what they return there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.native import instructions
from jaxnet.ops.native.lstm import loops, supports
from jaxnet.ops.recurrence import LSTM, simple_cell, unroll
from tests.helpers import close

TIME, BATCH, FEATURES = 8, 4, 3


def operands(gates: int, dtype=jnp.float32):
    rng = np.random.default_rng(gates)
    pre = jnp.asarray(rng.normal(size=(TIME, BATCH, gates * FEATURES)), dtype)
    kernel = jnp.asarray(rng.normal(size=(FEATURES, gates * FEATURES)), dtype)
    return pre, kernel


@pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")
def test_enough_steps_and_rows_are_supported():
    pre, kernel = operands(4)
    assert supports(pre, kernel)
    assert not supports(pre[:7], kernel)
    assert not supports(pre[:, :3], kernel)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_dtypes_run_in_jax(dtype):
    pre, kernel = operands(4)
    assert not supports(np.asarray(pre).astype(dtype), kernel)


@pytest.mark.parametrize("memory", [False, True])
def test_the_tangents_have_a_loop_back_alone(memory):
    values, with_slopes, back = loops(memory)
    assert values.transpose is None and with_slopes.transpose is None
    assert back.transpose is not None
    assert back.linear == (3 if memory else 2)


@pytest.mark.parametrize("cell", [LSTM, simple_cell(jnp.tanh)], ids=["lstm", "rnn"])
def test_the_loops_agree_with_steps_one_by_one(cell):
    pre, kernel = operands(cell.gates)
    zero = jnp.zeros((BATCH, FEATURES))
    carry = {"c": zero, "h": zero} if cell.memory else zero

    def last(pre, kernel, run):
        return jnp.sum(jnp.sin(run(pre, kernel)))

    def fast(pre, kernel):
        return unroll(cell, pre, kernel, (None, None), carry, None)[0]

    def one_by_one(pre, kernel):
        now, found = carry, []
        for step in pre:
            hidden = now["h"] if cell.memory else now
            now, _ = cell.step(step, hidden @ kernel, now)
            found.append(now["h"] if cell.memory else now)
        return jnp.stack(found)

    close(fast(pre, kernel), one_by_one(pre, kernel), 1e-5)
    grads = [jax.grad(last, (0, 1))(pre, kernel, run) for run in (fast, one_by_one)]
    jax.tree.map(lambda a, b: close(a, b, 1e-4), *grads)
