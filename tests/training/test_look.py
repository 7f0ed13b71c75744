"""Arrays that an objective captures are named, unless they are constants on purpose."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnet as jn
from tests.training.conftest import started

A, BATCH = jnp.ones((3, 5)), (jn.spec((4, 3)), jn.spec((4, 2)))


def init(function, head=True):
    net = jn.compose(lambda m, x: m(jn.dense(2), function(x)) if head else function(x), name="net")
    return started(net, BATCH, optax.squared_error)


@pytest.mark.parametrize("function", [
    lambda x: x @ A, jax.checkpoint(lambda x: x @ A), lambda x: jax.jit(jnp.matmul)(x, A),
    lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(x @ A @ A.T), None), x, None, 2)[0],
    lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ A, lambda x: -x @ A, x),
], ids=["plain", "remat", "jit", "scan", "cond"])  # fmt: skip
def test_captured_arrays_are_named(function):
    with pytest.warns(UserWarning, match=r"captures arrays from outside, \(3, 5\) float32, which"):
        init(function)
    with pytest.raises(ValueError, match=r"no params to train, but its function captures \(3, 5\)"):
        init(lambda x: function(x)[:, :2], head=False)


@pytest.mark.parametrize("function", [
    lambda x: x @ jax.lax.stop_gradient(A), lambda x: x + jax.lax.stop_gradient(x @ A).sum(),
    lambda x: jax.jit(lambda x, a: x @ jax.lax.stop_gradient(a))(x, A),
    lambda x: jnp.where(A.sum(1) > 0, x, 0), lambda x: x @ jnp.eye(3), lambda x, a=A[:, 0]: x - a,
], ids=["array", "output", "inside", "mask", "made here", "mean"])  # fmt: skip
def test_constants_on_purpose_do_not_warn(function):
    init(function)
