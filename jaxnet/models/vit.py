"""Vision transformers: attention between patches of an image."""

import jax.numpy as jnp
from jax import lax

from jaxnet import Layer, compose, conv, dense, dropout, layer_norm, transformer_block
from jaxnet.initializers import lecun_normal, normal, zeros
from jaxnet.models.parts import gelu
from jaxnet.ops import add_bias, broadcast
from jaxnet.services.checks import at_least, check_rank, one_of, within

# Blocks, width, heads.
SIZES = {"b": (12, 768, 12), "l": (24, 1024, 16), "h": (32, 1280, 16)}
VARIANTS = ("b_16", "b_32", "l_16", "l_32", "h_14")


def vit(
    variant: str = "b_16", classes: int = 1000, *, dropout_rate: float = 0.0, name: str = "vit"
) -> Layer:
    """Make the vision transformer ViT-B, -L or -H; 86,567,656 parameters for b_16.

    Patches of 16x16 pixels (32x32 or 14x14 in others) become vectors. A learned vector, the class
    token, comes before them, learned positions are added to all, and 12 to 32 transformer blocks
    follow. The classes are computed from the first vector.

    | variant | b_16 | b_32 | l_16 | l_32 | h_14 |
    |---|---|---|---|---|---|
    | parameters | 86,567,656 | 88,224,232 | 304,326,632 | 306,535,400 | 632,045,800 |

    Args:
      variant: Size and pixels of a patch's side: "b_16", "b_32", "l_16", "l_32" or "h_14".
      classes: Number of outputs.
      dropout_rate: Rate of dropout in the blocks and after the positions.
      name: Name of the model. Its layers are patches, block_1, ..., norm and output; it has the
        parameters class_token and positions.

    Input:
      Images (batch, height, width, 3); 224x224 in the paper. The number of positions depends on
      height and width, which must be multiples of the patch.

    Returns:
      A layer from images (batch, height, width, channels) to logits (batch, classes).

    Raises:
      ValueError: If `variant` is not one of these.
      ValueError: If `dropout_rate` is outside [0, 1).
      ValueError: If the size of the images is not a multiple of the patch.

    Example:
      >>> net = vit("b_16", classes=1000)
      >>> params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 224, 224, 3)))
      >>> f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}"
      '86,567,656'

    Reference: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words: Transformers for Image
    Recognition at Scale".
    """
    one_of("vit", "variant", variant, VARIANTS)
    at_least("vit", "classes", classes)
    within("vit", "dropout_rate", dropout_rate, "[0, 1)")
    size, _, side = variant.partition("_")
    patch = int(side)
    blocks, width, heads = SIZES[size]

    def patches(m, x):
        options = {"strides": patch, "padding": "VALID", "kernel_init": lecun_normal()}
        y = m(conv(width, patch, name="patches", **options), x)
        return lax.collapse(y, 1, 3)  # (batch, patches, width)

    def forward(m, x):
        check_rank("vit", x, 4, "(batch, height, width, channels)")
        batch, rows, columns, _ = x.shape
        if rows % patch or columns % patch:
            raise ValueError(
                f"{name}: height and width must be multiples of {patch}, got {rows}x{columns}. "
                "Resize the images, for example with jn.resize"
            )
        x = patches(m, x)
        token = m.param("class_token", zeros, (1, 1, width))
        x = jnp.concatenate([broadcast(token, (batch, 1, width)), x], 1)
        positions = m.param("positions", normal(0.02), (1, x.shape[1], width))
        x = add_bias(x, positions)
        x = m(dropout(dropout_rate), x)
        for i in range(1, blocks + 1):
            options = {"dropout_rate": dropout_rate, "activation": gelu, "name": f"block_{i}"}
            x = m(transformer_block(heads, **options), x)
        x = m(layer_norm(name="norm"), x)
        return m(dense(classes, name="output"), x[:, 0])

    return compose(forward, name=name, kind="vit")
