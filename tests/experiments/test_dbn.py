import jax.numpy as jnp
import pytest

import jaxnet as jn
from experiments import dbn


@pytest.mark.slow
def test_fine_tuning_starts_from_the_given_params():
    (x, y), test = jn.data.digits()
    train, test = (x[:300].reshape(-1, 64), y[:300]), (test[0].reshape(-1, 64), test[1])
    net = jn.models.mlp([30, 10])
    dead = {"dense": {"kernel": jnp.zeros((64, 30)), "bias": jnp.full(30, -9.0, jnp.float32)}}
    chance = dbn.fine_tune(0, net, dead, train, test, 60)
    assert 0 < chance < 0.2  # dead units stay dead, whatever is above them
