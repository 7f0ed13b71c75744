"""Sums and maxima of windows against JAX's own windows, with gradients to second order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnet.ops.pooling import window_lengths, window_maxima, window_sums
from tests.helpers import near

WINDOWS = [
    pytest.param((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), id="side by side"),
    pytest.param((2, 3), (2, 3), ((1, 0), (1, 2)), (1, 1), id="side by side, with padding"),
    pytest.param((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), id="overlapping"),
    pytest.param((3, 2), (2, 1), ((2, 0), (0, 1)), (1, 2), id="with gaps"),
    pytest.param((2, 2), (3, 3), ((0, 0), (1, 0)), (1, 1), id="apart"),
]


@pytest.mark.fast_cases(
    "maxima-with gaps", "sums-overlapping", "sums-with gaps", "maxima-overlapping"
)
@pytest.mark.parametrize(("window", "strides", "padding", "dilation"), WINDOWS)
@pytest.mark.parametrize("kind", ["sums", "maxima"])
def test_windows(kind, window, strides, padding, dilation):
    if kind == "maxima" and max(dilation) > 1:
        pytest.skip("JAX has no gradient of maxima with dilation")
    if kind == "maxima":
        ours, start, operation = window_maxima, -np.inf, lax.max
    else:
        ours, start, operation = window_sums, 0.0, lax.add
    ours = partial(ours, window=window, strides=strides, padding=padding, dilation=dilation)

    def xla(x):
        return lax.reduce_window(
            x,
            start,
            operation,
            window_dimensions=(1, *window, 1),
            window_strides=(1, *strides, 1),
            padding=[(0, 0), *padding, (0, 0)],
            window_dilation=(1, *dilation, 1),
        )

    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 8, 3)), jnp.float32)

    def losses(pool):
        def loss(x):
            return jnp.sin(pool(x)).sum()

        twice = jax.grad(lambda x: jnp.sin(jax.grad(loss)(x)).sum())
        return pool(x), jax.grad(loss)(x), twice(x)

    near(jax.jit(partial(losses, ours))(), jax.jit(partial(losses, xla))(), 1e-5)
    _, found = jax.jvp(ours, (x,), (x,))
    _, expected = jax.jvp(xla, (x,), (x,))
    near(found, expected, 1e-5)


@pytest.mark.parametrize("p", [1.0, 2.0, 2.5, 7.0, 10.0, 200.0])
@pytest.mark.parametrize("size", [1e-30, 1e-15, 1.0, 1e15, 1e30, 1e37])
def test_lengths_of_numbers_whose_powers_are_no_floats(p, size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 6, 1)) * size, jnp.float32)

    def lengths(x):
        return window_lengths(x, p, (2,), (2,), ((0, 0),), (1,))

    pairs = np.asarray(x, np.float64).reshape(3, 2)
    largest = np.abs(pairs).max(1, keepdims=True)
    wanted = largest[:, 0] * ((np.abs(pairs) / largest) ** p).sum(1) ** (1 / p)
    np.testing.assert_allclose(jax.jit(lengths)(x).ravel() / size, wanted / size, rtol=1e-5)
    slope = np.sign(pairs) * (np.abs(pairs) / wanted[:, None]) ** (p - 1)
    found = jax.jit(jax.grad(lambda x: lengths(x).sum()))(x)
    np.testing.assert_allclose(found.reshape(3, 2), slope, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wild", [1e6, 1e30, np.inf, np.nan])
def test_a_wild_number_changes_no_length_that_does_not_see_it(wild):
    x = np.random.default_rng(0).normal(size=(1, 8, 1)).astype(np.float32)
    other = x.copy()
    other[0, 7] = wild
    run = jax.jit(lambda x: window_lengths(x, 2.0, (2,), (2,), ((0, 0),), (1,)))
    np.testing.assert_array_equal(run(x)[0, :3], run(other)[0, :3])
