"""Composition: in series, side by side, around a shortcut."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from tests.compiled import jit_apply

KEY = jax.random.key(0)


def scale(value=2.0, name="scale"):
    return jn.stateless(lambda key, x: {"w": jnp.float32(value)}, lambda p, x: p["w"] * x, name)


def test_serial_parallel_residual_values():
    x = jnp.ones((2, 3))
    y, _ = jit_apply(
        jn.serial(scale(2.0), scale(3.0)), {"scale": {"w": 2.0}, "scale_1": {"w": 3.0}}, {}, x
    )
    assert (y == 6).all()
    (a, b), _ = jit_apply(jn.parallel(jnp.negative, jnp.abs), {}, {}, -x)
    assert (a == 1).all() and (b == 1).all()
    (a, b), _ = jit_apply(jn.parallel(jnp.negative, jnp.abs), {}, {}, (x, -2 * x))
    assert (a == -1).all() and (b == 2).all()
    (a, b), _ = jit_apply(jn.parallel(jnp.negative, jnp.abs), {}, {}, [x, -2 * x])
    assert (a == -1).all() and (b == 2).all()
    y, _ = jit_apply(jn.residual(lambda x: 2 * x, lambda x: 5 * x), {}, {}, x)
    assert (y == 7).all()


def test_a_residual_of_tuples_is_refused():
    """Python would join them, and a sum of each part would double the lengths of sequences."""
    for x in ((jnp.ones(3), jnp.ones(3)), (jnp.ones((2, 3, 4)), jnp.array([1, 3]))):
        with pytest.raises(ValueError, match="residual: expected two arrays of equal shapes, got"):
            jn.residual(lambda x: x).apply({}, {}, x)


def test_parallel_of_the_wrong_number_of_inputs():
    with pytest.raises(ValueError, match="expected one input per layer, 2, got a tuple of 3"):
        jn.parallel(jnp.sin, jnp.cos).apply({}, {}, (jnp.ones(2),) * 3)


def test_residual_never_broadcasts():
    with pytest.raises(
        ValueError, match=r"got \(2, 1\) from the layer and \(2, 3\) from the shortcut"
    ):
        jn.residual(lambda x: x[:, :1]).init(KEY, jn.spec((2, 3)))
