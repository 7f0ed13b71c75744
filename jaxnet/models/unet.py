"""U-Net: segmentation with maps of every resolution."""

import jax.numpy as jnp

from jaxnet import Layer, compose, conv, conv_transpose, max_pool
from jaxnet.initializers import he_normal
from jaxnet.models.parts import unit
from jaxnet.services.checks import all_at_least


def unet(classes: int, features: int = 64, levels: int = 5, *, name: str = "unet") -> Layer:
    """Make a U-Net, which returns class logits for every pixel of an image.

    On the way down, each level has two 3x3 convolutions and half the resolution of the level before
    it, with twice as many maps. On the way up, a transposed convolution doubles the resolution, and
    the maps are joined with the maps of the same level on the way down. Unlike in the paper, the
    convolutions keep the size of their input (padding), and batch norm follows them.

    Args:
      classes: Number of outputs per pixel.
      features: Number of maps of the first level; 64 in the paper.
      levels: Number of resolutions; 5 in the paper.
      name: Name of the model. Its layers are down_1, ..., down_5, enlarge_4, up_4, ..., up_1 and
        output; the layers of a level are conv_1, conv_1_norm, conv_2 and conv_2_norm.

    Input:
      Images (batch, height, width, channels), or data with another number of axes, such as
      (batch, depth, height, width, channels). Their sizes must be multiples of 2 ** (levels - 1).

    Returns:
      A layer whose outputs are (batch, height, width, classes), logits.

    Raises:
      ValueError: If a number is below 1.
      ValueError: If the size of an input is not a multiple of 2 ** (levels - 1).

    Example:
      >>> net = unet(classes=2, features=4, levels=3)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 16, 24, 3)))
      >>> y, _ = net.apply(params, state, jnp.ones((2, 16, 24, 3)))
      >>> y.shape
      (2, 16, 24, 2)

    Reference: Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical
    Image Segmentation".
    """
    all_at_least("unet", classes=classes, features=features, levels=levels)

    def forward(m, x):
        multiple = 2 ** (levels - 1)
        if x.ndim < 3 or any(size % multiple for size in x.shape[1:-1]):
            raise ValueError(
                f"{name}: expected images (batch, height, width, channels) whose height and width "
                f"are multiples of {multiple}, got {x.shape}. Pad or resize them, or choose fewer "
                "levels"
            )
        maps = []
        for level in range(1, levels + 1):
            count = features * 2 ** (level - 1)
            if level > 1:
                x = m(max_pool(2), x)
            x = m(_level(count, f"down_{level}"), x)
            maps.append(x)
        for level in range(levels - 1, 0, -1):
            count = features * 2 ** (level - 1)
            options = {"strides": 2, "padding": "VALID", "kernel_init": he_normal()}
            x = m(conv_transpose(count, 2, name=f"enlarge_{level}", **options), x)
            both = jnp.concatenate([maps[level - 1], x], -1)
            x = m(_level(count, f"up_{level}"), both)
        return m(conv(classes, 1, name="output"), x)

    return compose(forward, name=name, kind="unet")


def _level(features: int, name: str) -> Layer:
    """Return two 3x3 convolutions, each with batch norm and ReLU."""

    def forward(m, x):
        x = unit(m, x, features, 3, name="conv_1")
        return unit(m, x, features, 3, name="conv_2")

    return compose(forward, name=name, kind="unet_level")
