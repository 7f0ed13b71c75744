"""A net that combines the examples of a batch in evaluation is told from one that does not."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.mixing import mixing_hint
from tests.catalogue import cases

KEYS_MAY_REPEAT = True
KEY = jax.random.key(1)
X = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
MIXES = {
    "mean": lambda z: z - z.mean(0),
    "softmax": lambda z: jax.nn.softmax(z, 0),
    "norm": lambda z: z / jnp.linalg.norm(z, axis=0),
    "largest of all": lambda z: z / jnp.abs(z).max(),
    "similarity": lambda z: z @ z.T @ z,
    "sorted": lambda z: jnp.sort(z, 0),
    "running": lambda z: jnp.cumsum(z, 0),
    "in a loop": lambda z: jax.lax.fori_loop(0, 3, lambda _, z: z - z.mean(0), z),
    "compiled": jax.jit(lambda z: z - z.mean(0)),
    "flat": lambda z: z - z.reshape(-1).mean(),
}
KEEPS_APART = {
    "features": lambda z: z - z.mean(-1, keepdims=True),
    "softmax": jax.nn.softmax,
    "similarity of features": lambda z: jnp.einsum("nf,ng->nfg", z, z).mean(-1),
    "an unused sum": lambda z: (z, z.sum(0))[0],
    "how many are positive": lambda z: z * (1 + 0 * (z > 0).sum()),  # a count of booleans
}


def net(function):
    return jn.serial(jn.dense(4), function)


@pytest.mark.parametrize("name", MIXES)
def test_what_combines_examples_is_said_before_anything_is_computed(name):
    layer = net(MIXES[name])
    params, state = layer.init(KEY, X)
    words = "the outputs of an example depend on the other examples"
    with pytest.warns(UserWarning, match=f"predict: in evaluation, {words}"):
        small = jn.predict(layer, params, state, X, batch_size=3)
    with pytest.warns(UserWarning, match=words):
        large = jn.predict(layer, params, state, X, batch_size=12)
    assert np.abs(small - large).max() > 1e-3  # so the warning is right
    objective = jn.supervised(layer, optax.squared_error)
    with pytest.warns(UserWarning, match=f"trainer.init: in evaluation, {words}"):
        jn.trainer(objective, optax.sgd(0.1)).init(KEY, (X, Y))
    with pytest.warns(UserWarning, match=f"evaluate: in evaluation, {words}"):
        jn.evaluate(objective, params, state, (X, Y))


@pytest.mark.parametrize("name", KEEPS_APART)
def test_what_keeps_examples_apart_says_nothing(name):
    layer = net(KEEPS_APART[name])
    params, state = layer.init(KEY, X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = jn.predict(layer, params, state, X, batch_size=3)
    np.testing.assert_allclose(small, jn.predict(layer, params, state, X), 1e-5, 1e-6)


@pytest.mark.parametrize("row", cases())
def test_no_layer_combines_examples_in_evaluation(row):
    layer = row.make()
    params, state = jax.eval_shape(layer.init, KEY, row.x)
    assert mixing_hint(layer, params, state, row.x) == ""
