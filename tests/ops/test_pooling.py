"""Sums and maxima of windows against JAX's own windows, with gradients to second order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnet.ops.pooling import window_maxima, window_sums
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
