"""Local response normalization: its defaults, and against `torch.nn.functional`."""

import jax.numpy as jnp
import pytest

import jaxnet as jn
from tests.helpers import jit_apply, refused


def test_alexnet_by_default():
    x = jnp.full((1, 2, 2, 7), 10.0)
    y, _ = jit_apply(jn.layers.local_response_norm(), {}, {}, x)
    assert float(y[0, 0, 0, 3]) == pytest.approx(10 / (2 + 1e-4 * 500) ** 0.75, rel=1e-6)
    assert float(y[0, 0, 0, 0]) == pytest.approx(10 / (2 + 1e-4 * 300) ** 0.75, rel=1e-6)


def test_narrow_floats():
    x = jnp.full((1, 5), 3.0, jnp.bfloat16)
    y, _ = jit_apply(jn.layers.local_response_norm(alpha=1.0), {}, {}, x)
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 2]) == pytest.approx(3 / 47**0.75, rel=1e-2)


@refused(
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"k": 0}, r"k must be in \(0, inf\), got 0"),
        ({"alpha": -1}, r"local_response_norm: alpha must be in \[0, inf\), got -1"),
    ]
)
def test_refusals(options):
    jn.layers.local_response_norm(**options)
