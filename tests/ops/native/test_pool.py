"""Largest entries in C against the form in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxnet as jn
from jaxnet.ops.native import instructions, pool

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

CASES = {
    "overlapping": (2, 3, dict(strides=2, padding="SAME")),
    "line": (1, 3, dict(strides=1, padding=[(2, 0)])),
    "dilated": (2, (2, 3), dict(strides=(1, 2), dilation=2, padding=1)),
    "cropped": (2, 2, dict(strides=1, padding=[(-1, 1), (0, -2)])),
    "apart": (2, 2, dict(strides=3)),
}


def operands(case, features=20):
    axes, window, options = CASES[case]
    x = np.random.default_rng(0).integers(-3, 4, (3, 7, 9, features)[-axes - 2 :])
    return jn.max_pool(window, **options), jnp.asarray(x, jnp.float32).at[0, 3, 2].set(jnp.nan)


def both(layer, x):
    """The values and the gradient of a weighted sum of them, and the text of their program."""

    def weighted(x):
        y, _ = layer.apply({}, {}, x)
        return (y * jnp.arange(1.0, y.size + 1).reshape(y.shape)).sum(), y

    program = jax.jit(lambda x: jax.vjp(lambda x: weighted(x)[1], x)).lower(x).compile()
    pulled = jax.jit(jax.grad(weighted, has_aux=True)).lower(x).compile()
    return pulled(x), program.as_text() + pulled.as_text()


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, monkeypatch):
    """Equal entries and a NaN included, to the bit: sums of small integers are exact."""
    layer, x = operands(case)
    found, text = both(layer, x)
    assert text.count('custom_call_target="jaxnet_max_pool"') >= 2
    monkeypatch.setattr(pool, "supports", lambda *leaves, form: False)
    jax.clear_caches()
    wanted, text = both(layer, x)
    assert "jaxnet_max_pool" not in text
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_windows_of_one_lowest_number_stay_in_the_input():
    y, pull = jax.vjp(
        jax.jit(lambda x: jn.max_pool(3, strides=2, padding=1).apply({}, {}, x)[0]),
        jnp.full((1, 3, 3, 16), -jnp.inf),
    )
    assert (y == -jnp.inf).all() and float(pull(jnp.ones_like(y))[0].sum()) == y.size


def test_second_derivatives_and_vmap():
    layer = jn.max_pool(2, strides=1)
    x = jax.random.permutation(jax.random.key(0), jnp.linspace(-1, 1, 2 * 12 * 16))
    x = x.reshape(2, 1, 3, 4, 16)

    def energy(x):
        return (layer.apply({}, {}, x)[0] ** 3).sum()

    check_grads(jax.jit(energy), (x[0],), 2, rtol=0.02, eps=1e-3)
    gradient = jax.jit(jax.grad(energy))
    each = jnp.stack([gradient(one) for one in x])
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(x), each, 1e-6)


@pytest.mark.parametrize("change", [
    lambda x: x[..., :15], lambda x: x.astype(jnp.bfloat16), lambda x: jnp.stack([x, x, x], 1),
], ids=["features", "dtype", "volume"])  # fmt: skip
def test_others_run_in_jax(change):
    layer, x = operands("overlapping")
    text = jax.jit(lambda x: jn.max_pool(3, strides=2).apply({}, {}, x)[0]).lower(change(x))
    assert "jaxnet_max_pool" not in text.as_text()
    assert "jaxnet_max_pool" in jax.jit(lambda x: layer.apply({}, {}, x)).lower(x).as_text()
