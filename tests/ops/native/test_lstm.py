"""An LSTM in C against the one in JAX. `tools.native` compares its values with plain loops."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops import recurrence
from jaxnet.ops.native import instructions
from jaxnet.ops.recurrence import LSTM, unroll
from jaxnet.profile.program import flops_of, parse
from jaxnet.services.trees import Memo

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")


def lstm_arguments(steps=9, batch=6, features=19, masked=True, dtype=np.float32):
    rng = np.random.default_rng(5)
    wide, carry = 4 * features, (batch, features)
    shapes = (steps, batch, wide), (features, wide), (wide,), carry, carry
    pre, kernel, bias, c, h = (jnp.asarray(rng.normal(size=s), dtype) for s in shapes)
    mask = np.arange(steps)[:, None, None] < rng.integers(1, steps + 1, batch)[:, None]
    given = pre, kernel * 0.3, (bias, None), {"c": c, "h": h}
    return given, jnp.asarray(mask) if masked else None


def lstm_loss(given, mask):
    h, final = unroll(LSTM, *given, mask)
    last = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(final))
    return (jnp.sin(h) * jnp.arange(1.0, 1 + h.shape[-1])).sum() + last


def compiled(function, *args):
    return jax.jit(lambda *args: function(*args)).lower(*args).compile()


def in_xla(monkeypatch, function, *args):
    """What the function gives without the kernels."""
    with monkeypatch.context() as patch:
        patch.setattr(recurrence, "_run", lambda loop, cell, *args: loop(cell, *args))
        patch.setattr(recurrence, "memo_of", lambda owner: Memo())
        program = compiled(function, *args)
    assert "jaxnet_lstm" not in program.as_text()
    return program(*args)


def close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(1, abs(b).max()))


@pytest.mark.fast_cases("True")
@pytest.mark.parametrize("masked", [False, True])
def test_derivatives_of_an_lstm_agree_with_xla(monkeypatch, masked):
    """To second order, under vmap and remat and in a scan."""
    given, mask = lstm_arguments(masked=masked)

    def everything(given, mask):
        loss = partial(lstm_loss, mask=mask)
        moved = jax.tree.map(jnp.cos, given)
        scaled = lambda k: jax.grad(loss)(jax.tree.map(lambda a: a * k, given))  # noqa: E731
        return {
            "gradient": jax.grad(loss)(given),
            "tangent": jax.jvp(loss, (given,), (moved,)),
            "second": jax.jvp(jax.grad(loss), (given,), (moved,)),
            "reverse twice": jax.grad(lambda a: jnp.sin(jax.grad(loss)(a)[1]).sum())(given),
            "remat": jax.grad(jax.checkpoint(loss))(given),
            "vmap": jax.vmap(scaled)(jnp.linspace(0.5, 1, 2)),
            "scan": jax.lax.scan(lambda s, _: (s * loss(given), jax.grad(loss)(given)), 1.0,
                                 None, 2),
        }  # fmt: skip

    program = compiled(everything, given, mask)
    for target in ("jaxnet_lstm", "jaxnet_lstm_back"):
        assert f'"{target}"' in program.as_text()
    close(program(given, mask), in_xla(monkeypatch, everything, given, mask))


@pytest.mark.parametrize(
    "where, value", [("pre", np.nan), ("pre", np.inf), ("c", np.nan), ("kernel", np.nan)]
)
def test_nan_and_infinity_pass_through_an_lstm(monkeypatch, where, value):
    (pre, kernel, biases, carry), mask = lstm_arguments(masked=False)
    if where == "pre":
        pre = pre.at[3, 2, 5].set(value)
    elif where == "kernel":
        kernel = kernel.at[0, 7].set(value)
    else:
        carry = carry | {"c": carry["c"].at[1, 3].set(value)}
    given = pre, kernel, biases, carry
    gradient = jax.value_and_grad(lstm_loss)
    found = compiled(gradient, given, mask)(given, mask)
    expected = in_xla(monkeypatch, gradient, given, mask)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


@pytest.mark.slow
def test_what_an_lstm_leaves_to_xla():
    given, mask = lstm_arguments()
    gradient = jax.grad(lstm_loss)
    assert "jaxnet_lstm_back" in compiled(gradient, given, mask).as_text()
    short, mask = lstm_arguments(steps=2)
    assert "jaxnet_lstm" not in compiled(gradient, short, mask).as_text()
    half, mask = lstm_arguments(dtype=jnp.bfloat16)
    assert "jaxnet_lstm" not in compiled(gradient, half, mask).as_text()
    alone, mask = lstm_arguments(batch=1)
    assert "jaxnet_lstm" not in compiled(gradient, alone, mask).as_text()


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
    expected = bits(program(given, mask))
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: bits(program(given, mask)), range(100))) == {expected}


def bits(tree):
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))
