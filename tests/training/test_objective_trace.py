"""Arrays that an objective captures are named, unless they are constants on purpose."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnet as jn
from tests.training.conftest import started

A = jnp.ones((3, 5))
BATCH = jn.spec((4, 3)), jn.spec((4, 2))


def init(*layers):
    """Initialize training of these layers and functions, one after another."""
    net = jn.serial(*layers, name="net")
    return started(net, BATCH, optax.squared_error)


def product(x):
    return x @ A


def scanned(x):
    def step(x, _):
        return jnp.tanh(x @ A @ A.T), None

    x, _ = jax.lax.scan(step, x, None, 2)
    return x


def chosen(x):
    return jax.lax.cond(x[0, 0] > 0, product, lambda x: -product(x), x)


@pytest.mark.parametrize(
    "function",
    [product, jax.checkpoint(product), lambda x: jax.jit(jnp.matmul)(x, A), scanned, chosen],
    ids=["plain", "remat", "jit", "scan", "cond"],
)
def test_captured_arrays_are_named(function):
    with pytest.warns(UserWarning, match=r"captures arrays from outside, \(3, 5\) float32, which"):
        init(function, jn.dense(2))
    with pytest.raises(ValueError, match=r"no params to train, but its function captures \(3, 5\)"):
        init(lambda x: function(x)[:, :2])


def stopped_inside(x):
    return jax.jit(lambda x, a: x @ jax.lax.stop_gradient(a))(x, A)


def less_a_mean(x, mean=A[:, 0]):
    return x - mean


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x @ jax.lax.stop_gradient(A),
        lambda x: x + jax.lax.stop_gradient(x @ A).sum(-1, keepdims=True),
        stopped_inside,
        lambda x: jnp.where(A.sum(1) > 0, x, 0),
        lambda x: x @ jnp.eye(3),
        less_a_mean,
    ],
    ids=["array", "output", "inside", "mask", "made here", "mean"],
)
def test_constants_on_purpose_do_not_warn(function):
    init(function, jn.dense(2))
