"""An LSTM and an RNN of tanh in C against the loops in JAX."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops import recurrence
from jaxnet.ops.native import instructions
from jaxnet.ops.recurrence import LSTM, TANH, unroll
from jaxnet.profile.program import flops_of, parse
from jaxnet.services.trees import Memo
from tests.helpers import compiled, near

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")


def lstm_arguments(steps=9, batch=6, features=19, masked=True, dtype=np.float32, cell=LSTM):
    rng = np.random.default_rng(5)
    wide, carry = cell.gates * features, (batch, features)
    shapes = (steps, batch, wide), (features, wide), (wide,), carry, carry
    pre, kernel, bias, c, h = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    mask = np.arange(steps)[:, None, None] < rng.integers(1, steps + 1, batch)[:, None]
    given = pre, kernel * 0.3, (bias, None), {"c": c, "h": h} if cell.memory else h
    return given, jnp.asarray(mask) if masked else None


def lstm_loss(given, mask):
    h, final = unroll(LSTM if isinstance(given[-1], dict) else TANH, *given, mask)
    last = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(final))
    return (jnp.sin(h) * jnp.arange(1.0, 1 + h.shape[-1])).sum() + last


def in_xla(monkeypatch, function, *args):
    """What the function gives without the kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(recurrence, "_run", lambda loop, cell, *args: loop(cell, *args))
        patch.setattr(recurrence, "memo_of", lambda owner: Memo())
        program = compiled(function, *args)
    assert "jaxnet" not in program.as_text()
    return program(*args)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "cell, targets", [(LSTM, ["lstm", "lstm_back"]), (TANH, ["rnn"])], ids=["lstm", "rnn"]
)
def test_derivatives_of_a_loop_agree_with_xla(monkeypatch, masked, cell, targets):
    """To second order, under vmap and remat and in a scan."""
    given, mask = lstm_arguments(masked=masked, cell=cell)

    def everything(given, mask):
        loss = partial(lstm_loss, mask=mask)
        gradient = jax.grad(loss)
        moved = jax.tree.map(jnp.cos, given)

        def of_gradient(given):
            _, by_kernel, *_ = gradient(given)
            return jnp.sin(by_kernel).sum()

        def scaled(factor):
            return gradient(jax.tree.map(lambda a: a * factor, given))

        def step(total, _):
            return total * loss(given), gradient(given)

        return {
            "gradient": gradient(given),
            "tangent": jax.jvp(loss, (given,), (moved,)),
            "second": jax.jvp(gradient, (given,), (moved,)),
            "reverse twice": jax.grad(of_gradient)(given),
            "remat": jax.grad(jax.checkpoint(loss))(given),
            "vmap": jax.vmap(scaled)(jnp.linspace(0.5, 1, 2)),
            "scan": jax.lax.scan(step, 1.0, None, 2),
        }

    program = compiled(everything, given, mask)
    for target in targets:
        assert f'"jaxnet_{target}"' in program.as_text()
    near(program(given, mask), in_xla(monkeypatch, everything, given, mask), 2e-5)


@pytest.mark.fast_cases("rnn-kernel-nan", "rnn-c-nan", "lstm-pre-inf")
@pytest.mark.parametrize(
    "where, value", [("pre", np.nan), ("pre", np.inf), ("c", np.nan), ("kernel", np.nan)]
)
@pytest.mark.parametrize("cell", [LSTM, TANH], ids=["lstm", "rnn"])
def test_nan_and_infinity_pass_through_a_loop(monkeypatch, where, value, cell):
    (pre, kernel, biases, carry), mask = lstm_arguments(masked=False, cell=cell)
    if where == "pre":
        pre = pre.at[3, 2, 5].set(value)
    elif where == "kernel":
        kernel = kernel.at[0, 7].set(value)
    else:
        carry = jax.tree.map(lambda leaf: leaf.at[1, 3].set(value), carry)
    given = pre, kernel, biases, carry
    gradient = jax.value_and_grad(lstm_loss)
    found = compiled(gradient, given, mask)(given, mask)
    expected = in_xla(monkeypatch, gradient, given, mask)
    jax.tree.map(np.testing.assert_array_equal, *jax.tree.map(np.isnan, (found, expected)))


@pytest.mark.parametrize("size", [20.0, 1e30, np.inf])
@pytest.mark.parametrize("cell", [LSTM, TANH], ids=["lstm", "rnn"])
def test_saturated_steps_have_no_slope(cell, size):
    """As in XLA: a slope of 5e-7 times a huge number of the kernel or carry would pass through."""
    (pre, kernel, biases, carry), _ = lstm_arguments(masked=False, cell=cell)
    saturated = jnp.where(pre < 0, -size, size)
    given = saturated, 0 * kernel, biases, carry
    by_pre, *_ = compiled(jax.grad(lstm_loss), given, None)(given, None)
    if cell.memory:  # the carry stays where it forgets nothing
        by_pre = by_pre.reshape(*by_pre.shape[:2], 4, -1)[..., :3, :]
    assert not by_pre.any()


def test_steps_that_are_left_out_may_be_nan_in_xla_too(monkeypatch):
    given, mask = lstm_arguments()
    pre = jnp.where(mask, given[0], jnp.nan)
    given = pre, *given[1:]
    gradient = jax.grad(lstm_loss)
    found = compiled(gradient, given, mask)(given, mask)
    near(in_xla(monkeypatch, gradient, given, mask), found, 2e-5)
    assert jax.tree.all(jax.tree.map(lambda a: jnp.isfinite(a).all(), found))


@pytest.mark.slow
def test_what_an_lstm_leaves_to_xla():
    given, mask = lstm_arguments()
    gradient = jax.grad(lstm_loss)
    assert "jaxnet_lstm_back" in compiled(gradient, given, mask).as_text()
    for options in {"steps": 2}, {"batch": 1}:
        assert "jaxnet_lstm" not in compiled(gradient, *lstm_arguments(**options)).as_text()


@pytest.mark.parametrize("change, message", [
    (dict(kernel=(6, 12)), "wide"), (dict(pre=(8, 4, 13)), "GATES"), (dict(c=(4, 4)), "batch"),
])  # fmt: skip
def test_arrays_of_an_lstm_that_do_not_fit_are_errors(change, message):
    shapes = dict(pre=(8, 4, 12), kernel=(3, 12), bias=(12,), c=(4, 3), h=(4, 3)) | change
    results = [jax.ShapeDtypeStruct(s, np.float32) for s in ((8, 4, 3), (4, 3))]
    call = jax.ffi.ffi_call("jaxnet_lstm", results)
    with pytest.raises(Exception, match=f"jaxnet: not .*{message}"):
        jax.jit(call)(*(np.ones(shape, np.float32) for shape in shapes.values()))


def test_flops_of_an_lstm_are_counted():
    given, mask = lstm_arguments(steps=9, batch=6, features=19)
    flops = 2 * 9 * 6 * 19 * 4 * 19
    assert jn.inspect.flops(partial(unroll, LSTM), *given, mask) == flops
    text = compiled(partial(unroll, LSTM), *given, mask).as_text()
    runs = [run for run in parse(text).runs() if "jaxnet_lstm" in run.instruction.attributes]
    assert sum(map(flops_of, runs)) == flops


def test_threads_that_compute_at_once_have_the_same_bits():
    given, mask = lstm_arguments(steps=12, batch=40)
    program = jax.jit(jax.grad(lstm_loss))

    def bits(_=None):
        leaves = jax.tree.leaves(program(given, mask))
        return b"".join(np.asarray(leaf).tobytes() for leaf in leaves)

    expected = bits()
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(bits, range(100))) == {expected}
