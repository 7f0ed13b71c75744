"""RegNet: networks whose widths and depths follow a rule of four numbers."""

import itertools
import math

import jax

from jaxnet import Layer, compose, dense, global_avg_pool
from jaxnet.models.parts import divisible, squeeze_excite, unit
from jaxnet.tools import at_least, one_of

# Blocks, maps of the first block, slope, ratio of the widths of stages, maps per group.
VARIANTS = {
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


def regnet(variant: str = "y_400mf", classes: int = 1000, *, name: str = "regnet") -> Layer:
    """Make RegNetX or RegNetY, from 400 million to 128 billion multiplications per image.

    The net is a 3x3 convolution, four stages of bottlenecks with grouped 3x3 convolutions, a mean
    over each map, and a dense layer. The Y networks have gates (squeeze and excitation) as well.

    | variant | 400mf | 800mf | 1_6gf | 3_2gf | 8gf | 16gf | 32gf | 128gf |
    |---|---|---|---|---|---|---|---|---|
    | million parameters, x | 5.5 | 7.3 | 9.2 | 15.3 | 39.6 | 54.3 | 107.8 | |
    | million parameters, y | 4.3 | 6.4 | 11.2 | 19.4 | 39.4 | 83.6 | 145.0 | 644.8 |

    Args:
      variant: Kind "x_" or "y_" and size, such as "y_400mf" or "x_3_2gf".
      classes: Number of outputs.
      name: Name of the model. Its layers are conv_0, conv_0_norm, stage_1_block_1, ..., output; the
        layers of a block are conv_1, conv_2, squeeze and excite in RegNetY, conv_3, shortcut, and
        the norms.

    Input:
      Images (batch, height, width, 3); 224x224 in the paper, other sizes work as well.

    Raises:
      ValueError: If `variant` is not one of these.

    Example:
      >>> net = regnet("y_400mf", classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '4,344,144'

    Reference: Radosavovic, Kosaraju, Girshick, He and Dollár 2020, "Designing Network Design
    Spaces".
    """
    one_of("regnet", "variant", variant, VARIANTS)
    at_least("regnet", "classes", classes)
    stages, group, gated = _stages(*VARIANTS[variant]), VARIANTS[variant][-1], variant[0] == "y"

    def forward(m, x):
        x = unit(m, x, 32, 3, 2, name="conv_0")
        for stage, (features, depth) in enumerate(stages, 1):
            for i in range(1, depth + 1):
                strides = 2 if i == 1 else 1
                x = m(_block(features, strides, group, gated, f"stage_{stage}_block_{i}"), x)
        return m(dense(classes, name="output"), m(global_avg_pool(), x))

    return compose(forward, name=name, kind="regnet")


def _stages(depth: int, first: int, slope: float, ratio: float, group: int):
    """Return maps and blocks of each stage: linear widths, rounded to powers of the ratio, then to
    8."""
    powers = [round(math.log((first + slope * i) / first, ratio)) for i in range(depth)]
    widths = [8 * round(first * ratio**power / 8) for power in powers]
    found = [(width, len(list(same))) for width, same in itertools.groupby(widths)]
    return [(divisible(width, min(group, width)), blocks) for width, blocks in found]


def _block(features: int, strides: int, group: int, gated: bool, name: str) -> Layer:
    """Return a grouped 3x3 convolution between 1x1 convolutions, added to the shortcut."""

    def forward(m, x):
        shortcut = x
        if strides == 2 or x.shape[-1] != features:
            shortcut = unit(m, x, features, 1, strides, name="shortcut", activation=None)
        groups = features // min(group, features)
        y = unit(m, x, features, name="conv_1")
        y = unit(m, y, features, 3, strides, groups=groups, name="conv_2")
        if gated:
            y = squeeze_excite(m, y, round(x.shape[-1] / 4), jax.nn.relu, jax.nn.sigmoid)
        return jax.nn.relu(shortcut + unit(m, y, features, name="conv_3", activation=None))

    return compose(forward, name=name, kind="residual_block")
