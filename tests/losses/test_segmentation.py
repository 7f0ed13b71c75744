import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import losses
from jaxnet.services.jax_versions import enable_x64
from tests.losses.common import close, slopes

RNG = np.random.default_rng(7)


def test_dice_by_hand():
    """Two pixels predicted 1, one is: class 1 has 2 · 1 / (2 + 1), class 0 has 2 · 2 / (2 + 3)."""
    z = jnp.array([[-60.0, -60.0, 60.0, 60.0]])
    z = jnp.stack([z, -z], -1)  # classes 1, 1, 0, 0
    labels = jnp.array([[1, 0, 0, 0]])
    close(losses.dice(z, labels, smooth=1e-6), [1 - (2 / 3 + 4 / 5) / 2], 1e-5)
    close(losses.dice(z, labels, smooth=2.0), [1 - (4 / 5 + 6 / 7) / 2], 1e-5)
    close(losses.dice(z, jnp.array([[1, 1, 0, 0]])), [0], 1e-5)
    close(losses.dice(z, jnp.array([[0, 0, 1, 1]])), [1 - 1 / 5], 1e-5)


def test_dice_without_labeled_pixels_is_zero():
    value, grad = slopes(losses.dice, jnp.ones((1, 4, 3)), jnp.full((1, 4), -1))
    assert value == 0 and (grad == 0).all()


def test_dice_leaves_void_pixels_out():
    z = jnp.array(RNG.normal(size=(2, 6, 3)))
    labels = jnp.array([[0, 1, 2, 255, -1, 1], [2, 2, 1, 0, 255, 3]])
    kept = losses.dice(z[0][jnp.array([0, 1, 2, 5])][None], jnp.array([[0, 1, 2, 1]]))
    close(losses.dice(z, labels)[0], kept[0], 1e-6)


def test_dice_matches_optax_where_every_pixel_is_labeled():
    with enable_x64(True):
        z = jnp.array(RNG.normal(size=(2, 5, 4, 3)))
        labels = jnp.array(RNG.integers(0, 3, size=(2, 5, 4)))
        theirs = optax.losses.dice_loss(z, jax.nn.one_hot(labels, 3), smooth=0.35)
        close(losses.dice(z, labels, smooth=0.7), theirs)  # optax halves numerator and denominator
