"""The checks are tested with every loss, in test_laws."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.losses import arrays
from jaxnet.losses.sparsity import log
from jaxnet.ops import at_least_float32


def test_wide_keeps_wide_dtypes_and_widens_narrow_ones(x64):
    for given, wanted in [("bfloat16", "float32"), ("float64", "float64"), ("int8", "float32")]:
        assert at_least_float32(jnp.ones(2, given)).dtype == wanted
    assert at_least_float32(np.ones(2, np.complex64)).dtype == "complex64"


def test_log_is_continued_by_its_tangent():
    eps = float(jnp.finfo(jnp.float32).eps)
    p = jnp.array([1.0, 0.25, eps, 0.0])
    wanted = [0.0, np.log(0.25), np.log(eps), np.log(eps) - 1]
    np.testing.assert_allclose(log(p), wanted, rtol=1e-6)
    slope = jax.jit(jax.vmap(jax.grad(log)))(p)
    np.testing.assert_allclose(slope[jnp.array([0, 1, 3])], [1, 4, 1 / eps], rtol=1e-6)


def test_at_label():
    values = jnp.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
    assert arrays.at_label(values, jnp.array([[2, 0]], jnp.uint8)).tolist() == [[3, 4]]
    assert jnp.isnan(arrays.at_label(values, jnp.array([[-1, 3]]))).all()
