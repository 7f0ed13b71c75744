"""LeNet-5, the convolutional network that read the digits on cheques."""

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, serial, stateless
from jaxnet.layers.conv import conv
from jaxnet.layers.dense import dense
from jaxnet.layers.pool import max_pool
from jaxnet.layers.shape import flatten


def lenet5(classes: int = 10, *, name: str = "lenet5") -> Layer:
    """LeNet-5 in its modern form; 61,706 parameters for one channel and ten classes.

    Maps of 6@28x28 (c1), 6@14x14 (s2), 16@10x10 (c3), 16@5x5 (s4), then 120 (c5), 84 (f6) and the
    classes (output), as in the paper, which pads the 28x28 digits to 32x32. What is modern:
    rectified units in place of a scaled tanh, max pooling in place of trainable averages, every map
    of c3 sees all of s2, and the outputs are logits in place of radial basis functions.

    Args:
      classes: number of outputs.
      name: of the model.

    Input:
      images (batch, 32, 32, channels), or (batch, 28, 28, channels), which are padded with zeros.

    Raises:
      ValueError: for images of another size.

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
        _pad_to_32(),
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
    )


def _pad_to_32() -> Layer:
    def apply(params, x):
        if x.ndim != 4 or x.shape[1:3] not in ((28, 28), (32, 32)):
            raise ValueError(
                "lenet5: needs images (batch, 32, 32, channels), or 28x28 ones, which it pads, got "
                f"{x.shape}; for others write jax.image.resize(x, (batch, 32, 32, channels), "
                '"linear"), for images without a channel axis x[..., None]'
            )
        room = (32 - x.shape[1]) // 2
        return jnp.pad(x, ((0, 0), (room, room), (room, room), (0, 0)))

    return stateless(lambda key, x: {}, apply, name="pad")
