"""LSTM: the forget bias and messages; tests/layer_values.py has its values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import initializers
from jaxnet.layers.lstm import forget_bias
from tests.compiled import jit_apply
from tests.helpers import refused
from tests.layers.test_recurrent import random, random_params


@pytest.mark.slow
def test_a_fresh_lstm_remembers():
    """With the forget gate's bias at 1 the first input's gradient reaches the 20th step."""

    def reach(bias_init):
        layer = jn.lstm(30, bias_init=bias_init)
        x = random(2, 20, 10).astype(np.float32)
        params, _ = layer.init(jax.random.key(0), x)
        slope = jax.jit(jax.grad(lambda x: jit_apply(layer, params, {}, x)[0][:, -1].sum()))(x)
        return jnp.abs(slope[:, 0]).mean() / jnp.abs(slope[:, -1]).mean()

    # 19 steps of sigmoid(1) = 0.73 against sigmoid(0) = 0.5: about (0.73 / 0.5)^19 = 1350 times
    assert 50 < reach(forget_bias(1.0)) / reach(initializers.zeros) < 50_000
    assert forget_bias(2.0)(jax.random.key(0), (12,)).tolist() == [0] * 3 + [2] * 3 + [0] * 6


PARAMS = random_params("lstm")


@refused([
    (jnp.ones((6, 5)), r"lstm: .* \(batch, time, features\), got \(6, 5\)\. For"),
    (jnp.ones((3, 6, 5, 1)), r"expected x of shape \(batch, time, features\)"),
    (jnp.ones((3, 0, 5)), "at least one time step"),
    ((jnp.ones((3, 6, 5)),) * 3, r"a tuple is \(x, lengths\), got 3"),
    ((jnp.ones((3, 6, 5)), jnp.ones(3)), TypeError, "lengths must be an array of integers"),
    ((jnp.ones((3, 6, 5)), jnp.ones(2, int)), r"must be \(batch,\) = \(3,\)"),
    ((jnp.ones((3, 6, 5)), jnp.array([7, 1, 2])), r"in \[0, 6\].*got 1 to 7"),
    ((jnp.ones((3, 6, 5)), jnp.array([-1, 1, 2])), r"in \[0, 6\].*got -1 to 2"),
    ({"lengths": jnp.ones(3, int)}, "a dict needs 'x'"),
    ({"x": jnp.ones((3, 6, 5)), "length": jnp.ones(3, int)}, "'length'"),
    ({"x": jnp.ones((3, 6, 5)), "initial": jnp.ones((3, 4))},
     r"a dict of c and h, each \(batch, features\) = \(3, 4\), got \(3, 4\)"),
    ({"x": jnp.ones((3, 6, 5)), "initial": {"c": jnp.ones((3, 4)), "h": jnp.ones((1, 4))}},
     r"initial carry must be .* got \{'c': \(3, 4\), 'h': \(1, 4\)\}"),
])  # fmt: skip
def test_wrong_inputs_of_a_layer(given):
    jn.lstm(4).apply(jax.tree.map(jnp.float32, PARAMS), {}, given)
