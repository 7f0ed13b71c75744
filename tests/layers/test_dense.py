"""Dense layer: the variance of a fresh layer, PyTorch, edges."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from tests.compiled import jit_apply
from tests.helpers import refuses

KEY = jax.random.key(0)


def test_a_fresh_layer_keeps_the_variance():
    x = jax.random.normal(jax.random.key(1), (500, 400))
    params, _ = jn.dense(300).init(KEY, x)
    y, _ = jit_apply(jn.dense(300), params, {}, x)
    assert 0.97 < float(y.var()) < 1.03
    assert not params["bias"].any()


def test_pixels_are_fine():
    params, _ = jn.dense(4).init(KEY, jn.spec((2, 3), jnp.uint8))
    y, _ = jit_apply(jn.dense(4), params, {}, jnp.full((2, 3), 255, jnp.uint8))
    np.testing.assert_allclose(y[0], 255 * params["kernel"].sum(0), rtol=1e-4)


def test_a_random_bias_is_not_the_kernel_again():
    draw = jn.initializers.normal(1.0)
    params, _ = jn.dense(5, kernel_init=draw, bias_init=draw).init(KEY, jn.spec((2, 1)))
    assert not jnp.isclose(params["kernel"][0], params["bias"]).any()


test_refusals = refuses([
    (lambda: jn.dense(0), "dense: features must be at least 1, got 0"),
    (lambda: jn.dense(2).init(KEY, jn.spec((5,))),
     r"dense: expected an input of .*, got \(5,\)\. Is the batch"),
])  # fmt: skip
