"""SqueezeNet: few parameters by 1x1 convolutions."""

import jax
import jax.numpy as jnp

from jaxnet import Layer, compose, conv, dropout, global_avg_pool, max_pool
from jaxnet.initializers import he_normal, normal
from jaxnet.tools import at_least, one_of

# Maps and size of the first convolution, and the modules before which a max pooling comes.
VARIANTS = {"1_0": (96, 7, (1, 4, 8)), "1_1": (64, 3, (1, 3, 5))}
FEW = (16, 16, 32, 32, 48, 48, 64, 64)


def squeezenet(variant: str = "1_1", classes: int = 1000, *, name: str = "squeezenet") -> Layer:
    """Make SqueezeNet 1.0 with 1,248,424 or 1.1 with 1,235,496 parameters.

    The net is a convolution, eight modules of 1x1 and 3x3 convolutions, and a 1x1 convolution to
    the classes, whose maps are averaged. A module reduces its maps by a 1x1 convolution before the
    others.

    Args:
      variant: Version: "1_0" as in the paper, or "1_1" with fewer computations.
      classes: Number of outputs.
      name: Name of the model. Its layers are conv_0, fire_1, ..., fire_8 and output; the layers of
        a module are squeeze, expand_1x1 and expand_3x3.

    Input:
      Images (batch, height, width, 3); 224x224 in the paper, other sizes work as well.

    Raises:
      ValueError: If `variant` is not one of these.

    Example:
      >>> net = squeezenet("1_1", classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '1,235,496'

    Reference: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters
    and <0.5MB model size".
    """
    one_of("squeezenet", "variant", variant, VARIANTS)
    at_least("squeezenet", "classes", classes)
    stem, window, pools = VARIANTS[variant]

    def forward(m, x):
        x = jax.nn.relu(m(_conv(stem, window, "conv_0", strides=2, padding="VALID"), x))
        for i, few in enumerate(FEW, 1):
            if i in pools:  # windows that begin inside the map count, as in the paper's Caffe
                padding = [(0, (size - 3) % 2) for size in x.shape[1:3]]
                x = m(max_pool(3, strides=2, padding=padding), x)
            x = m(_fire(few, f"fire_{i}"), x)
        layer = conv(classes, 1, kernel_init=normal(0.01), name="output")
        return m(global_avg_pool(), jax.nn.relu(m(layer, m(dropout(0.5), x))))

    return compose(forward, name=name, kind="squeezenet")


def _fire(few: int, name: str) -> Layer:
    """A 1x1 convolution to few maps, then a 1x1 and a 3x3 convolution to four times as many."""

    def forward(m, x):
        x = jax.nn.relu(m(_conv(few, 1, "squeeze"), x))
        parts = [m(_conv(4 * few, size, f"expand_{size}x{size}"), x) for size in (1, 3)]
        return jax.nn.relu(jnp.concatenate(parts, -1))

    return compose(forward, name=name, kind="fire")


def _conv(features: int, size: int, name: str, **options) -> Layer:
    return conv(features, size, kernel_init=he_normal(), name=name, **options)
