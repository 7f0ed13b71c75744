import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models.parts import divisible, gelu, squeeze_excite, unit
from tests.helpers import jit_apply, jit_init


@pytest.mark.parametrize(("number", "by", "expected"), [
    (3, 8, 8), (16, 8, 16), (67.2, 8, 64), (11, 8, 16), (104, 24, 96),
])  # fmt: skip
def test_multiples_lose_at_most_a_tenth(number, by, expected):
    assert divisible(number, by) == expected


def test_gelu_has_the_error_function():
    assert gelu(jnp.array(1.0)) == pytest.approx(0.841344746, abs=1e-6)


@pytest.mark.slow
def test_a_gate_for_each_map():
    net = jn.compose(lambda m, x: squeeze_excite(m, x, 2, jax.nn.relu, jax.nn.sigmoid))
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    params, state = jit_init(net, jax.random.key(0), x)
    params = jax.device_get(params)
    squeeze = params["squeeze"]["kernel"][0, 0]
    excite = params["excite"]["kernel"][0, 0]
    inner = np.maximum(x.mean((1, 2)) @ squeeze, 0)
    gate = 1 / (1 + np.exp(-inner @ excite))
    y, _ = jit_apply(net, params, state, x)
    np.testing.assert_allclose(y, x * gate[:, None, None], rtol=1e-5, atol=1e-6)


def test_padding_is_that_of_pytorch():
    """At strides of 2 the first window begins outside, and the last one ends inside."""
    net = jn.compose(lambda m, x: unit(m, x, 1, 3, 2, name="conv", activation=None))
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    params, state = jit_init(net, jax.random.key(0), x)
    params["conv"]["kernel"] = np.ones((3, 3, 1, 1), np.float32)
    y, _ = jit_apply(net, params, state, x)
    wanted = [[0 + 1 + 4 + 5, 1 + 2 + 3 + 5 + 6 + 7], [4 + 5 + 8 + 9 + 12 + 13, 90]]
    np.testing.assert_allclose(y[0, :, :, 0], wanted, rtol=1e-4)
