"""VGG: deep networks of 3x3 convolutions."""

import jax

from jaxnet import Layer, batch_norm, conv, dense, dropout, flatten, max_pool, serial
from jaxnet.initializers import he_normal
from jaxnet.services.checks import check_options, one_of

# Convolutions per stage: the paper's A, B, D and E.
STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def vgg(
    depth: int = 16, classes: int = 1000, *, normalized: bool = False, name: str = "vgg"
) -> Layer:
    """Make VGG-11, -13, -16 or -19; 138,357,544 parameters at depth 16, 143,667,240 at 19.

    Five stages of 3x3 convolutions with 64, 128, 256, 512 and 512 maps, each followed by max
    pooling: 224 -> 112 -> 56 -> 28 -> 14 -> 7 pixels; then 4096, 4096 and the classes.

    Args:
      depth: Number of layers with weights: 11, 13, 16 or 19.
      classes: Number of outputs.
      normalized: Whether batch norm follows each convolution; not in the paper, and much easier to
        train.
      name: Name of the model. Its layers are conv_1_1, conv_1_2, conv_2_1, ..., norm_1_1, ...,
        pool_1, ..., dense_6, dense_7 and output.

    Input:
      Images (batch, 224, 224, 3).

    Returns:
      A layer from images to logits (batch, classes).

    Raises:
      ValueError: If `depth` is not one of these.

    Example:
      >>> net = vgg(depth=16, classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '138,357,544'

    Reference: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition".
    """
    one_of("vgg", "depth", depth, STAGES)
    check_options("vgg", normalized=normalized)
    layers: list = []
    for stage, count in enumerate(STAGES[depth], 1):
        features = min(64 * 2 ** (stage - 1), 512)
        for i in range(1, count + 1):
            convolution = conv(features, 3, kernel_init=he_normal(), name=f"conv_{stage}_{i}")
            layers.append(convolution)
            if normalized:
                layers.append(batch_norm(name=f"norm_{stage}_{i}"))
            layers.append(jax.nn.relu)
        layers.append(max_pool(2, name=f"pool_{stage}"))
    layers.append(flatten())  # (batch, 25088)
    for i in (6, 7):
        hidden = dense(4096, kernel_init=he_normal(), name=f"dense_{i}")
        layers += [hidden, jax.nn.relu, dropout(0.5)]
    layers.append(dense(classes, name="output"))
    return serial(*layers, name=name).replace(kind="vgg")
