"""AlexNet, the winner of ImageNet 2012."""

import jax

from jaxnet.composition import serial
from jaxnet.core import Layer
from jaxnet.initializers import he_normal
from jaxnet.layers.conv import conv
from jaxnet.layers.dense import dense
from jaxnet.layers.dropout import dropout
from jaxnet.layers.pool import max_pool
from jaxnet.layers.response_norm import local_response_norm
from jaxnet.layers.shape import flatten
from jaxnet.ops.window import Padding


def alexnet(classes: int = 1000, *, groups: int = 2, name: str = "alexnet") -> Layer:
    """AlexNet as published; 60,965,224 parameters, 62,378,344 without groups.

    Maps of 55x55x96 (conv_1), 27x27x96, 27x27x256 (conv_2), 13x13x256, 13x13x384 (conv_3, conv_4),
    13x13x256 (conv_5), 6x6x256 = 9216, then 4096, 4096 and the classes. Pooling windows of 3
    overlap at strides of 2, and local response normalization follows the first two convolutions.
    conv_2, conv_4 and conv_5 have two groups, since the original ran on two devices.

    Args:
      classes: number of outputs.
      groups: 2 as published; 1 connects all maps.
      name: of the model. Its layers are conv_1 to conv_5, dense_6, dense_7 and output.

    Input:
      images (batch, 227, 227, 3). The paper says 224, which does not give its 55x55 maps.

    Example:
      >>> net = alexnet(classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 227, 227, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '60,965,224'

    Reference: Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep
    Convolutional Neural Networks".
    """
    return serial(
        _conv(96, 11, "conv_1", strides=4, padding="VALID"),  # -> (batch, 55, 55, 96)
        jax.nn.relu,
        local_response_norm(),
        max_pool(3, strides=2, name="pool_1"),  # (batch, 27, 27, 96)
        _conv(256, 5, "conv_2", groups=groups),
        jax.nn.relu,
        local_response_norm(),
        max_pool(3, strides=2, name="pool_2"),  # (batch, 13, 13, 256)
        _conv(384, 3, "conv_3"),
        jax.nn.relu,
        _conv(384, 3, "conv_4", groups=groups),
        jax.nn.relu,
        _conv(256, 3, "conv_5", groups=groups),
        jax.nn.relu,
        max_pool(3, strides=2, name="pool_5"),  # (batch, 6, 6, 256)
        *_classifier(classes),
        name=name,
    )._replace(kind="alexnet")


def alexnet_one_column(classes: int = 1000, *, name: str = "alexnet") -> Layer:
    """AlexNet with fewer maps, no groups and no normalization, as in torchvision; 61,100,840.

    Args:
      classes: number of outputs.
      name: of the model; layers as in `alexnet`.

    Input:
      images (batch, 224, 224, 3).

    Example:
      >>> net = alexnet_one_column(classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '61,100,840'

    Reference: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks".
    """
    return serial(
        _conv(64, 11, "conv_1", strides=4, padding=2),  # -> (batch, 55, 55, 64)
        jax.nn.relu,
        max_pool(3, strides=2, name="pool_1"),  # (batch, 27, 27, 64)
        _conv(192, 5, "conv_2"),
        jax.nn.relu,
        max_pool(3, strides=2, name="pool_2"),  # (batch, 13, 13, 192)
        _conv(384, 3, "conv_3"),
        jax.nn.relu,
        _conv(256, 3, "conv_4"),
        jax.nn.relu,
        _conv(256, 3, "conv_5"),
        jax.nn.relu,
        max_pool(3, strides=2, name="pool_5"),  # (batch, 6, 6, 256)
        *_classifier(classes),
        name=name,
    )._replace(kind="alexnet_one_column")


def _classifier(classes: int) -> list:
    return [
        flatten(),  # (batch, 9216)
        dropout(0.5),
        dense(4096, kernel_init=he_normal(), name="dense_6"),
        jax.nn.relu,
        dropout(0.5),
        dense(4096, kernel_init=he_normal(), name="dense_7"),
        jax.nn.relu,
        dense(classes, name="output"),
    ]


def _conv(
    features: int, size: int, name: str, *, strides: int = 1, padding: Padding = "SAME", groups=1
) -> Layer:
    return conv(
        features, size, strides=strides, padding=padding, groups=groups,
        kernel_init=he_normal(), name=name,
    )  # fmt: skip
