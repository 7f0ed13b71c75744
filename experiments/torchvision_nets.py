"""Networks of torchvision that are not in `jn.models`, for `experiments.torchvision_logits`.

Layers are called in the order in which torchvision defines them, so that `from_torch` needs no
names. The published options are torchvision's: sizes, strides, padding, epsilon.
"""

from collections.abc import Callable

import jax

import jaxnet as jn

Activation = Callable[[jax.Array], jax.Array]


def conv(m, x, features, size=1, strides=1, groups=1, dilation=1, use_bias=False):
    """Return a convolution with PyTorch's symmetric padding."""
    options = {"strides": strides, "groups": groups, "dilation": dilation, "use_bias": use_bias}
    return m(jn.conv(features, size, padding=size // 2 * dilation, **options), x)


def unit(m, x, features, size=1, strides=1, activation=jax.nn.relu, **options):
    """Return a convolution with batch norm and an activation."""
    x = conv(m, x, features, size, strides, **options)
    return activation(m(jn.batch_norm(), x))


def same(x: jax.Array) -> jax.Array:
    return x


def mean(x: jax.Array) -> jax.Array:
    """Return the mean of all pixels: (batch, height, width, channels) -> (batch, channels)."""
    return x.mean((1, 2))


def dilated_resnet50():
    """Return the trunk of ResNet-50, whose last two stages have dilation instead of strides."""

    def block(m, x, inner, strides, dilation):
        y = unit(m, x, inner)
        y = unit(m, y, inner, 3, strides, dilation=dilation)
        y = unit(m, y, 4 * inner, activation=same)
        if x.shape != y.shape:
            x = unit(m, x, 4 * inner, 1, strides, activation=same)
        return jax.nn.relu(x + y)

    def net(m, x):
        x = m(jn.max_pool(3, strides=2, padding=1), unit(m, x, 64, 7, 2))
        # Blocks, maps, strides, dilation of the first block and of the others.
        stages = ((3, 64, 1, 1, 1), (4, 128, 2, 1, 1), (6, 256, 1, 1, 2), (3, 512, 1, 2, 4))
        for depth, inner, strides, first, rest in stages:
            for i in range(depth):
                x = block(m, x, inner, *((1, rest) if i else (strides, first)))
        return x

    return jn.compose(net)


def fcn_resnet50():
    """Make a segmentation net: a score for each class and pixel."""
    trunk = dilated_resnet50()

    def net(m, x):
        x = conv(m, unit(m, m(trunk, x), 512, 3), 21, use_bias=True)
        return m(jn.resize(scale=8), x)

    return jn.compose(net)


def mnasnet1_0():
    stages = ((3, 24, 3, 3, 2), (3, 40, 3, 5, 2), (6, 80, 3, 5, 2), (6, 96, 2, 3, 1),
              (6, 192, 4, 5, 2), (6, 320, 1, 3, 1))  # fmt: skip

    def net(m, x):
        x = unit(m, unit(m, x, 32, 3, 2), 32, 3, groups=32)
        x = unit(m, x, 16, activation=same)
        for times, features, n, size, strides in stages:
            for i in range(n):
                wide, step = times * x.shape[-1], 1 if i else strides
                y = unit(m, unit(m, x, wide), wide, size, step, groups=wide)
                y = unit(m, y, features, activation=same)
                x = x + y if x.shape == y.shape else y
        return m(jn.dense(1000), mean(unit(m, x, 1280)))

    return jn.compose(net)


def alexnet() -> jn.Layer:
    """Make AlexNet with fewer maps than the published net, without groups and normalization."""

    def forward(m, x):
        strides, padding = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
        for i, (features, size) in enumerate(((64, 11), (192, 5), (384, 3), (256, 3), (256, 3))):
            x = jax.nn.relu(m(jn.conv(features, size, strides=strides[i], padding=padding[i]), x))
            x = m(jn.max_pool(3, strides=2), x) if i in (0, 1, 4) else x
        x = m(jn.flatten(), x)
        for _ in range(2):
            x = jax.nn.relu(m(jn.dense(4096), m(jn.dropout(0.5), x)))
        return m(jn.dense(1000, name="output"), x)

    return jn.compose(forward, name="alexnet")
