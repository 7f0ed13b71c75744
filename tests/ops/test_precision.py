"""Dtypes of sums and outputs."""

import jax.numpy as jnp
import pytest

from jaxnet.ops.precision import output_dtype, wide


@pytest.mark.parametrize(("given", "summed", "output"), [
    (jnp.bfloat16, jnp.float32, jnp.bfloat16),
    (jnp.float32, jnp.float32, jnp.float32),
    (jnp.complex64, jnp.complex64, jnp.complex64),
    (jnp.bool_, jnp.float32, jnp.float32),
])  # fmt: skip
def test_dtypes(given, summed, output):
    x = jnp.ones(3, given)
    assert wide(x).dtype == summed and output_dtype(x) == output


def test_float64_stays(x64):
    assert wide(jnp.ones(3)).dtype == output_dtype(jnp.ones(3)) == jnp.float64
    assert output_dtype(jnp.ones(3, int)) == jnp.float32
