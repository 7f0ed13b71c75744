"""EfficientNet: networks scaled in width, depth and resolution at once."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxnet import Layer, compose, dense, dropout, global_avg_pool
from jaxnet.models.parts import added, divisible, inverted_residual, squeeze_excite, unit
from jaxnet.services.checks import at_least, one_of, within

# Per stage: times as many maps inside, size of the window, strides of the first block, maps,
# blocks, and whether the first two convolutions of a block are one (fused).
B0 = (
    (1, 3, 1, 16, 1, 0), (6, 3, 2, 24, 2, 0), (6, 5, 2, 40, 2, 0), (6, 3, 2, 80, 3, 0),
    (6, 5, 1, 112, 3, 0), (6, 5, 2, 192, 4, 0), (6, 3, 1, 320, 1, 0),
)  # fmt: skip
V2_S = (
    (1, 3, 1, 24, 2, 1), (4, 3, 2, 48, 4, 1), (4, 3, 2, 64, 4, 1), (4, 3, 2, 128, 6, 0),
    (6, 3, 1, 160, 9, 0), (6, 3, 2, 256, 15, 0),
)  # fmt: skip
V2_M = (
    (1, 3, 1, 24, 3, 1), (4, 3, 2, 48, 5, 1), (4, 3, 2, 80, 5, 1), (4, 3, 2, 160, 7, 0),
    (6, 3, 1, 176, 14, 0), (6, 3, 2, 304, 18, 0), (6, 3, 1, 512, 5, 0),
)  # fmt: skip
V2_L = (
    (1, 3, 1, 32, 4, 1), (4, 3, 2, 64, 7, 1), (4, 3, 2, 96, 7, 1), (4, 3, 2, 192, 10, 0),
    (6, 3, 1, 224, 19, 0), (6, 3, 2, 384, 25, 0), (6, 3, 1, 640, 7, 0),
)  # fmt: skip


class Variant(NamedTuple):
    """The options in which the variants differ.

    Fields:
      stages: Table of the stages.
      width, depth: Factors of maps and of blocks.
      rate: Rate of dropout before the last layer.
      stem, last: Maps of the first and of the last convolution, before `width`.
      epsilon, momentum: Options of the batch norms.
    """

    stages: tuple
    width: float
    depth: float
    rate: float
    stem: int = 32
    last: int = 1280
    epsilon: float = 1e-5
    momentum: float = 0.9


VARIANTS = {
    "b0": Variant(B0, 1.0, 1.0, 0.2),
    "b1": Variant(B0, 1.0, 1.1, 0.2),
    "b2": Variant(B0, 1.1, 1.2, 0.3),
    "b3": Variant(B0, 1.2, 1.4, 0.3),
    "b4": Variant(B0, 1.4, 1.8, 0.4),
    "b5": Variant(B0, 1.6, 2.2, 0.4, epsilon=1e-3, momentum=0.99),
    "b6": Variant(B0, 1.8, 2.6, 0.5, epsilon=1e-3, momentum=0.99),
    "b7": Variant(B0, 2.0, 3.1, 0.5, epsilon=1e-3, momentum=0.99),
    "v2_s": Variant(V2_S, 1.0, 1.0, 0.2, 24, epsilon=1e-3),
    "v2_m": Variant(V2_M, 1.0, 1.0, 0.3, 24, epsilon=1e-3),
    "v2_l": Variant(V2_L, 1.0, 1.0, 0.4, 32, epsilon=1e-3),
}


def efficientnet(
    variant: str = "b0",
    classes: int = 1000,
    *,
    drop_path_rate: float = 0.2,
    name: str = "efficientnet",
) -> Layer:
    """Make EfficientNet B0 to B7, or V2 S, M and L; 5,288,548 parameters for B0.

    The blocks are inverted residuals with gates (squeeze and excitation) and SiLU. The variants
    from B1 on have more maps and more blocks, and are meant for larger images. V2 has blocks
    without depthwise convolutions in its first three stages.

    | variant | b0 | b1 | b2 | b3 | b4 | b5 | b6 | b7 |
    |---|---|---|---|---|---|---|---|---|
    | million parameters | 5.3 | 7.8 | 9.1 | 12.2 | 19.3 | 30.4 | 43.0 | 66.3 |

    | variant | v2_s | v2_m | v2_l |
    |---|---|---|---|
    | million parameters | 21.5 | 54.1 | 118.5 |

    Args:
      variant: Size: "b0" to "b7", "v2_s", "v2_m" or "v2_l".
      classes: Number of outputs.
      drop_path_rate: Rate of dropped paths of the last block in training; earlier blocks have
        smaller rates, in proportion to their index.
      name: Name of the model. Its layers are conv_0, conv_0_norm, stage_1_block_1, ..., conv_last,
        conv_last_norm and output.

    Input:
      Images (batch, height, width, 3); 224x224 for B0 in the paper, other sizes work as well.

    Returns:
      A layer from images to logits (batch, classes).

    Raises:
      ValueError: If `variant` is not one of these.
      ValueError: If `drop_path_rate` is outside [0, 1).

    Example:
      >>> net = efficientnet("b0", classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '5,288,548'

    Reference: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
    Networks"; 2021, "EfficientNetV2: Smaller Models and Faster Training".
    """
    one_of("efficientnet", "variant", variant, VARIANTS)
    at_least("efficientnet", "classes", classes)
    within("efficientnet", "drop_path_rate", drop_path_rate, "[0, 1)")
    config = VARIANTS[variant]
    options = {
        "epsilon": config.epsilon,
        "momentum": config.momentum,
        "activation": jax.nn.silu,
    }
    counts = [math.ceil(n * config.depth) for *_, n, _ in config.stages]

    def scaled(maps):
        return divisible(maps * config.width)

    def forward(m, x):
        x = unit(m, x, scaled(config.stem), 3, 2, name="conv_0", **options)
        done = 0
        for stage, (times, size, first, maps, _, fused) in enumerate(config.stages):
            for i in range(counts[stage]):
                named = {
                    "name": f"stage_{stage + 1}_block_{i + 1}",
                    "drop": drop_path_rate * done / sum(counts),
                    **options,
                }
                features = x.shape[-1]
                if not fused:
                    named["excite"] = _gate(features // 4)
                block = _fused if fused else inverted_residual
                strides = 1 if i else first
                layer = block(scaled(maps), times * features, size, strides, **named)
                x = m(layer, x)
                done += 1
        x = unit(m, x, scaled(config.last), name="conv_last", **options)
        x = m(global_avg_pool(), x)
        x = m(dropout(config.rate), x)
        return m(dense(classes, name="output"), x)

    return compose(forward, name=name, kind="efficientnet")


def _gate(inner: int) -> Callable:
    def gate(m, y):
        return squeeze_excite(m, y, inner, jax.nn.silu, jax.nn.sigmoid)

    return gate


def _fused(
    features: int, wide: int, size: int, strides: int, *, name: str, drop: float, **options: Any
) -> Layer:
    """A convolution to many maps and a 1x1 convolution back, or one convolution; a residual."""
    linear: dict[str, Any] = {**options, "activation": None}

    def forward(m, x):
        if wide == x.shape[-1]:
            y = unit(m, x, features, size, strides, name="conv", **options)
        else:
            y = unit(m, x, wide, size, strides, name="expand", **options)
            y = unit(m, y, features, name="project", **linear)
        return added(m, x, y, strides, drop)

    return compose(forward, name=name, kind="fused_residual")
