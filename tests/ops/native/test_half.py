"""Matrix products of bfloat16 in C against NumPy in float64, and who takes them."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.ops.native import instructions
from jaxnet.ops.native.conv import TARGET
from jaxnet.ops.product import product
from tests.helpers import near

pytestmark = pytest.mark.skipif(
    instructions() != "AVX-512-BF16", reason="needs a processor that multiplies bfloat16"
)
RNG = np.random.default_rng(0)


def numbers(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.bfloat16)


def both(x, w, dy, transposed=False):
    """The product and its gradients."""
    y, pull = jax.vjp(partial(product, transposed=transposed), x, w)
    return y, *pull(dy)


def calls(function, *args):
    return jax.jit(function).lower(*args).as_text().count(f"@{TARGET}(")


@pytest.mark.fast_cases("9000-33-1-True", "16-1-20000-True", "5-2001-40-True", "4200-3-31-True")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [
    (300, 515, 270), (5, 2001, 40), (4200, 3, 31), (9000, 33, 1), (16, 1, 20_000),
])  # fmt: skip
def test_values_and_gradients_are_rounded_once(rows, inputs, outputs, transposed):
    x = numbers(rows, inputs)
    w = numbers(inputs, outputs)
    dy = numbers(rows, outputs)
    if transposed:
        w = w.T
    run = partial(both, transposed=transposed)
    assert calls(run, x, w, dy) == 3
    found = jax.jit(run)(x, w, dy)
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    if transposed:
        expected = [x @ w.T, dy @ w, dy.T @ x]
    else:
        expected = [x @ w, dy @ w.T, x.T @ dy]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.bfloat16
        most = 1e-5 * max(1, abs(b).max())
        np.testing.assert_allclose(np.float64(a), b, rtol=2**-8, atol=most)


@pytest.mark.slow
def test_maps_over_either_operand_agree_with_float32():
    x, w, dy = numbers(3, 40, 100), numbers(3, 100, 90), numbers(3, 40, 90)
    for dims in (0, None, 0), (None, 0, 0), (0, 0, 0):
        given = [a if dim == 0 else a[0] for a, dim in zip((x, w, dy), dims, strict=True)]
        assert calls(jax.vmap(both, dims), *given) == 3
        found = jax.jit(jax.vmap(both, dims))(*given)
        expected = jax.vmap(both, dims)(*(a.astype(jnp.float32) for a in given))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.float32(a), b, rtol=2**-7, atol=1e-3)


def test_what_is_not_a_number_stays_in_its_row():
    x, w = numbers(64, 65), numbers(65, 100)
    for value in (np.nan, np.inf):
        found = np.isfinite(np.float32(product(x.at[5, 64].set(value), w)))
        assert not found[5].any() and np.delete(found, 5, 0).all()


def test_who_multiplies_elsewhere():
    """Small and float32 products, exported programs and those for accelerators are XLA's."""
    x, w, dy = numbers(512, 64), numbers(64, 64), numbers(512, 64)
    assert calls(both, *(a.astype(jnp.float32) for a in (x, w, dy))) == 0
    assert calls(both, x[:9], w, dy[:9]) == 0
    for platform in ("cpu", "tpu"):
        text = jax.export.export(jax.jit(both), platforms=[platform])(x, w, dy).mlir_module()
        assert TARGET not in text and text.count("stablehlo.dot_general") == 3


@pytest.mark.slow
def test_a_net_in_bfloat16_has_the_gradients_of_float32():
    net = jn.serial(jn.conv(16, 3), jnp.tanh, jn.conv(40, 1), jn.flatten(), jn.dense(200))
    x = jnp.asarray(RNG.normal(size=(8, 9, 9, 8)), jnp.float32)
    params, state = net.init(jax.random.key(0), x)

    def loss(net, params):
        return jnp.square(net.apply(params, state, x)[0].astype(jnp.float32)).mean()

    half = jax.grad(partial(loss, jn.cast(net, jnp.bfloat16)))
    assert calls(half, params) >= 6
    near(jax.jit(half)(params), jax.grad(partial(loss, net))(params), 0.03, 0)
