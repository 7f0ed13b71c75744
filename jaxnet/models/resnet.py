"""Residual networks: each block learns what to add to its input."""

import jax

from jaxnet.core import Layer, compose, serial
from jaxnet.initializers import he_normal
from jaxnet.layers.conv import conv
from jaxnet.layers.dense import dense
from jaxnet.layers.norm import batch_norm
from jaxnet.layers.pool import global_mean_pool


def cifar_resnet(depth: int = 20, classes: int = 10, *, name: str = "cifar_resnet") -> Layer:
    """The residual network for small images; 272,474 parameters at depth 20, colour, ten classes.

    A convolution of 16 maps, then three stages of (depth - 2) / 6 blocks with 16, 32 and 64 maps,
    the later two at half the resolution of the one before, a mean over each map, and a dense layer.
    Padding is symmetric, as in PyTorch. Where a block changes the shape, its shortcut is a 1x1
    convolution with batch norm (option B of the paper, whose runs on CIFAR-10 pad with zeros,
    option A, and have 269,722 parameters).

    Args:
      depth: layers with weights on the way through, 6 n + 2: 20, 32, 44, 56, 110.
      classes: number of outputs.
      name: of the model. Its layers are conv_0, norm_0, block_1, block_2, ..., output; those of a
        block conv_1, norm_1, conv_2, norm_2, and shortcut, shortcut_norm where there is one.

    Input:
      images (batch, height, width, channels); 32x32 in the paper, others work as well.

    Raises:
      ValueError: where depth is not 6 n + 2.

    Example:
      >>> net = cifar_resnet(depth=20, classes=10)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 32, 32, 3)))
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      272474
      >>> params["block_3"]["conv_1"]["kernel"].shape
      (3, 3, 16, 16)

    Reference: He, Zhang, Ren and Sun 2015, "Deep Residual Learning for Image Recognition",
    section 4.2.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"cifar_resnet: depth must be 6 n + 2, such as 20, got {depth}")
    blocks = (depth - 2) // 6
    layers = [_conv(16, 3, name="conv_0"), batch_norm(name="norm_0"), jax.nn.relu]
    for i in range(3 * blocks):
        stage, place = divmod(i, blocks)
        strides = 2 if stage and not place else 1
        layers.append(_block(16 * 2**stage, strides, f"block_{i + 1}"))
    return serial(*layers, global_mean_pool(), dense(classes, name="output"), name=name)


def _block(features: int, strides: int, name: str) -> Layer:
    """Two convolutions of 3x3, added to the shortcut."""

    def forward(m, x):
        y = m(_conv(features, 3, strides, "conv_1"), x)
        y = jax.nn.relu(m(batch_norm(name="norm_1"), y))
        y = m(_conv(features, 3, 1, "conv_2"), y)
        y = m(batch_norm(name="norm_2"), y)
        if x.shape != y.shape:
            x = m(_conv(features, 1, strides, "shortcut"), x)
            x = m(batch_norm(name="shortcut_norm"), x)
        return jax.nn.relu(y + x)

    return compose(forward, name=name)


def _conv(features: int, size: int, strides: int = 1, name: str = "conv") -> Layer:
    return conv(
        features,
        size,
        strides=strides,
        padding=size // 2,
        use_bias=False,  # batch norm takes the mean away
        kernel_init=he_normal(),
        name=name,
    )
