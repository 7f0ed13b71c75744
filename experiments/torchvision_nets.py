"""Networks of torchvision that are not in `jn.models`, for `experiments.torchvision_logits`.

Layers are called in the order in which torchvision defines them, so that `from_torch` needs no
names. The published options are torchvision's: sizes, strides, padding, epsilon.
"""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet.initializers import he_normal

Activation = Callable[[jax.Array], jax.Array]


def conv(m, x, features, size=1, strides=1, groups=1, dilation=1, use_bias=False, name="conv"):
    """Return a convolution with PyTorch's symmetric padding."""
    options = {"strides": strides, "groups": groups, "dilation": dilation, "use_bias": use_bias}
    options |= {"kernel_init": he_normal(), "name": name}
    return m(jn.conv(features, size, padding=size // 2 * dilation, **options), x)


def unit(m, x, features, size=1, strides=1, activation=jax.nn.relu, name=None, **options):
    """Return a convolution with batch norm and an activation."""
    x = conv(m, x, features, size, strides, name=name or "conv", **options)
    return activation(m(jn.batch_norm(name=f"{name}_norm" if name else "batch_norm"), x))


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


# Maps and size of the first convolution, and the modules before which a max pooling comes.
SQUEEZENET = {"1_0": (96, 7, (1, 4, 8)), "1_1": (64, 3, (1, 3, 5))}


def squeezenet(variant: str, classes: int = 1000) -> jn.Layer:
    """Make SqueezeNet: few parameters by 1x1 convolutions.

    Reference: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters
    and <0.5MB model size".
    """
    stem, window, pools = SQUEEZENET[variant]

    def fire(few, name):
        def forward(m, x):
            x = jax.nn.relu(conv(m, x, few, use_bias=True, name="squeeze"))
            wide = [
                conv(m, x, 4 * few, size, use_bias=True, name=f"expand_{size}x{size}")
                for size in (1, 3)
            ]
            return jax.nn.relu(jnp.concatenate(wide, -1))

        return jn.compose(forward, name=name, kind="fire")

    def forward(m, x):
        layer = jn.conv(
            stem, window, strides=2, padding="VALID", kernel_init=he_normal(), name="conv_0"
        )
        x = jax.nn.relu(m(layer, x))
        for i, few in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 1):
            if i in pools:  # windows that begin inside the map count, as in the paper's Caffe
                padding = [(0, (size - 3) % 2) for size in x.shape[1:3]]
                x = m(jn.max_pool(3, strides=2, padding=padding), x)
            x = m(fire(few, f"fire_{i}"), x)
        output = jn.conv(classes, 1, kernel_init=jn.initializers.normal(0.01), name="output")
        return m(jn.global_avg_pool(), jax.nn.relu(m(output, m(jn.dropout(0.5), x))))

    return jn.compose(forward, name="squeezenet", kind="squeezenet")


# Maps of the three stages, and of the last convolution.
SHUFFLENET = {
    "x0_5": (48, 96, 192, 1024),
    "x1_0": (116, 232, 464, 1024),
    "x1_5": (176, 352, 704, 1024),
    "x2_0": (244, 488, 976, 2048),
}


def shufflenet_v2(variant: str, classes: int = 1000) -> jn.Layer:
    """Make ShuffleNet V2: half of the maps skip each block, then the halves are mixed.

    Reference: Ma, Zhang, Zheng and Sun 2018, "ShuffleNet V2: Practical Guidelines for Efficient
    CNN Architecture Design".
    """
    *stages, last = SHUFFLENET[variant]

    def block(features, strides, name):
        def depthwise(m, x, name):
            return unit(m, x, x.shape[-1], 3, strides, same, name, groups=x.shape[-1])

        def forward(m, x):
            a, b = (x, x) if strides == 2 else jnp.split(x, 2, -1)
            if strides == 2:
                a = unit(m, depthwise(m, a, "short_depthwise"), features, name="short_conv")
            b = unit(m, b, features, name="conv_1")
            b = unit(m, depthwise(m, b, "depthwise"), features, name="conv_2")
            # Alternates between maps of a and b.
            return jnp.stack([a, b], -1).reshape(*a.shape[:-1], -1)

        return jn.compose(forward, name=name, kind="shuffle_block")

    def forward(m, x):
        x = m(jn.max_pool(3, strides=2, padding=1), unit(m, x, 24, 3, 2, name="conv_0"))
        for stage, (features, blocks) in enumerate(zip(stages, (4, 8, 4), strict=True), 1):
            for i in range(1, blocks + 1):
                x = m(block(features // 2, 2 if i == 1 else 1, f"stage_{stage}_block_{i}"), x)
        x = m(jn.global_avg_pool(), unit(m, x, last, name="conv_last"))
        return m(jn.dense(classes, name="output"), x)

    return jn.compose(forward, name="shufflenet_v2", kind="shufflenet_v2")


# Blocks, maps of the first block, slope, ratio of the widths of stages, maps per group.
REGNET = {
    "x_400mf": (22, 24, 24.48, 2.54, 16),
    "x_800mf": (16, 56, 35.73, 2.28, 16),
    "x_1_6gf": (18, 80, 34.01, 2.25, 24),
    "x_3_2gf": (25, 88, 26.31, 2.25, 48),
    "x_8gf": (23, 80, 49.56, 2.88, 120),
    "x_16gf": (22, 216, 55.59, 2.1, 128),
    "x_32gf": (23, 320, 69.86, 2.0, 168),
    "y_400mf": (16, 48, 27.89, 2.09, 8),
    "y_800mf": (14, 56, 38.84, 2.4, 16),
    "y_1_6gf": (27, 48, 20.71, 2.65, 24),
    "y_3_2gf": (21, 80, 42.63, 2.66, 24),
    "y_8gf": (17, 192, 76.82, 2.19, 56),
    "y_16gf": (18, 200, 106.23, 2.48, 112),
    "y_32gf": (20, 232, 115.89, 2.53, 232),
    "y_128gf": (27, 456, 160.83, 2.52, 264),
}


def regnet(variant: str, classes: int = 1000) -> jn.Layer:
    """Make RegNetX or, with gates (squeeze and excitation), RegNetY.

    Reference: Radosavovic, Kosaraju, Girshick, He and Dollár 2020, "Designing Network Design
    Spaces".
    """
    depth, first, slope, ratio, most = REGNET[variant]
    # Linear widths, rounded to powers of the ratio, then to 8.
    powers = [round(math.log((first + slope * i) / first, ratio)) for i in range(depth)]
    widths = [8 * round(first * ratio**power / 8) for power in powers]

    def gate(m, x, features):
        y = x.mean((1, 2), keepdims=True)
        y = jax.nn.relu(conv(m, y, features, use_bias=True, name="squeeze"))
        return x * jax.nn.sigmoid(m(jn.conv(x.shape[-1], 1, name="excite"), y))

    def block(features, strides, group, name):
        def forward(m, x):
            shortcut = x
            if strides == 2 or x.shape[-1] != features:
                shortcut = unit(m, x, features, 1, strides, same, "shortcut")
            y = unit(m, x, features, name="conv_1")
            y = unit(m, y, features, 3, strides, groups=features // group, name="conv_2")
            if variant[0] == "y":
                y = gate(m, y, round(x.shape[-1] / 4))
            return jax.nn.relu(shortcut + unit(m, y, features, activation=same, name="conv_3"))

        return jn.compose(forward, name=name, kind="residual_block")

    def forward(m, x):
        x = unit(m, x, 32, 3, 2, name="conv_0")
        for stage, (width, blocks) in enumerate(itertools.groupby(widths), 1):
            group = min(most, width)
            features = (width + group // 2) // group * group  # the nearest multiple,
            features += group if features < 0.9 * width else 0  # at most 10% below
            for i, _ in enumerate(blocks, 1):
                x = m(block(features, 2 if i == 1 else 1, group, f"stage_{stage}_block_{i}"), x)
        return m(jn.dense(classes, name="output"), m(jn.global_avg_pool(), x))

    return jn.compose(forward, name="regnet", kind="regnet")
