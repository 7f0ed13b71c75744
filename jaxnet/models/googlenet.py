"""GoogLeNet: inception modules, and auxiliary heads."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet.initializers import he_normal
from jaxnet.layers import local_response_norm
from jaxnet.models.parts import unit
from jaxnet.services.checks import check_options
from jaxnet.services.functions import activated

# Maps per module: 1x1; before and after 3x3; before and after 5x5; after pooling.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def googlenet(
    classes: int = 1000,
    *,
    auxiliary: bool = False,
    normalized: bool = False,
    name: str = "googlenet",
) -> jn.Layer:
    """Make GoogLeNet, 22 layers; 6,998,552 parameters, 13,378,280 with the auxiliary heads.

    Each of nine inception modules, at 28, 14 and 7 pixels, computes 1x1, 3x3 and 5x5 convolutions
    and a pooling in parallel, the larger ones after a 1x1 convolution that reduces the maps. Then
    come a mean over each of the 1024 maps, dropout and the classes.

    Args:
      classes: Number of outputs.
      auxiliary: Whether to add two heads, after modules 4a and 4d. The output is then (logits,
        logits of 4a, logits of 4d); the paper adds the losses of the last two with weight 0.3 in
        training, and drops them afterwards.
      normalized: Whether batch norm, published a year later, follows each convolution, instead of
        its bias and of local response normalization. Then, as in torchvision, 3x3 windows replace
        the 5x5 ones, and the last pooling has windows of 2, which gives 6,624,904 parameters.
      name: Name of the model. Its layers are conv_1, conv_2_reduce, conv_2, inception_3a, ...,
        inception_5b, auxiliary_4a, auxiliary_4d and output.

    Input:
      Images (batch, 224, 224, 3).

    Returns:
      A layer from images to logits (batch, classes), or to three of these if `auxiliary`.

    Example:
      >>> net = googlenet(classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '6,998,552'

    Reference: Szegedy et al. 2014, "Going Deeper with Convolutions".
    """
    check_options("googlenet", auxiliary=auxiliary, normalized=normalized)
    run = _normalized_conv if normalized else _conv

    def forward(m, x):
        def pool(x, name, window=3):
            return m(jn.max_pool(window, strides=2, padding="SAME", name=name), x)

        def normalize(x):
            return x if normalized else m(local_response_norm(), x)

        x = run(m, x, 64, 7, "conv_1", strides=2)
        x = pool(x, "pool_1")  # (batch, 56, 56, 64)
        x = run(m, normalize(x), 64, 1, "conv_2_reduce")
        x = run(m, x, 192, 3, "conv_2")
        x = pool(normalize(x), "pool_2")  # (batch, 28, 28, 192)
        others = []
        for place, maps in MODULES.items():
            x = m(_inception(run, maps, f"inception_{place}"), x)
            if auxiliary and place in ("4a", "4d"):
                others.append(m(_auxiliary(run, classes, f"auxiliary_{place}"), x))
            if place == "3b":
                x = pool(x, "pool_3")  # (batch, 14, 14, 480)
            if place == "4e":
                x = pool(x, "pool_4", 2 if normalized else 3)  # (batch, 7, 7, 832)
        x = m(jn.global_avg_pool(), x)  # (batch, 1024)
        x = m(jn.dropout(0.4), x)
        logits = m(jn.dense(classes, name="output"), x)
        return (logits, *others) if auxiliary else logits

    return jn.compose(forward, name=name, kind="googlenet")


def _inception(run: Callable, maps: tuple[int, int, int, int, int, int], name: str) -> jn.Layer:
    """Four branches, concatenated along the features."""
    one, before_3, three, before_5, five, pooled = maps
    large = 3 if run is _normalized_conv else 5

    def forward(m, x):
        a = run(m, x, one, 1, "conv_1x1")
        b = run(m, x, before_3, 1, "reduce_3x3")
        b = run(m, b, three, 3, "conv_3x3")
        c = run(m, x, before_5, 1, "reduce_5x5")
        c = run(m, c, five, large, "conv_5x5")
        d = m(jn.max_pool(3, strides=1, padding="SAME"), x)
        d = run(m, d, pooled, 1, "project")
        return jnp.concatenate([a, b, c, d], -1)

    return jn.compose(forward, name=name, kind="inception")


def _auxiliary(run: Callable, classes: int, name: str) -> jn.Layer:
    """Return a small classifier on the maps (batch, 14, 14, maps) of a module."""

    def forward(m, x):
        x = m(jn.avg_pool(5, strides=3), x)
        x = run(m, x, 128, 1, "conv")  # (batch, 4, 4, 128)
        x = m(jn.flatten(), x)
        x = m(jn.dense(1024, kernel_init=he_normal()), x)
        x = activated(jax.nn.relu, x)
        x = m(jn.dropout(0.7), x)
        return m(jn.dense(classes, name="output"), x)

    return jn.compose(forward, name=name, kind="auxiliary")


def _conv(m, x, features: int, size: int, name: str, strides: int = 1) -> jax.Array:
    """Return a convolution and a ReLU."""
    options = {"strides": strides, "padding": size // 2, "kernel_init": he_normal()}
    layer = jn.conv(features, size, name=name, **options)
    return activated(jax.nn.relu, m(layer, x))


def _normalized_conv(m, x, features: int, size: int, name: str, strides: int = 1) -> jax.Array:
    """Return a convolution, batch norm and a ReLU."""
    return unit(m, x, features, size, strides, name=name, epsilon=1e-3)
