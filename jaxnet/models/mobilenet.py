"""MobileNet V2 and V3: inverted residuals of depthwise convolutions."""

from typing import Any

import jax

from jaxnet import Layer, compose, dense, dropout, global_avg_pool
from jaxnet.models.parts import divisible, inverted_residual, squeeze_excite, unit
from jaxnet.services.checks import at_least, one_of, within

# Per stage: times as many maps inside, maps, blocks, strides of the first block.
V2 = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
    (6, 320, 1, 1),
)  # fmt: skip

# Per block: size of the window, maps inside, maps, whether gated, whether hard swish, strides.
SMALL = (
    (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1),
)  # fmt: skip
LARGE = (
    (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1), (5, 960, 160, 1, 1, 1),
)  # fmt: skip
V3 = {"small": (SMALL, 1024), "large": (LARGE, 1280)}


def mobilenet_v2(classes: int = 1000, *, width: float = 1.0, name: str = "mobilenet_v2") -> Layer:
    """Make MobileNet V2, a small network for images; 3,504,872 parameters.

    The net is a 3x3 convolution, 17 inverted residuals down to 7 pixels, a 1x1 convolution, a mean
    over each map, dropout and a dense layer.

    Args:
      classes: Number of outputs.
      width: Factor of the numbers of maps, such as 0.5, 0.75 or 1.4.
      name: Name of the model. Its layers are conv_0, conv_0_norm, block_1, ..., block_17, conv_18,
        conv_18_norm and output.

    Input:
      Images (batch, height, width, 3); 224x224 in the paper, other sizes work as well.

    Returns:
      A layer from images to logits (batch, classes).

    Raises:
      ValueError: If `width` is not positive.

    Example:
      >>> net = mobilenet_v2(classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '3,504,872'

    Reference: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks".
    """
    at_least("mobilenet_v2", "classes", classes)
    within("mobilenet_v2", "width", width, "(0, inf)")

    def forward(m, x):
        relu6: dict[str, Any] = {"activation": jax.nn.relu6}
        x = unit(m, x, divisible(32 * width), 3, 2, name="conv_0", **relu6)
        block = 0
        for times, maps, n, first in V2:
            features = divisible(maps * width)
            for i in range(n):
                block += 1
                wide = times * x.shape[-1]
                strides = 1 if i else first
                options = {"name": f"block_{block}", **relu6}
                x = m(inverted_residual(features, wide, 3, strides, **options), x)
        last = divisible(1280 * max(1.0, width))
        x = unit(m, x, last, name=f"conv_{block + 1}", **relu6)
        x = m(global_avg_pool(), x)
        x = m(dropout(0.2), x)
        return m(dense(classes, name="output"), x)

    return compose(forward, name=name, kind="mobilenet_v2")


def mobilenet_v3(
    variant: str = "large", classes: int = 1000, *, name: str = "mobilenet_v3"
) -> Layer:
    """Make MobileNet V3, small with 2,542,856 or large with 5,483,032 parameters.

    It is MobileNet V2 with gates in some blocks (squeeze and excitation), hard swish, and another
    dense layer before the last one.

    Args:
      variant: Size: "small" or "large".
      classes: Number of outputs.
      name: Name of the model. Its layers are conv_0, conv_0_norm, block_1, ..., a last convolution
        such as conv_16 with its norm, hidden and output.

    Input:
      Images (batch, height, width, 3); 224x224 in the paper, other sizes work as well.

    Returns:
      A layer from images to logits (batch, classes).

    Raises:
      ValueError: If `variant` is not one of these.

    Example:
      >>> net = mobilenet_v3("small", classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '2,542,856'

    Reference: Howard et al. 2019, "Searching for MobileNetV3".
    """
    one_of("mobilenet_v3", "variant", variant, V3)
    at_least("mobilenet_v3", "classes", classes)
    blocks, hidden = V3[variant]
    norm: dict[str, Any] = {"epsilon": 1e-3, "momentum": 0.99}

    def excite(m, x):
        inner = divisible(x.shape[-1] // 4)
        return squeeze_excite(m, x, inner, jax.nn.relu, jax.nn.hard_sigmoid)

    def forward(m, x):
        hard: dict[str, Any] = {"activation": jax.nn.hard_swish, **norm}
        x = unit(m, x, 16, 3, 2, name="conv_0", **hard)
        for i, (size, wide, features, gated, is_hard, strides) in enumerate(blocks, 1):
            activation = jax.nn.hard_swish if is_hard else jax.nn.relu
            options = {"excite": excite if gated else None, "name": f"block_{i}", **norm}
            x = m(inverted_residual(features, wide, size, strides, activation, **options), x)
        features = 6 * x.shape[-1]
        x = unit(m, x, features, name=f"conv_{len(blocks) + 1}", **hard)
        x = m(global_avg_pool(), x)
        x = m(dense(hidden, name="hidden"), x)
        x = m(dropout(0.2), jax.nn.hard_swish(x))
        return m(dense(classes, name="output"), x)

    return compose(forward, name=name, kind="mobilenet_v3")
