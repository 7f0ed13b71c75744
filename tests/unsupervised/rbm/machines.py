"""Small machines and data, and sums over all their states written out in NumPy."""

from itertools import product

import jax.numpy as jnp
import numpy as np

import jaxnet as jn

OPTIONS = {"epochs": 15, "learning_rate": 0.3, "batch_size": 50, "persistent": True}


def draw(inputs, features, scale=1.0, seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(scale * random.normal(size=(inputs, features)), dtype),
        "bias": jnp.asarray(scale * random.normal(size=features), dtype),
        "visible_bias": jnp.asarray(scale * random.normal(size=inputs), dtype),
    }


def states(n):
    return np.array(list(product([0.0, 1.0], repeat=n)))


def crops():
    """The 4 x 3 pixels in the middle of the digits, black or white."""
    (x, _), _ = jn.data.digits()
    return (x[:, 2:6, 2:5, 0] > 0.5).astype(np.float32).reshape(len(x), -1)
