"""LeNet-5: the convolutional network for handwritten digits, in its modern form."""

import jax
import jax.numpy as jnp

from jaxnet import Layer, compose, conv, dense, flatten, max_pool, serial


def lenet5(classes: int = 10, *, name: str = "lenet5") -> Layer:
    """Make LeNet-5 in its modern form; 61,706 parameters for one channel and ten classes.

    Maps of 6@28x28 (c1), 6@14x14 (s2), 16@10x10 (c3), 16@5x5 (s4), then 120 (c5), 84 (f6) and the
    classes (output), as in the paper, which pads the 28x28 digits to 32x32. Unlike the published
    net, it has ReLU instead of a scaled tanh, max pooling instead of trainable averages, full
    connections from s2 to c3, and logits instead of radial basis functions.

    Args:
      classes: Number of outputs.
      name: Name of the model.

    Input:
      Images (batch, 32, 32, channels), or (batch, 28, 28, channels), which are padded with zeros.

    Returns:
      A layer from images to logits (batch, classes).

    Raises:
      ValueError: If the images have the wrong size.

    Example:
      >>> net = lenet5(classes=10)
      >>> params, state = net.init(jax.random.key(0), jn.spec((3, 28, 28, 1)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      61706
      >>> logits, _ = net.apply(params, state, jnp.zeros((3, 28, 28, 1)))
      >>> logits.shape
      (3, 10)

    Reference: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document
    recognition", section II.B.
    """
    return serial(
        pad_to_32("lenet5"),
        conv(6, 5, padding="VALID", name="c1"),  # (batch, 32, 32, 1) -> (batch, 28, 28, 6)
        jax.nn.relu,
        max_pool(2, name="s2"),  # (batch, 14, 14, 6)
        conv(16, 5, padding="VALID", name="c3"),  # (batch, 10, 10, 16)
        jax.nn.relu,
        max_pool(2, name="s4"),  # (batch, 5, 5, 16)
        flatten(),  # (batch, 400)
        dense(120, name="c5"),
        jax.nn.relu,
        dense(84, name="f6"),
        jax.nn.relu,
        dense(classes, name="output"),
        name=name,
    ).replace(kind="lenet5")


def pad_to_32(who: str) -> Layer:
    """Pad images of 28x28 pixels with zeros to 32x32.

    Args:
      who: Name of the model, for the error.

    Raises:
      ValueError: If the images have the wrong size.

    Example:
      >>> layer = pad_to_32("lenet5")
      >>> layer.apply({}, {}, jnp.ones((2, 28, 28, 1)))[0].shape
      (2, 32, 32, 1)
    """

    def forward(m, x):
        if x.ndim != 4 or x.shape[1:3] not in ((28, 28), (32, 32)):
            raise ValueError(
                f"{who}: expected images of shape (batch, 32, 32, channels) or (batch, 28, 28, "
                f"channels), got {x.shape}. For other sizes, pass jax.image.resize(x, (batch, 32, "
                '32, channels), "linear"); for images without a channel axis, x[..., None]'
            )
        margin = (32 - x.shape[1]) // 2
        widths = (margin, margin)
        return jnp.pad(x, ((0, 0), widths, widths, (0, 0)))

    return compose(forward, name="pad")
