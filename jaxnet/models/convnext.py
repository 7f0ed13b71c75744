"""ConvNeXt: a residual network of depthwise convolutions, layer norm and GELU."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxnet import Layer, compose, conv, dense, depthwise_conv, global_avg_pool, layer_norm
from jaxnet.initializers import constant, normal
from jaxnet.layers import drop_path
from jaxnet.models.parts import gelu
from jaxnet.ops import broadcast
from jaxnet.services.checks import at_least, one_of, within

# Maps and blocks of each stage.
VARIANTS = {
    "tiny": ((96, 3), (192, 3), (384, 9), (768, 3)),
    "small": ((96, 3), (192, 3), (384, 27), (768, 3)),
    "base": ((128, 3), (256, 3), (512, 27), (1024, 3)),
    "large": ((192, 3), (384, 3), (768, 27), (1536, 3)),
}


def convnext(
    variant: str = "tiny",
    classes: int = 1000,
    *,
    drop_path_rate: float = 0.0,
    name: str = "convnext",
) -> Layer:
    """Make ConvNeXt tiny, small, base or large; 28,589,128 parameters for tiny.

    Patches of 4x4 pixels become vectors, 224 -> 56 pixels; then four stages of blocks, with a
    convolution of strides 2 between stages. A block is a depthwise 7x7 convolution, layer norm and
    an MLP on each pixel, multiplied by the parameter layer_scale and added to its input.

    | variant | tiny | small | base | large |
    |---|---|---|---|---|
    | parameters | 28,589,128 | 50,223,688 | 88,591,464 | 197,767,336 |
    | drop_path_rate in the paper | 0.1 | 0.4 | 0.5 | 0.5 |

    Args:
      variant: Size: "tiny", "small", "base" or "large".
      classes: Number of outputs.
      drop_path_rate: Rate of dropped paths of the last block in training; earlier blocks have
        smaller rates, in proportion to their index.
      name: Name of the model. Its layers are stem, stem_norm, stage_1_block_1, ..., reduce_2_norm,
        reduce_2, ..., norm and output; the layers of a block are conv, norm, wide and narrow.

    Input:
      Images (batch, height, width, 3); 224x224 in the paper, other sizes work as well.

    Returns:
      A layer from images (batch, height, width, channels) to logits (batch, classes).

    Raises:
      ValueError: If `variant` is not one of these.
      ValueError: If `drop_path_rate` is outside [0, 1).

    Example:
      >>> net = convnext("tiny", classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '28,589,128'

    Reference: Liu, Mao, Wu, Feichtenhofer, Darrell and Xie 2022, "A ConvNet for the 2020s".
    """
    one_of("convnext", "variant", variant, VARIANTS)
    at_least("convnext", "classes", classes)
    within("convnext", "drop_path_rate", drop_path_rate, "[0, 1)")

    def forward(m, x):
        x = features_of(m, x, VARIANTS[variant], drop_path_rate=drop_path_rate)
        x = m(global_avg_pool(), x)
        x = m(layer_norm(name="norm"), x)
        return m(dense(classes, kernel_init=INIT, name="output"), x)

    return compose(forward, name=name, kind="convnext")


INIT = normal(0.02)


def features_of(
    m: Any,
    x: jax.Array,
    stages: Sequence[tuple[int, int]],
    *,
    patch: int = 4,
    drop_path_rate: float = 0.0,
    activation: Callable[[jax.Array], jax.Array] = gelu,
    scale: float = 1e-6,
) -> jax.Array:
    """Return what the blocks of all stages make of images, inside a layer.

    Args:
      m, x: Arguments of the layer's function; x are images.
      stages: Maps and blocks of each stage.
      patch: Pixels of a patch's side.
      drop_path_rate: As in `convnext`.
      activation: Activation of the blocks.
      scale: Initial value of each block's layer_scale.
    """

    def patches(features: int, size: int, name: str) -> Layer:
        return conv(features, size, strides=size, padding="VALID", kernel_init=INIT, name=name)

    first, _ = stages[0]
    x = m(patches(first, patch, "stem"), x)
    x = m(layer_norm(name="stem_norm"), x)
    done = 0
    last = sum(blocks for _, blocks in stages) - 1
    for stage, (features, blocks) in enumerate(stages, 1):
        if stage > 1:
            x = m(layer_norm(name=f"reduce_{stage}_norm"), x)
            x = m(patches(features, 2, f"reduce_{stage}"), x)
        for i in range(1, blocks + 1):
            drop = drop_path_rate * done / max(last, 1)
            block = convnext_block(drop, f"stage_{stage}_block_{i}", activation, scale)
            x = m(block, x)
            done += 1
    return x


def convnext_block(drop: float, name: str, activation: Any = gelu, scale: float = 1e-6) -> Layer:
    """Return a depthwise convolution and an MLP, scaled and added to the input."""

    def forward(m, x):
        features = x.shape[-1]
        wide = dense(4 * features, kernel_init=INIT, name="wide")
        narrow = dense(features, kernel_init=INIT, name="narrow")
        y = m(depthwise_conv(7, padding=3, kernel_init=INIT, name="conv"), x)
        y = m(layer_norm(name="norm"), y)
        y = activation(m(wide, y))
        y = m(narrow, y)
        factor = m.param("layer_scale", constant(scale), (features,))
        y = broadcast(factor, y.shape) * y
        return x + m(drop_path(drop), y)

    return compose(forward, name=name, kind="convnext_block")
