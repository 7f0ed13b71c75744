"""Normalization: plain formulas in every mode, few passes."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnet.ops.normalization import normalized, standardized
from tests.helpers import close, compiled, near


def reference_normalization(x, scale, bias, epsilon):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    var = jnp.square(x - mean).mean(axes)
    return (x - mean) * (lax.rsqrt(var + epsilon) * scale) + bias, mean, var


def operands(shape=(5, 3, 4, 2)):
    rng = np.random.default_rng(0)
    x = 3 + 2 * rng.normal(size=shape)
    return tuple(map(jnp.array, (x, *rng.normal(size=(2, shape[-1])))))


def mixed(function):
    """A number in which all three outputs count."""

    def loss(*given):
        y, mean, var = function(*given, 1e-3)
        return (jnp.sin(y) * jnp.arange(y.size).reshape(y.shape)).sum() + (mean * var).sum()

    return loss


@pytest.mark.slow
def test_all_derivatives_are_those_of_the_formulas(x64):
    def derivatives(function):
        loss, all_three = mixed(function), (0, 1, 2)
        small = operands((3, 2, 2))
        first = jax.grad(loss, all_three)(*operands()), jax.jacfwd(loss, all_three)(*operands())
        return first, jax.hessian(loss, all_three)(*small)

    found, wanted = jax.jit(
        lambda: [derivatives(f) for f in (normalized, reference_normalization)]
    )()
    close(found, wanted, 1e-7, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "centered"), [((-1,), True), ((-1,), False), ((1, 2), True), ((0,), True)]
)
def test_derivatives_of_the_standardized(x64, axes, centered):
    def formulas(x, scale, bias):
        x -= centered * x.mean(axes, keepdims=True)
        unit = x * lax.rsqrt(jnp.square(x).mean(axes, keepdims=True) + 1e-3)
        return unit * scale[None, None] + bias[None, None]

    def loss(function):
        return lambda *a: (jnp.sin(function(*a)) * jnp.arange(a[0].size).reshape(a[0].shape)).sum()

    def ours(*given):
        return standardized(*given, axes, 1e-3, centered)

    def derivatives(*given):
        each = [partial(d, argnums=(0, 1, 2)) for d in (jax.grad, jax.jacfwd, jax.hessian)]
        return [[f(*given), *(d(loss(f))(*given) for d in each)] for f in (ours, formulas)]

    found, wanted = jax.jit(derivatives)(*operands((4, 3, 5)))
    close(found, wanted, 1e-8, 1e-9)


def test_data_far_from_zero_keep_their_variance():
    x = 1e4 + jnp.array([[0.0], [1.0], [2.0], [3.0]])
    y, mean, var = normalized(x, jnp.ones(1), jnp.zeros(1), 0.0)
    assert mean.tolist() == [10001.5] and var.tolist() == [1.25]
    np.testing.assert_allclose(y[:, 0], np.array([-1.5, -0.5, 0.5, 1.5]) / 1.25**0.5, rtol=1e-6)


def sums(function, *given) -> int:
    """Sums over the batch in the compiled program of y and its gradient."""

    def backward(x, scale, bias, weight):
        y, pull = jax.vjp(lambda *a: function(*a, 1e-5)[0], x, scale, bias)
        return y, pull(weight)

    return len(re.findall(r" reduce\(", compiled(backward, *given, given[0]).as_text()))


def test_the_gradient_takes_two_sums():
    """And the forward pass two, for mean and variance, and the largest entry."""
    assert sums(normalized, *operands()) == 5 < sums(reference_normalization, *operands())


def test_gradients_do_not_depend_on_where_the_data_lie():
    """The sum of x · g less the mean times the sum of g would lose its digits far from zero."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.integers(-8, 8, size=(64, 3)))  # exact beside 2**17, as are the means
    g = jnp.asarray(rng.normal(size=x.shape), jnp.float32)

    def pull(x):
        _, back = jax.vjp(lambda x, a, b: normalized(x, a, b, 1e-5)[0], x, jnp.ones(3), jnp.ones(3))
        return back(g)

    near(pull(x + 2**17), pull(x), 1e-4, 0)
