"""What the tests of losses share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.jax_versions import enable_x64


def close(a, b, tolerance=1e-10):
    np.testing.assert_allclose(a, b, tolerance, tolerance)


@partial(jax.jit, static_argnums=0)
def slopes(loss, outputs, targets):
    """Values and the gradient of their sum, in one program."""

    def total(outputs):
        values = loss(outputs, targets)
        return values.sum(), values

    grads, values = jax.grad(total, has_aux=True)(outputs)
    return values, grads


def check_torch(ours, theirs, outputs, targets):
    """Values and gradients equal those of a function of PyTorch, in float64. # torch 2.13.0"""
    import torch

    theirs_in = torch.tensor(outputs, requires_grad=True)
    soft = targets.dtype == float
    theirs_targets = torch.tensor(targets, requires_grad=soft)
    value = theirs(theirs_in, theirs_targets)
    value.sum().backward()
    with enable_x64(True):
        values, grads = slopes(ours, jnp.array(outputs), jnp.array(targets))
        close(values, value.detach().numpy())
        close(grads, theirs_in.grad.numpy(), 1e-9)
        if soft and theirs_targets.grad is not None:
            _, by_targets = slopes(lambda t, z: ours(z, t), jnp.array(targets), jnp.array(outputs))
            close(by_targets, theirs_targets.grad.numpy(), 1e-9)
    return np.asarray(grads)
