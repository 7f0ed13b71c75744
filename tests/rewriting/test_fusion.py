"""Activations are known by what they compute, and only they."""

import jax
import jax.numpy as jnp
import pytest

from jaxnet.ops.fused import ACTIVATIONS
from jaxnet.rewriting.fusion import Fusion, activations
from jaxnet.rewriting.steps import Steps

KERNEL = jnp.ones((3, 4))


def described(function):
    """The description of function(x @ kernel)."""
    program = Steps(jax.make_jaxpr(lambda x: function(x @ KERNEL))(jnp.ones((8, 3))))
    program.compute_known()
    return Fusion(program).linear.get(program.results[0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_found(name):
    assert described(ACTIVATIONS[name]).activation == name


OTHERS = {
    "like silu": lambda x: x * jax.nn.sigmoid(x * 1.0001),
    "of two": lambda x: x * jax.nn.sigmoid(x[::-1]),
    "like gelu": lambda x: 0.5 * x * (1 + jnp.tanh(0.79788 * (x + 0.0447 * x**3))),
    "softplus": jax.nn.softplus,
    "leaky": jax.nn.leaky_relu,
}


@pytest.mark.parametrize("name", OTHERS)
def test_functions_that_are_no_activations_are_left(name):
    assert described(OTHERS[name]) is None


def test_bounds_follow_each_other():
    both = described(lambda x: jnp.minimum(jnp.maximum(x, 1), 0))
    assert (both.least, both.most) == (0, 0)
    other = described(lambda x: jnp.maximum(jnp.minimum(x, 0), 1))
    assert (other.least, other.most) == (1, 1)


def test_texts_tell_all_activations_apart():
    assert len(activations()) == len({*activations()}) >= len(ACTIVATIONS)
