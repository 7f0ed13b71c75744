"""Encoders of images: ViT, DeiT, DINOv2.

Their nets take images (batch, height, width, 3), which `jaxnet.pretrained.processor` makes from
files as the model's own settings say. For images of another size than `image_size`, the positions
are interpolated, as transformers does it for DINOv2, and for the others with
interpolate_pos_encoding=True. Pixels at the end that do not fill a patch are not used.

The entry `architectures` says what a net returns: the normalized features (batch, tokens, width) of
the class token, DeiT's second token and the patches for a bare model; logits (batch, labels) for
classes of images.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxnet as jn
from jaxnet.interop import reshaped
from jaxnet.pretrained.config import (
    ACTIVATIONS,
    Config,
    Family,
    Rows,
    Stored,
    prefix_in,
    without,
)
from jaxnet.pretrained.rows import PARTS, block_rows, dense_rows, norm_rows, packed_rows


def vision(*, head: str, labels: int, **tower: Any) -> jn.Layer:
    """Make an encoder of images with a head, see the head of this file.

    Args:
      head: "", "class", "class and patches" or "class and teacher".
      labels: Number of classes.
      tower: Options of `of_images`.
    """

    def forward(m, images):
        x = of_images(m, images, **tower)
        if not head:
            return x
        first = x[:, 0]
        if head == "class and patches":
            first = jnp.concatenate([first, x[:, 1:].mean(1)], -1)
        logits = m(jn.dense(labels, name="classes"), first)
        if head == "class and teacher":
            logits = (logits + m(jn.dense(labels, name="teacher_classes"), x[:, 1])) / 2
        return logits

    return jn.compose(forward, name="vision", kind="vision")


def of_images(
    m: Any,
    images: Any,
    *,
    width: int,
    side: int,
    patch: int,
    tokens: Any,
    drop: Any,
    **blocks: Any,
) -> jax.Array:
    """Return the features (batch, tokens, width) of tokens and patches, inside a layer.

    Args:
      m, images: Arguments of the layer's function.
      width: Number of features.
      side: Number of patches along a side, for which there are positions.
      patch: Pixels of a patch's side.
      tokens: Names of the learned vectors before the patches.
      drop: Rate of dropout before the blocks, or None for CLIP's norm there. Then the patches have
        no bias.
      blocks: Options of `encoded`.
    """
    clip = drop is None
    first_layer = jn.conv(
        width, patch, strides=patch, padding="VALID", use_bias=not clip, name="patches"
    )
    x = m(first_layer, images)
    count = len(tokens)
    at = m.param("positions", jn.initializers.normal(0.02), (count + side * side, width))
    if x.shape[1:3] != (side, side):
        grid = at[count:].reshape(1, side, side, width)
        grid = m(jn.resize(x.shape[1:3], method="bicubic"), grid)
        at = jnp.concatenate([at[:count], grid.reshape(-1, width)])
    first = [m.param(name, jn.initializers.zeros, (width,)) for name in tokens]
    first = [jnp.broadcast_to(one, (len(x), 1, width)) for one in first]
    patches = jax.lax.collapse(x, 1, 3)
    x = jnp.concatenate([*first, patches], 1) + at
    x = m(blocks["norm"](name="first_norm") if clip else jn.dropout(drop), x)
    return encoded(m, x, **blocks)


def encoded(m: Any, x: jax.Array, *, depth: int, norm: Any, **block: Any) -> jax.Array:
    """Return what the blocks and the last norm make of x (batch, tokens, width), inside a layer.

    Args:
      m: First argument of the layer's function.
      x: Vectors with positions.
      depth: Number of blocks.
      norm: Function that makes the norms.
      block: Options of `jn.transformer_block`.
    """
    for i in range(depth):
        x = m(jn.transformer_block(norm=norm, name=f"block_{i}", **block), x)
    return m(norm(name="norm"), x)


def scaled_norm(name: str, epsilon: float) -> jn.Layer:
    """Make a norm, or after a branch, DINOv2's learned factors."""

    def scale(m, x):
        return x * m.param("scale", jn.initializers.ones, x.shape[-1:])

    if name.endswith("_out_norm"):
        return jn.compose(scale, name=name)
    return jn.layer_norm(epsilon=epsilon, name=name)


def block_options(config: Config) -> dict[str, Any]:
    """Return the options of `encoded`."""
    entries = config.entries
    config.check_heads(entries["hidden_size"], entries["num_attention_heads"])
    return {
        **{ours: entries.get(name) for ours, name in NAMES.items()},
        "activation": ACTIVATIONS[entries["hidden_act"]],
        "norm": partial(jn.layer_norm, epsilon=entries["layer_norm_eps"]),
    }


def image_options(config: Config) -> dict[str, Any]:
    """Return the options of `of_images` that all families have."""
    entries = config.entries
    size, patch = entries["image_size"], entries["patch_size"]
    if patch > size:
        raise config.error(f"patch_size must be at most image_size = {size}, got {patch}")
    return {
        **block_options(config),
        "width": entries["hidden_size"],
        "side": size // patch,
        "patch": patch,
        "drop": entries.get("hidden_dropout_prob", 0.0),
    }


