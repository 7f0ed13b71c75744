"""Residual networks, for small images (CIFAR) and for large ones (ImageNet)."""

import math

import jax

from jaxnet import Layer, batch_norm, compose, conv, dense, global_avg_pool, max_pool, serial
from jaxnet.initializers import he_normal
from jaxnet.models.parts import unit
from jaxnet.services.checks import all_at_least, at_least, one_of
from jaxnet.services.functions import activated


def cifar_resnet(depth: int = 20, classes: int = 10, *, name: str = "cifar_resnet") -> Layer:
    """Make the residual network for small images; 272,474 parameters at depth 20.

    The number is for color images and ten classes. The net is a convolution of 16 maps, then three
    stages of (depth - 2) / 6 blocks with 16, 32 and 64 maps, the later two each at half the
    resolution of the stage before, a mean over each map, and a dense layer. Padding is symmetric,
    as in PyTorch. If a block changes the shape, its shortcut is a 1x1 convolution with batch norm
    (option B of the paper, whose runs on CIFAR-10 pad with zeros, option A, and have 269,722
    parameters).

    Args:
      depth: Number of layers with weights on the main path, 6 n + 2: 20, 32, 44, 56, 110.
      classes: Number of outputs.
      name: Name of the model. Its layers are conv_0, norm_0, block_1, block_2, ..., output; the
        layers of a block are conv_1, norm_1, conv_2, norm_2, and shortcut and shortcut_norm if it
        has a shortcut convolution.

    Input:
      Images (batch, height, width, channels); 32x32 in the paper, other sizes work as well.

    Returns:
      A layer from images to logits (batch, classes).

    Raises:
      ValueError: If `depth` is not 6 n + 2.

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
    at_least("cifar_resnet", "depth", depth)
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"cifar_resnet: depth must be 6 n + 2, such as 20, got {depth}")
    blocks = (depth - 2) // 6
    layers = _stem(16, 3, 1)
    for i in range(3 * blocks):
        stage, place = divmod(i, blocks)
        features = 16 * 2**stage
        strides = 2 if stage and not place else 1
        layers.append(_block(features, strides, f"block_{i + 1}"))
    layers += [global_avg_pool(), dense(classes, name="output")]
    return serial(*layers, name=name).replace(kind="cifar_resnet")


# Blocks per stage.
STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def resnet(
    depth: int = 50,
    classes: int = 1000,
    *,
    groups: int = 1,
    group_width: int = 64,
    name: str = "resnet",
) -> Layer:
    """Make ResNet-18 to -152, for large images; 25,557,032 parameters at depth 50.

    The net has a 7x7 convolution with strides of 2 and a max pooling, 224 -> 56 pixels; then four
    stages of blocks at 56, 28, 14 and 7 pixels, a mean over each map, and a dense layer. At depths
    18 and 34 a block has two 3x3 convolutions, with 64 to 512 maps. From 50 on it is a bottleneck
    of 1x1, 3x3 and 1x1, the last with four times the maps; the strides are in the 3x3 convolution,
    as is usual now, and not in the first convolution as in the paper.

    Args:
      depth: Number of layers with weights on the main path: 18, 34, 50, 101 or 152.
      classes: Number of outputs.
      groups: Number of groups of the 3x3 convolutions, from depth 50 on. groups=32, group_width=4
        make ResNeXt-50 32x4d with 25,028,904 parameters.
      group_width: Number of maps of a group in the first stage. 128 makes Wide ResNet-50-2, with
        68,883,240 parameters.
      name: Name of the model. Its layers are conv_0, norm_0, stage_1_block_1, ..., output; the
        layers of a block are conv_1, norm_1, ..., and shortcut and shortcut_norm if it has a
        shortcut convolution.

    Input:
      Images (batch, height, width, 3); 224x224 in the paper, other sizes work as well.

    Returns:
      A layer from images (batch, height, width, channels) to logits (batch, classes).

    Raises:
      ValueError: If `depth` is not one of these.
      ValueError: If `groups` or `group_width` is given at depth 18 or 34.

    Example:
      >>> net = resnet(depth=50, classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '25,557,032'

    Reference: He, Zhang, Ren and Sun 2015, "Deep Residual Learning for Image Recognition"; groups:
    Xie et al. 2017, "Aggregated Residual Transformations for Deep Neural Networks"; width:
    Zagoruyko and Komodakis 2016, "Wide Residual Networks".
    """
    one_of("resnet", "depth", depth, STAGES)
    all_at_least("resnet", groups=groups, group_width=group_width)
    if depth < 50 and (groups, group_width) != (1, 64):
        raise ValueError(
            "resnet: groups and group_width are for the bottlenecks of depth 50, 101 and 152, got "
            f"groups={groups}, group_width={group_width} at depth {depth}"
        )
    layers = [*_stem(64, 7, 2), max_pool(3, strides=2, padding=1)]
    for stage, blocks in enumerate(STAGES[depth], 1):
        times = 2 ** (stage - 1)
        for i in range(1, blocks + 1):
            strides = 2 if stage > 1 and i == 1 else 1
            block_name = f"stage_{stage}_block_{i}"
            if depth < 50:
                block = _block(64 * times, strides, block_name)
            else:
                inner = groups * group_width * times
                block = _bottleneck(inner, 256 * times, strides, groups, block_name)
            layers.append(block)
    layers += [global_avg_pool(), dense(classes, name="output")]
    return serial(*layers, name=name).replace(kind="resnet")


def _stem(features: int, size: int, strides: int) -> list:
    options = {"use_bias": False, "kernel_init": he_normal(), "name": "conv_0"}
    layer = conv(features, size, strides=strides, padding=size // 2, **options)
    return [layer, batch_norm(name="norm_0"), jax.nn.relu]


def _block(features: int, strides: int, name: str) -> Layer:
    """Return two 3x3 convolutions, added to the shortcut."""
    return _residual(((features, 3, strides, 1), (features, 3, 1, 1)), name)


def _bottleneck(inner: int, features: int, strides: int, groups: int, name: str) -> Layer:
    """Return a 3x3 convolution between 1x1 ones that reduce and restore the maps."""
    convs = ((inner, 1, 1, 1), (inner, 3, strides, groups), (features, 1, 1, 1))
    return _residual(convs, name)


def _residual(convs: tuple[tuple[int, int, int, int], ...], name: str) -> Layer:
    """Return convolutions (maps, size, strides, groups) with batch norm, added to the shortcut."""

    def forward(m, x):
        y = x
        for i, (features, size, strides, groups) in enumerate(convs, 1):
            options = {
                "name": f"conv_{i}",
                "norm_name": f"norm_{i}",
                "activation": jax.nn.relu if i < len(convs) else None,
                "groups": groups,
            }
            y = unit(m, y, features, size, strides, **options)
        if x.shape != y.shape:
            strides = math.prod(strides for _, _, strides, _ in convs)
            x = unit(m, x, y.shape[-1], 1, strides, name="shortcut", activation=None)
        return activated(jax.nn.relu, y + x)

    return compose(forward, name=name, kind="residual_block")
