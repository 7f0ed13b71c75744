"""`check_stream` names the first layer whose chunks differ."""

import jax.numpy as jnp
import pytest

import jaxnet as jn
from tests.helpers import KEY, draw, jit_init

X = jnp.asarray(draw(2, 5, 4), jnp.float32)


def check(net, **options):
    params, state = jit_init(net, KEY, X)
    jn.inspect.check_stream(net, params, state, X, **options)


@pytest.mark.slow
def test_a_net_that_streams_passes():
    check(jn.serial(jn.dense(4), jn.multi_head_attention(2, causal=True), jn.gru(3), jnp.tanh))


@pytest.mark.slow
def test_tokens_without_an_axis_of_time_pass():
    check(jn.serial(jn.moe(jn.dense(3), 2, 1), jn.gru(2)))
    net, x = jn.gru(3), {"x": X}
    params, state = net.init(KEY, x)
    jn.inspect.check_stream(net, params, state, x)


@pytest.mark.parametrize(("net", "path"), [
    pytest.param(
        jn.serial(jn.moe(jn.dense(3), 2, 1), lambda x: jnp.cumsum(x, 1)), "serial/lambda",
        marks=pytest.mark.slow,
    ),
    (jn.serial(jn.dense(3), lambda x: jnp.cumsum(x, 1), jn.gru(2)), "serial/lambda"),
    (jn.serial(jn.repeat(jn.serial(lambda x: x[:, ::-1]), 3), jnp.tanh), "serial/serial"),
])  # fmt: skip
def test_the_first_layer_that_differs_is_named(net, path):
    with pytest.raises(ValueError, match=f"the outputs of {path} differ in a stream by "):
        check(net)


def test_a_large_tolerance_lets_it_pass():
    check(jn.serial(lambda x: x + 1e-3 * jnp.cumsum(x, 1)), tolerance=0.1)


def test_one_step_is_too_few():
    with pytest.raises(ValueError, match="sequences of two steps or more"):
        jn.inspect.check_stream(jn.gru(3), {}, {}, X[:, :1])
