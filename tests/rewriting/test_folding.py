"""What is folded, and what is left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.rewriting.folding import Call, Folded
from tests.helpers import near
from tests.rewriting.test_inference import calls_of, made


def test_norms_biases_and_activations_become_part_of_convolutions():
    first_block = jn.conv(8, 3, use_bias=False), jn.batch_norm(), jax.nn.relu
    second_block = jn.conv(8, 3), jn.batch_norm(use_scale=False), jax.nn.silu
    net = jn.serial(*first_block, *second_block, jn.flatten(), jn.dense(5), jnp.tanh)
    x = jnp.ones((8, 8, 8, 3))
    params, state = made(net, x)
    first, second, third = (call.fused for call in calls_of(net, params, state, x))
    assert (first.least, first.most, first.activation) == (0, np.inf, "")
    assert (second.activation, third.activation) == ("silu", "tanh")
    program = jax.make_jaxpr(lambda x: net.apply(params, state, x)[0])(x)
    left = [call.name for call in Folded(program, in_c=False).calls if not isinstance(call, Call)]
    assert not set(left) - {"broadcast_in_dim", "reshape", "squeeze"}, left


def test_a_residual_is_added_where_the_later_convolution_ends():
    def block(m, x):
        y = jax.nn.relu(m(jn.conv(8, 3), x))
        return jax.nn.relu(m(jn.conv(8, 3), y) + x)

    net, x = jn.compose(block), jnp.ones((1, 6, 6, 8))
    calls = calls_of(net, *made(net, x), x)
    assert [call.added is not None for call in calls] == [False, True]
    assert calls[1].fused.least == 0


def test_an_output_with_two_readers_is_computed_once():
    def net(m, x):
        y = m(jn.conv(8, 3), x)
        return jax.nn.relu(y) + jnp.sin(y)

    net, x = jn.compose(net), jnp.ones((1, 6, 6, 3))
    params, state = made(net, x)
    assert len(calls_of(net, params, state, x)) == 1
    near(jn.optimize_for_inference(net, params, state)(x), net.apply(params, state, x)[0], 1e-5)


def test_weights_that_would_overflow_are_left():
    def net(m, x):
        y = m(jn.conv(8, 3, kernel_init=jn.initializers.constant(1e30)), x)
        return y * m.param("scale", jn.initializers.constant(1e20), (8,)) * 1e-30

    net, x = jn.compose(net), jnp.full((1, 6, 6, 8), 1e-20)
    params, state = net.init(jax.random.key(0), x)
    want, _ = net.apply(params, state, x)
    near(jn.optimize_for_inference(net, params, state)(x), want, 1e-5)


def test_weights_that_would_lose_digits_below_float32_are_left():
    kernel = jnp.full((8, 8), 1e-8)

    def net(x):
        return jax.nn.relu(x @ kernel * 1e-31)

    x = jnp.full((20, 8), 1e38)
    near(jn.optimize_for_inference(net)(x), net(x), 1e-5)


def test_a_bias_beyond_float32_is_infinite():
    kernel = jnp.ones((8, 8))

    def net(x):
        return (x @ kernel + 3e38) + 3e38 - 3e38

    x = jnp.ones((20, 8))
    assert np.isinf(net(x)).all() and np.isinf(jn.optimize_for_inference(net)(x)).all()


@pytest.mark.parametrize("shape", [(0, 8), (8, 0), (0, 0)])
def test_arrays_without_numbers(shape):
    kernel = jnp.ones(shape)

    def net(x):
        return jax.nn.relu(2 * (x @ kernel) + 1)

    x = jnp.ones((20, shape[0]))
    near(jn.optimize_for_inference(net)(x), net(x), 1e-5)
    near(jn.optimize_for_inference(net)(x[:0]), net(x[:0]), 1e-5)


def test_results_that_are_known_or_given_are_returned():
    program = jax.make_jaxpr(lambda x: (x, jnp.exp(np.ones(2)), 3.0))(jnp.ones(2))
    folded = Folded(program, in_c=False)
    x, known, number = folded.run(folded.constants, folded.others, [jnp.full(2, 7.0)])
    assert x.tolist() == [7, 7] and number == 3
    np.testing.assert_allclose(known, np.exp(np.ones(2)), rtol=1e-6)


def test_steps_with_effects_are_kept(capfd):
    def net(x):
        jax.debug.print("seen {}", x.sum())
        return x

    folded = Folded(jax.make_jaxpr(net)(jnp.ones(2)), in_c=False)
    folded.run(folded.constants, folded.others, [jnp.ones(2)])
    jax.effects_barrier()
    assert "seen 2.0" in capfd.readouterr().out