def options(config: Config) -> dict[str, Any]:
    """Return the options of `vision`."""
    entries, net_options = config.entries, image_options(config)
    kind, heads = CLASSES[config.family]
    net_options["head"] = config.head(kind, heads)
    net_options["labels"] = config.labels()
    net_options["use_bias"] = (*PARTS, "mlp") if entries["qkv_bias"] else ("out", "mlp")
    net_options["tokens"] = ("class_token",)
    if config.family == "deit":
        net_options["tokens"] = ("class_token", "teacher_token")
    if config.family != "dinov2":
        return net_options | {"dropout_rate": net_options["drop"]}
    hidden = net_options["width"] * entries["mlp_ratio"]
    if entries["use_swiglu_ffn"]:
        hidden = (hidden * 2 // 3 + 7) // 8 * 8
        net_options |= {"gated": True, "activation": jax.nn.silu}
    norm = partial(scaled_norm, epsilon=entries["layer_norm_eps"])
    return net_options | {"mlp_features": hidden, "norm": norm, "norm_at": "both"}


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights are stored: without a prefix if they have no head."""
    net_options, prefix = options(config), f"{config.family}."
    if weights is None:
        return Stored(net_options, prefix if net_options["head"] else "")
    unused = ["mask_token", "pooler."]
    if not net_options["head"]:
        unused.append("classifier.")
    leave = tuple(name for name in weights if any(word in name for word in unused))
    return Stored(net_options, prefix_in(weights, prefix), leave)


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names of an encoder of images."""
    options, first = stored.options, stored.prefix
    width, heads = options["width"], options["heads"]
    dino = config.family == "dinov2"
    theirs, block = f"{first}embeddings", f"{first}encoder.layer.{{i}}"
    layers = DINO if dino else VIT
    qkv_bias = "query" in options["use_bias"]
    table: Rows = {
        **dense_rows("patches", f"{theirs}.patch_embeddings.projection"),
        "positions": (f"{theirs}.position_embeddings", reshaped(-1, width, given=(1, -1, width))),
        **norm_rows("norm", f"{first}layernorm"),
        **block_rows("block_{i}", block, layers, width, heads, qkv_bias),
    }
    for token in options["tokens"]:
        table[token] = (f"{theirs}.{TOKENS[token]}", reshaped(width, given=(1, 1, width)))
    if "gated" in options:
        joined = f"{block}.mlp.weights_in"
        table |= packed_rows(
            dense_rows("block_{i}/mlp_in", joined), dense_rows("block_{i}/mlp_gate", joined)
        )
        table |= dense_rows("block_{i}/mlp_out", f"{block}.mlp.weights_out")
    if dino:
        table["block_{i}/attention_out_norm/scale"] = f"{block}.layer_scale1.lambda1"
        table["block_{i}/mlp_out_norm/scale"] = f"{block}.layer_scale2.lambda1"
    if options["head"] == "class and teacher":
        table |= dense_rows("teacher_classes", "distillation_classifier")
        table |= dense_rows("classes", "cls_classifier")
    elif options["head"]:
        table |= dense_rows("classes", "classifier")
    return table


# Our options -> entries of the configuration.
NAMES = {
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_features": "intermediate_size",
}
TOKENS = {"class_token": "cls_token", "teacher_token": "distillation_token"}
# Our layers of a block -> theirs.
VIT = {
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "attention_norm": "layernorm_before",
    "mlp_norm": "layernorm_after",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}
DINO = VIT | {
    "attention_norm": "norm1",
    "mlp_norm": "norm2",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}
# Classes of transformers, and our heads.
HEADS = {"": "", "Model": "", "ForImageClassification": "class"}
CLASSES = {
    "vit": ("ViT", HEADS),
    "deit": ("DeiT", HEADS | {"ForImageClassificationWithTeacher": "class and teacher"}),
    "dinov2": ("Dinov2", HEADS | {"ForImageClassification": "class and patches"}),
}
BLOCKS: dict[str, Any] = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
}  # fmt: skip
DEFAULTS = BLOCKS | {
    "image_size": 224,
    "patch_size": 16,
    "qkv_bias": True,
    "hidden_dropout_prob": 0.0,
}
DINOV2 = without(DEFAULTS, "intermediate_size") | {
    "layer_norm_eps": 1e-6, "patch_size": 14, "mlp_ratio": 4, "use_swiglu_ffn": False,
}  # fmt: skip
ONLY = {"num_channels": 3}
IGNORED = (
    "attention_probs_dropout_prob", "encoder_stride", "pooler_output_size", "pooler_act",
    "drop_path_rate", "layerscale_value", "use_mask_token", "apply_layernorm",
    "reshape_hidden_states", "stage_names", "out_features", "out_indices",
)  # fmt: skip
IMAGES = jn.spec((1, 224, 224, 3))
FAMILIES: dict[str, Family] = {
    name: Family(entries, options, vision, rows, how_stored, ONLY, IGNORED, x=IMAGES)
    for name, entries in (("vit", DEFAULTS), ("deit", DEFAULTS), ("dinov2", DINOV2))
}
