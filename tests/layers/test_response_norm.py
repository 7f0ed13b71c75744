"""Local response normalization: its defaults, and against `torch.nn.functional`."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.compiled import jit_apply, jit_pull


def test_alexnet_by_default():
    x = jnp.full((1, 2, 2, 7), 10.0)
    y, _ = jit_apply(jn.layers.local_response_norm(), {}, {}, x)
    assert float(y[0, 0, 0, 3]) == pytest.approx(10 / (2 + 1e-4 * 500) ** 0.75, rel=1e-6)
    assert float(y[0, 0, 0, 0]) == pytest.approx(10 / (2 + 1e-4 * 300) ** 0.75, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4, 5])
def test_is_that_of_pytorch(x64, size):
    torch = pytest.importorskip("torch", reason="parity with torch 2.13.0")
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(2, 7, 4, 3)), requires_grad=True)
    y = torch.nn.functional.local_response_norm(x, size, alpha=0.7, beta=0.6, k=1.5)
    cotangent = rng.normal(size=y.shape)
    y.backward(torch.tensor(cotangent))

    def last(a):
        return np.moveaxis(np.asarray(a), 1, -1)

    layer = jn.layers.local_response_norm(size, alpha=0.7 / size, beta=0.6, k=1.5)
    ours, slope = jit_pull(lambda x: layer.apply({}, {}, x)[0], last(x.detach()), last(cotangent))
    np.testing.assert_allclose(ours, last(y.detach()), 1e-10, 1e-10)
    np.testing.assert_allclose(slope, last(x.grad), 1e-10, 1e-10)


def test_narrow_floats():
    x = jnp.full((1, 5), 3.0, jnp.bfloat16)
    y, _ = jit_apply(jn.layers.local_response_norm(alpha=1.0), {}, {}, x)
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 2]) == pytest.approx(3 / 47**0.75, rel=1e-2)


@pytest.mark.parametrize(("options", "words"), [
    ({"size": 0}, "size must be at least 1, got 0"), ({"k": 0}, r"k must be in \(0, inf\), got 0"),
    ({"alpha": -1}, r"local_response_norm: alpha must be in \[0, inf\), got -1"),
])  # fmt: skip
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        jn.layers.local_response_norm(**options)
