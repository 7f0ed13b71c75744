"""DenseNet: each layer gets the maps of all layers before it."""

import jax
import jax.numpy as jnp

from jaxnet import Layer, avg_pool, batch_norm, compose, conv, dense, global_avg_pool, max_pool
from jaxnet.initializers import he_normal
from jaxnet.models.parts import unit
from jaxnet.services.checks import at_least, one_of
from jaxnet.services.functions import activated

# Blocks per stage, maps that a block adds, maps of the first convolution.
DEPTHS = {
    121: ((6, 12, 24, 16), 32, 64),
    161: ((6, 12, 36, 24), 48, 96),
    169: ((6, 12, 32, 32), 32, 64),
    201: ((6, 12, 48, 32), 32, 64),
}


def densenet(depth: int = 121, classes: int = 1000, *, name: str = "densenet") -> Layer:
    """Make DenseNet-121, -161, -169 or -201; 7,978,856 parameters at depth 121.

    The net has a 7x7 convolution and a max pooling, 224 -> 56 pixels; then four stages of blocks.
    Each block adds 32 maps (48 at depth 161) to the maps that it gets. Between stages, a 1x1
    convolution and a mean over 2x2 pixels halve both the maps and the resolution.

    | depth | 121 | 161 | 169 | 201 |
    |---|---|---|---|---|
    | parameters | 7,978,856 | 28,681,000 | 14,149,480 | 20,013,928 |

    Args:
      depth: Number of layers with weights: 121, 161, 169 or 201.
      classes: Number of outputs.
      name: Name of the model. Its layers are conv_0, conv_0_norm, stage_1_block_1, ...,
        reduce_1_norm, reduce_1, ..., norm and output; the layers of a block are norm_1, conv_1,
        norm_2 and conv_2.

    Input:
      Images (batch, height, width, 3); 224x224 in the paper, other sizes work as well.

    Returns:
      A layer from images to logits (batch, classes).

    Raises:
      ValueError: If `depth` is not one of these.

    Example:
      >>> net = densenet(121, classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '7,978,856'

    Reference: Huang, Liu, van der Maaten and Weinberger 2017, "Densely Connected Convolutional
    Networks".
    """
    one_of("densenet", "depth", depth, DEPTHS)
    at_least("densenet", "classes", classes)
    stages, growth, stem = DEPTHS[depth]

    def forward(m, x):
        x = unit(m, x, stem, 7, 2, name="conv_0")
        x = m(max_pool(3, strides=2, padding=1), x)
        for stage, blocks in enumerate(stages, 1):
            for i in range(1, blocks + 1):
                x = m(_block(growth, f"stage_{stage}_block_{i}"), x)
            if stage < len(stages):
                half = x.shape[-1] // 2
                x = _unit(m, x, half, norm=f"reduce_{stage}_norm", name=f"reduce_{stage}")
                x = m(avg_pool(2), x)
        x = m(batch_norm(name="norm"), x)
        x = activated(jax.nn.relu, x)
        x = m(global_avg_pool(), x)
        return m(dense(classes, name="output"), x)

    return compose(forward, name=name, kind="densenet")


def _block(growth: int, name: str) -> Layer:
    """Return the input maps, joined with new maps that are computed from all of them."""

    def forward(m, x):
        y = _unit(m, x, 4 * growth, norm="norm_1", name="conv_1")
        y = _unit(m, y, growth, 3, norm="norm_2", name="conv_2")
        return jnp.concatenate([x, y], -1)

    return compose(forward, name=name, kind="dense_block")


def _unit(m, x: jax.Array, features: int, size: int = 1, *, norm: str, name: str) -> jax.Array:
    """Return a convolution, with batch norm and ReLU before it."""
    options = {"use_bias": False, "kernel_init": he_normal(), "name": name}
    x = m(batch_norm(name=norm), x)
    x = activated(jax.nn.relu, x)
    return m(conv(features, size, padding=size // 2, **options), x)
