"""What the tests of losses share."""

from functools import partial

import jax
import numpy as np
import optax

import jaxnet as jn
from jaxnet import losses

NET = jn.dense(3)
TAKERS = {
    "supervised": lambda loss: jn.supervised(NET, loss),
    "metrics": lambda loss: jn.supervised(NET, optax.l2_loss, metrics={"m": loss}),
    "truncated_bptt": lambda loss: jn.training.truncated_bptt(jn.gru(3), loss),
    "masked": losses.masked,
    "weighted": lambda loss: losses.weighted(loss, ignore_label=1),
    "ignore_label": lambda loss: losses.ignore_label(loss, label=1),
    "reconstruction": lambda loss: jn.unsupervised.autoencoder.reconstruction(NET, loss),
}


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
