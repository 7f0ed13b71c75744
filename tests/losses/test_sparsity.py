from functools import partial

import jax
import jax.numpy as jnp
import pytest

from jaxnet import losses


@pytest.mark.parametrize("end, sign", [(0.0, -1), (1.0, 1)])
def test_kl_sparsity_is_finite_at_dead_and_saturated_units(end, sign):
    a = jnp.full((4, 2), end)
    value, grad = jax.jit(jax.value_and_grad(partial(losses.kl_sparsity, rho=0.05)))(a)
    assert 0.5 < value < 50
    assert jnp.isfinite(grad).all() and (jnp.sign(grad) == sign).all()


def test_kl_sparsity_names_what_is_no_batch_of_activations():
    with pytest.raises(TypeError, match="kl_sparsity: activations must be a JAX or NumPy array"):
        losses.kl_sparsity(None, rho=0.1)
    with pytest.raises(ValueError, match=r"activations must have shape \(batch, ..., units\)"):
        losses.kl_sparsity(jnp.float32(0.5), rho=0.1)
