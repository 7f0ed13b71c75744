"""A convolution and what follows it, in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.convolution_lowering import of_rows
from jaxnet.ops.fused import ACTIVATIONS, Fused, apply


@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0), (-1.0, 1.0)])
def test_what_follows_a_product(activation, bounds):
    least, most = bounds
    rng = np.random.default_rng(0)
    x, kernel, bias, added = (
        rng.normal(size=shape).astype("float32") for shape in ((5, 3), (3, 4), (4,), (5, 4))
    )
    constants = jnp.concatenate([kernel.ravel(), bias])
    fused = Fused(of_rows((5,)), 1, 3, 4, least, most, activation, kernel=0, bias=12)
    got = apply(fused, x[None], constants, added[None])[0]
    want = np.clip(x @ kernel + bias + added, least, most)
    if activation:
        want = ACTIVATIONS[activation](want)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_relu_keeps_its_derivative():
    fused = Fused(of_rows((1,)), 1, 1, 1, least=0.0, bias=1)
    slope = jax.grad(lambda x: apply(fused, x, jnp.array([1.0, 0.0])).sum())(jnp.zeros((1, 1, 1)))
    assert slope.item() == 0
