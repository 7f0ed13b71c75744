"""AlexNet, the winner of ImageNet 2012."""

import jax

from jaxnet import Layer, conv, dense, dropout, flatten, max_pool, serial
from jaxnet.initializers import he_normal
from jaxnet.layers import local_response_norm


def alexnet(classes: int = 1000, *, groups: int = 2, name: str = "alexnet") -> Layer:
    """Make AlexNet as published; 60,965,224 parameters, 62,378,344 without groups.

    Maps of 55x55x96 (conv_1), 27x27x96, 27x27x256 (conv_2), 13x13x256, 13x13x384 (conv_3, conv_4),
    13x13x256 (conv_5), 6x6x256 = 9216, then 4096, 4096 and the classes. Pooling windows of 3
    overlap at strides of 2, and local response normalization follows the first two convolutions.
    conv_2, conv_4 and conv_5 have two groups, since the original ran on two devices.

    Args:
      classes: Number of outputs.
      groups: Number of groups of conv_2, conv_4 and conv_5: 2 as published; 1 connects all maps.
      name: Name of the model. Its layers are conv_1 to conv_5, dense_6, dense_7 and output.

    Input:
      Images (batch, 227, 227, 3). The paper says 224, which does not give its 55x55 maps.

    Returns:
      A layer from images to logits (batch, classes).

    Example:
      >>> net = alexnet(classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 227, 227, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '60,965,224'

    Reference: Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep
    Convolutional Neural Networks".
    """
    maps = (96, 256, 384, 384, 256)

    def convolution(i: int, size: int, groups: int = 1, **options) -> list:
        options |= {"groups": groups, "kernel_init": he_normal(), "name": f"conv_{i}"}
        features = maps[i - 1]
        return [conv(features, size, **options), jax.nn.relu]

    def end(i: int) -> list:
        return [local_response_norm(), max_pool(3, strides=2, name=f"pool_{i}")]

    def hidden(i: int) -> list:
        layer = dense(4096, kernel_init=he_normal(), name=f"dense_{i}")
        return [dropout(0.5), layer, jax.nn.relu]

    return serial(
        *convolution(1, 11, strides=4, padding="VALID"),
        *end(1),  # (batch, 27, 27, 96)
        *convolution(2, 5, groups),
        *end(2),  # (batch, 13, 13, 256)
        *convolution(3, 3),
        *convolution(4, 3, groups),
        *convolution(5, 3, groups),
        max_pool(3, strides=2, name="pool_5"),  # (batch, 6, 6, 256)
        flatten(),  # (batch, 9216)
        *hidden(6),
        *hidden(7),
        dense(classes, name="output"),
        name=name,
    ).replace(kind="alexnet")
