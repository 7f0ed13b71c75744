"""Networks of torchvision, written as functions, for `experiments.torchvision_logits`.

Layers are called in the order in which torchvision defines them, so that `from_torch` needs no
names. The published options are torchvision's: sizes, strides, padding, epsilon.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxnet as jn

Activation = Callable[[jax.Array], jax.Array]


def conv(m, x, features, size=1, strides=1, groups=1, dilation=1, use_bias=False):
    """A convolution with PyTorch's symmetric padding."""
    options = {"strides": strides, "groups": groups, "dilation": dilation, "use_bias": use_bias}
    return m(jn.conv(features, size, padding=size // 2 * dilation, **options), x)


def unit(m, x, features, size=1, strides=1, activation=jax.nn.relu, epsilon=1e-5, **options):
    """A convolution with batch norm and an activation."""
    x = conv(m, x, features, size, strides, **options)
    return activation(m(jn.batch_norm(epsilon=epsilon), x))


def same(x: jax.Array) -> jax.Array:
    return x


def mean(x: jax.Array) -> jax.Array:
    """Of all pixels: (batch, height, width, channels) -> (batch, channels)."""
    return x.mean((1, 2))


def squeeze_excite(m, x, features: int, inner: Activation, gate: Activation) -> jax.Array:
    """The maps, each multiplied by a gate computed from the means of all."""
    y = inner(conv(m, x.mean((1, 2), keepdims=True), features, use_bias=True))
    return x * gate(conv(m, y, x.shape[-1], use_bias=True))


def divisible(number: float, by: int = 8) -> int:
    """The nearest multiple, at most 10% below the number."""
    near = max(by, int(number + by / 2) // by * by)
    return near + by if near < 0.9 * number else near


def bottlenecks(depths, *, width=64, groups=1, dilated=(False, False, False), trunk=False):
    """ResNets of 50 layers and more: wide, grouped, and with dilation in place of strides."""

    def block(m, x, features, inner, strides, dilation):
        y = unit(m, x, inner)
        y = unit(m, y, inner, 3, strides, groups=groups, dilation=dilation)
        y = unit(m, y, features, activation=same)
        if x.shape != y.shape:
            x = unit(m, x, features, 1, strides, activation=same)
        return jax.nn.relu(x + y)

    def net(m, x):
        x = m(jn.max_pool(3, strides=2, padding=1), unit(m, x, 64, 7, 2))
        dilation = 1
        for stage, depth in enumerate(depths):
            strides, before = 2 if stage else 1, dilation
            if stage and dilated[stage - 1]:
                strides, dilation = 1, 2 * dilation
            for i in range(depth):
                features, inner = 256 * 2**stage, width * 2**stage * groups
                first = (strides, before) if i == 0 else (1, dilation)
                x = block(m, x, features, inner, *first)
        return x if trunk else m(jn.dense(1000), mean(x))

    return jn.compose(net)


def fcn_resnet50():
    """Segmentation: a score for each class and pixel."""
    trunk = bottlenecks((3, 4, 6, 3), dilated=(False, True, True), trunk=True)

    def net(m, x):
        x = conv(m, unit(m, m(trunk, x), 512, 3), 21, use_bias=True)
        return m(jn.upsample_bilinear(8), x)

    return jn.compose(net)


def inverted_residual(m, x, features, wide, size, strides, activation, epsilon=1e-5, excite=None):
    """1x1 to a wide number of maps, depthwise, 1x1 back; added to x where the shapes agree."""
    options = {"activation": activation, "epsilon": epsilon}
    y = unit(m, x, wide, **options) if wide != x.shape[-1] else x
    y = unit(m, y, wide, size, strides, groups=wide, **options)
    if excite is not None:
        y = excite(m, y)
    y = unit(m, y, features, activation=same, epsilon=epsilon)
    return x + y if strides == 1 and x.shape == y.shape else y


def mobilenet_v2():
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
              (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip

    def net(m, x):
        x = unit(m, x, 32, 3, 2, jax.nn.relu6)
        for times, features, n, strides in stages:
            for i in range(n):
                wide, step = times * x.shape[-1], 1 if i else strides
                x = inverted_residual(m, x, features, wide, 3, step, jax.nn.relu6)
        return m(jn.dense(1000), mean(unit(m, x, 1280, activation=jax.nn.relu6)))

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
                x = inverted_residual(m, x, features, wide, size, step, jax.nn.relu)
        return m(jn.dense(1000), mean(unit(m, x, 1280)))

    return jn.compose(net)


# Size of the window, width, features, whether gated, whether hard swish, strides.
SMALL = ((3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
         (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1),
         (5, 144, 48, 1, 1, 1), (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1),
         (5, 576, 96, 1, 1, 1))  # fmt: skip
LARGE = ((3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2),
         (5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2),
         (3, 200, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1),
         (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2),
         (5, 960, 160, 1, 1, 1), (5, 960, 160, 1, 1, 1))  # fmt: skip


def mobilenet_v3(blocks, last: int):
    def excite(m, x):
        inner = divisible(x.shape[-1] // 4)
        return squeeze_excite(m, x, inner, jax.nn.relu, jax.nn.hard_sigmoid)

    def net(m, x):
        x = unit(m, x, 16, 3, 2, jax.nn.hard_swish, 1e-3)
        for size, wide, features, gated, hard, strides in blocks:
            activation, gate = jax.nn.hard_swish if hard else jax.nn.relu, excite if gated else None
            x = inverted_residual(m, x, features, wide, size, strides, activation, 1e-3, gate)
        x = mean(unit(m, x, 6 * x.shape[-1], activation=jax.nn.hard_swish, epsilon=1e-3))
        return m(jn.dense(1000), jax.nn.hard_swish(m(jn.dense(last), x)))

    return jn.compose(net)


def efficientnet_b0():
    stages = ((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2),
              (6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1))  # fmt: skip

    def net(m, x):
        x = unit(m, x, 32, 3, 2, jax.nn.silu)
        for times, features, n, size, strides in stages:
            for i in range(n):
                inputs, step = x.shape[-1], 1 if i else strides

                def excite(m, y, inner=inputs // 4):
                    return squeeze_excite(m, y, inner, jax.nn.silu, jax.nn.sigmoid)

                wide = times * inputs
                x = inverted_residual(m, x, features, wide, size, step, jax.nn.silu, excite=excite)
        return m(jn.dense(1000), mean(unit(m, x, 1280, activation=jax.nn.silu)))

    return jn.compose(net)


def densenet(depths):
    def grow(m, x):
        """Norm and activation come before each convolution."""
        y = conv(m, jax.nn.relu(m(jn.batch_norm(), x)), 128)
        y = conv(m, jax.nn.relu(m(jn.batch_norm(), y)), 32, 3)
        return jnp.concatenate([x, y], -1)

    def net(m, x):
        x = m(jn.max_pool(3, strides=2, padding=1), unit(m, x, 64, 7, 2))
        for stage, depth in enumerate(depths):
            for _ in range(depth):
                x = grow(m, x)
            if stage < len(depths) - 1:
                x = conv(m, jax.nn.relu(m(jn.batch_norm(), x)), x.shape[-1] // 2)
                x = m(jn.avg_pool(2), x)
        return m(jn.dense(1000), mean(jax.nn.relu(m(jn.batch_norm(), x))))

    return jn.compose(net)


def squeezenet1_1():
    def fire(m, x, few, many):
        x = jax.nn.relu(conv(m, x, few, use_bias=True))
        parts = [conv(m, x, many, size, use_bias=True) for size in (1, 3)]
        return jax.nn.relu(jnp.concatenate(parts, -1))

    def net(m, x):
        x = jax.nn.relu(m(jn.conv(64, 3, strides=2, padding="VALID"), x))
        for i, few in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
            if i in (0, 2, 4):
                x = m(jn.max_pool(3, strides=2), x)
            x = fire(m, x, few, 4 * few)
        return mean(jax.nn.relu(conv(m, x, 1000, use_bias=True)))

    return jn.compose(net)


def shufflenet_v2_x1_0():
    def branch(m, x, features, strides):
        x = unit(m, x, features)
        x = unit(m, x, features, 3, strides, activation=same, groups=features)
        return unit(m, x, features)

    def block(m, x, features, strides):
        if strides == 2:
            a = unit(m, x, x.shape[-1], 3, 2, activation=same, groups=x.shape[-1])
            a, b = unit(m, a, features), branch(m, x, features, 2)
        else:
            a, b = jnp.split(x, 2, -1)
            b = branch(m, b, features, 1)
        return jnp.stack([a, b], -1).reshape(*a.shape[:-1], -1)  # one of a, one of b, ...

    def net(m, x):
        x = m(jn.max_pool(3, strides=2, padding=1), unit(m, x, 24, 3, 2))
        for features, n in ((116, 4), (232, 8), (464, 4)):
            for i in range(n):
                x = block(m, x, features // 2, 1 if i else 2)
        return m(jn.dense(1000), mean(unit(m, x, 1024)))

    return jn.compose(net)


def regnet(widths, depths, group: int, gated: bool):
    def block(m, x, features, strides):
        shortcut = x
        if strides == 2 or x.shape[-1] != features:
            shortcut = unit(m, x, features, 1, strides, activation=same)
        y = unit(m, x, features)
        y = unit(m, y, features, 3, strides, groups=features // group)
        if gated:
            y = squeeze_excite(m, y, round(x.shape[-1] / 4), jax.nn.relu, jax.nn.sigmoid)
        return jax.nn.relu(shortcut + unit(m, y, features, activation=same))

    def net(m, x):
        x = unit(m, x, 32, 3, 2)
        for features, depth in zip(widths, depths, strict=True):
            for i in range(depth):
                x = block(m, x, features, 1 if i else 2)
        return m(jn.dense(1000), mean(x))

    return jn.compose(net)


def gelu(x: jax.Array) -> jax.Array:
    """PyTorch's, with the error function; that of JAX is its tanh form by default."""
    return jax.nn.gelu(x, approximate=False)


def convnext(features, depths):
    def block(i):
        def forward(m, x):
            y = m(jn.depthwise_conv(7, padding=3, name="conv"), x)
            y = gelu(m(jn.dense(4 * x.shape[-1], name="wide"), m(jn.layer_norm(name="norm"), y)))
            y = m(jn.dense(x.shape[-1], name="narrow"), y)
            return x + m.param("layer_scale", jn.initializers.ones, y.shape[-1:]) * y

        return jn.compose(forward, name=i)

    def net(m, x):
        x = m(jn.conv(features[0], 4, strides=4, padding="VALID", name="stem"), x)
        x = m(jn.layer_norm(name="stem_norm"), x)
        for stage, depth in enumerate(depths):
            if stage:
                x = m(jn.layer_norm(name=f"reduce_norm_{stage}"), x)
                reduce = jn.conv(features[stage], 2, strides=2, name=f"reduce_{stage}")
                x = m(reduce, x)
            for i in range(depth):
                x = m(block(f"stage_{stage}_block_{i}"), x)
        return m(jn.dense(1000, name="head"), m(jn.layer_norm(name="norm"), mean(x)))

    return jn.compose(net)


def vit_b_16():
    def net(m, x):
        x = m(jn.conv(768, 16, strides=16, padding="VALID", name="patches"), x)
        x = x.reshape(x.shape[0], -1, 768)  # (batch, patches, features)
        first = m.param("class", jn.initializers.zeros, (1, 1, 768))
        x = jnp.concatenate([jnp.broadcast_to(first, (x.shape[0], 1, 768)), x], 1)
        x = x + m.param("positions", jn.initializers.zeros, (1, x.shape[1], 768))
        for i in range(12):
            x = m(jn.transformer_block(12, 3072, activation=gelu, name=f"block_{i}"), x)
        return m(jn.dense(1000, name="head"), m(jn.layer_norm(name="norm"), x)[:, 0])

    return jn.compose(net)
