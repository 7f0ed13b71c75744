"""Dropout of units, feature maps and branches: shares, scale, and what goes together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.compiled import jit_apply


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
    both = ((y[:, 1:] == 0) & (y[:, :-1] == 0)).mean()
    assert abs(both - 0.09) < 0.01


def test_identity_in_evaluation_and_at_rate_0():
    x = jnp.arange(12.0).reshape(3, 4)
    for make in (jn.dropout, jn.layers.spatial_dropout, jn.layers.drop_path):
        assert (jit_apply(make(0.5), {}, {}, x)[0] == x).all()
        assert (jit_apply(make(0.0), {}, {}, x, train=True)[0] == x).all()


PIXELS = np.full((2, 5, 3), 200, np.uint8)  # 200 / 0.5 would become 255


@pytest.mark.parametrize("make", [jn.dropout, jn.layers.spatial_dropout, jn.layers.drop_path])
def test_refusals(make):
    with pytest.raises(ValueError, match="fraction to drop"):
        make(1.0)
    with pytest.raises(TypeError, match=r"rate must be .* got a JAX array; write float\(x\)"):
        make(jnp.array(0.5))  # in jit, whether it is 0 would be unknown
    with pytest.raises(ValueError, match=f"{make(0.5).kind}: needs a key in training"):
        make(0.5).apply({}, {}, jnp.ones((2, 3, 4)), train=True)
    with pytest.raises(
        TypeError, match=f"{make(0.5).kind}: expected an input of floats, got uint8"
    ):
        make(0.5).apply({}, {}, PIXELS)


def test_axes_that_are_not_there():
    with pytest.raises(ValueError, match=r"axes of the input \(2, 3\), got \(2,\)"):
        jn.dropout(0.5, axes=(2,)).init(jax.random.key(0), jn.spec((2, 3)))
