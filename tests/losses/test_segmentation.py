import jax.numpy as jnp
import numpy as np

from jaxnet import losses
from tests.losses.common import close, slopes

RNG = np.random.default_rng(7)


def test_dice_without_labeled_pixels_is_zero():
    value, grad = slopes(losses.dice, jnp.ones((1, 4, 3)), jnp.full((1, 4), -1))
    assert value == 0 and (grad == 0).all()


def test_dice_leaves_void_pixels_out():
    z = jnp.array(RNG.normal(size=(2, 6, 3))).at[0, 3].set(jnp.nan)
    labels = jnp.array([[0, 1, 2, 255, -1, 1], [2, 2, 1, 0, 255, 3]])
    kept = losses.dice(z[0][jnp.array([0, 1, 2, 5])][None], jnp.array([[0, 1, 2, 1]]))
    close(losses.dice(z, labels)[0], kept[0], 1e-6)
