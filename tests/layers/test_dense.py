"""Dense layers, flatten and dropout: fresh layers, edges, what is dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import KEY, jit_apply, refuses


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
    (lambda: jn.dropout(0.5, axes=(2,)).init(KEY, jn.spec((2, 3))),
     r"axes of the input \(2, 3\), got \(2,\)"),
])  # fmt: skip


def test_flatten_of_an_empty_batch_and_of_flat_data():
    assert jit_apply(jn.flatten(), {}, {}, jnp.ones((0, 3, 4)))[0].shape == (0, 12)
    assert jit_apply(jn.flatten(), {}, {}, jnp.ones((5, 3)))[0].shape == (5, 3)
    assert jit_apply(jn.flatten(), {}, {}, jnp.ones(5))[0].shape == (5, 1)


def train(layer, x, seed=0):
    y, _ = jit_apply(layer, {}, {}, x, key=jax.random.key(seed), train=True)
    return y


def test_axes_choose_what_goes_together():
    y = train(jn.dropout(0.5, axes=(1,)), jnp.ones((3, 50, 4)))
    assert (y == y[:1, :, :1]).all()
    assert 0 < (y[0, :, 0] == 0).sum() < 50


def test_units_are_independent():
    """The share of neighbors that are both dropped is the square of the rate."""
    y = train(jn.dropout(0.3), jnp.ones((300, 200)))
    assert abs(((y[:, 1:] == 0) & (y[:, :-1] == 0)).mean() - 0.09) < 0.01


def test_identity_in_evaluation_and_at_rate_0():
    x = jnp.arange(12.0).reshape(3, 4)
    for make in (jn.dropout, jn.layers.spatial_dropout, jn.layers.drop_path):
        assert (jit_apply(make(0.5), {}, {}, x)[0] == x).all()
        assert (jit_apply(make(0.0), {}, {}, x, train=True)[0] == x).all()


PIXELS = np.full((2, 5, 3), 200, np.uint8)  # 200 / 0.5 would become 255


@pytest.mark.parametrize("make", [jn.dropout, jn.layers.spatial_dropout, jn.layers.drop_path])
def test_refusals_of_dropout(make):
    with pytest.raises(ValueError, match="fraction to drop"):
        make(1.0)
    with pytest.raises(TypeError, match=r"rate must be .* got a JAX array; write float\(x\)"):
        make(jnp.array(0.5))  # in jit, whether it is 0 would be unknown
    with pytest.raises(ValueError, match=f"{make(0.5).kind}: needs a key in training"):
        make(0.5).apply({}, {}, jnp.ones((2, 3, 4)), train=True)
    words = f"{make(0.5).kind}: expected an input of floats, got uint8"
    with pytest.raises(TypeError, match=words):
        make(0.5).apply({}, {}, PIXELS)
