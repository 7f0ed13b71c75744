"""ShuffleNet V2: half of the maps skip each block, then the halves are mixed."""

import jax.numpy as jnp

from jaxnet import Layer, compose, dense, global_avg_pool, max_pool
from jaxnet.models.parts import unit
from jaxnet.tools import at_least, one_of

# Maps of the three stages, and of the last convolution.
VARIANTS = {
    "x0_5": (48, 96, 192, 1024),
    "x1_0": (116, 232, 464, 1024),
    "x1_5": (176, 352, 704, 1024),
    "x2_0": (244, 488, 976, 2048),
}
BLOCKS = (4, 8, 4)


def shufflenet_v2(
    variant: str = "x1_0", classes: int = 1000, *, name: str = "shufflenet_v2"
) -> Layer:
    """Make ShuffleNet V2, a small network for images; 2,278,604 parameters for x1_0.

    The net has a 3x3 convolution and a max pooling, 224 -> 56 pixels; then three stages of blocks,
    a 1x1 convolution, a mean over each map, and a dense layer. A block changes half of its maps, by
    a depthwise convolution between 1x1 convolutions, and then interleaves the halves.

    | variant | x0_5 | x1_0 | x1_5 | x2_0 |
    |---|---|---|---|---|
    | parameters | 1,366,792 | 2,278,604 | 3,503,624 | 7,393,996 |

    Args:
      variant: Factor of the numbers of maps: "x0_5", "x1_0", "x1_5" or "x2_0".
      classes: Number of outputs.
      name: Name of the model. Its layers are conv_0, conv_0_norm, stage_1_block_1, ..., conv_last,
        conv_last_norm and output.

    Input:
      Images (batch, height, width, 3); 224x224 in the paper, other sizes work as well.

    Raises:
      ValueError: If `variant` is not one of these.

    Example:
      >>> net = shufflenet_v2("x1_0", classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '2,278,604'

    Reference: Ma, Zhang, Zheng and Sun 2018, "ShuffleNet V2: Practical Guidelines for Efficient
    CNN Architecture Design".
    """
    one_of("shufflenet_v2", "variant", variant, VARIANTS)
    at_least("shufflenet_v2", "classes", classes)
    *stages, last = VARIANTS[variant]

    def forward(m, x):
        x = m(max_pool(3, strides=2, padding=1), unit(m, x, 24, 3, 2, name="conv_0"))
        for stage, (features, blocks) in enumerate(zip(stages, BLOCKS, strict=True), 1):
            for i in range(1, blocks + 1):
                strides = 2 if i == 1 else 1
                x = m(_block(features // 2, strides, f"stage_{stage}_block_{i}"), x)
        x = m(global_avg_pool(), unit(m, x, last, name="conv_last"))
        return m(dense(classes, name="output"), x)

    return compose(forward, name=name, kind="shufflenet_v2")


def _block(features: int, strides: int, name: str) -> Layer:
    """Two halves: one that is unchanged (with strides, reduced) and one that is computed."""

    def depthwise(m, x, name):
        groups = x.shape[-1]
        return unit(m, x, groups, 3, strides, name=name, activation=None, groups=groups)

    def forward(m, x):
        a, b = (x, x) if strides == 2 else jnp.split(x, 2, -1)
        if strides == 2:
            a = unit(m, depthwise(m, a, "short_depthwise"), features, name="short_conv")
        b = unit(m, b, features, name="conv_1")
        b = unit(m, depthwise(m, b, "depthwise"), features, name="conv_2")
        # Alternates between maps of a and b.
        return jnp.stack([a, b], -1).reshape(*a.shape[:-1], -1)

    return compose(forward, name=name, kind="shuffle_block")
