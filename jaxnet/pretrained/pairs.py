"""Encoders of images with texts: CLIP, SigLIP.

Their nets take (images, ids) and return the logits (images, texts) of each image for each text. The
softmax over the texts gives CLIP's probabilities, and the sigmoid gives SigLIP's. Two forms give
the features of one kind, so that you can keep them:

    (images, None)  features (images, width), of length 1
    (None, ids)     features (texts, width), of length 1

Images (batch, height, width, 3) are those of `jaxnet.pretrained.vision`. Token ids
(batch, time) need no mask: CLIP takes the features at the first end token, and SigLIP those at the
last token, so pad its texts to 64 tokens, as in its training.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

import jaxnet as jn
from jaxnet.interop import reshaped
from jaxnet.pretrained import vision
from jaxnet.pretrained.config import Config, Family, Rows, Stored, complete
from jaxnet.pretrained.rows import (
    QUERY_KEY_VALUE,
    attention_rows,
    block_rows,
    dense_rows,
    norm_rows,
    packed_rows,
)


def pairs(*, clip: bool, images: Any, texts: Any, features: int, end: int) -> jn.Layer:
    """Make an encoder of images and one of texts, see the head of this file.

    Args:
      clip: Whether it is CLIP, or SigLIP.
      images: Options of `vision.of_images`.
      texts: Options of `of_texts`.
      features: Width of the features.
      end: CLIP's end token; 2 is the largest token of each text, as in its older files.
    """
    head = jn.dense(features, use_bias=not clip, name="head")

    def see(m, x):
        x = vision.of_images(m, x, **images)
        return m(head, x[:, 0]) if clip else pooled(m, x)

    def pooled(m, x):
        query = m.param("query", jn.initializers.normal(0.02), (1, images["width"]))
        queries = jnp.broadcast_to(query, (len(x), *query.shape))
        attention = jn.multi_head_attention(images["heads"], name="attention")
        x = m(attention, queries, memory=x)[:, 0]
        y = m(images["norm"](name="mlp_norm"), x)
        y = m(jn.dense(images["mlp_features"], name="mlp_in"), y)
        return x + m(jn.dense(images["width"], name="mlp_out"), images["activation"](y))

    def read(m, ids):
        x = of_texts(m, ids, **texts)
        last: Any = -1
        if clip:
            last = jnp.argmax(ids if end == 2 else ids == end, 1)
        return m(head, x[jnp.arange(len(ids)), last])

    def unit(x):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        length = jnp.linalg.norm(wide, axis=-1, keepdims=True)
        return (wide / length).astype(x.dtype)

    def forward(m, inputs):
        seen, ids = inputs
        size = images["side"] * images["patch"]
        # A net calls all its layers at each run, so they get an empty batch if there is none.
        x = jnp.zeros((0, size, size, 3)) if seen is None else seen
        x = unit(m(jn.compose(see, name="images"), x))
        y = jnp.zeros((0, 1), jnp.int32) if ids is None else ids
        y = unit(m(jn.compose(read, name="texts"), y))
        scale = jnp.exp(m.param("scale", jn.initializers.zeros, ()))
        bias = 0.0 if clip else m.param("bias", jn.initializers.zeros, ())
        if ids is None:
            return x
        if seen is None:
            return y
        return x @ y.T * scale + bias

    return jn.compose(forward, name="pairs", kind="pairs")


def of_texts(m: Any, ids: Any, *, words: int, positions: int, width: int, **blocks: Any) -> Any:
    """Return the features (batch, time, width) of tokens, inside a layer.

    Args:
      m, ids: Arguments of the layer's function.
      words, positions: Number of tokens that there are, and of positions in a text.
      width: Number of features.
      blocks: Options of `vision.encoded`.
    """
    x = m(jn.embedding(words, width, name="words"), ids)
    at = m(jn.embedding(positions, width, name="positions"), jnp.arange(ids.shape[1]))
    return vision.encoded(m, x + at, **blocks)


def options(config: Config) -> dict[str, Any]:
    """Return the options of `pairs`."""
    clip = config.family == "clip"
    config.head("CLIP" if clip else "Siglip", {"": "", "Model": ""})
    seen, read = _tower(config, "vision"), _tower(config, "text")
    entries, width = read.entries, read.entries["hidden_size"]
    images = vision.image_options(seen)
    if clip:
        features = config.entries["projection_dim"]
        images |= {"tokens": ("class_token",), "drop": None}
    else:
        features = entries["projection_size"] or width
        images |= {"tokens": ()}
        if features != images["width"]:
            raise config.error(
                f"projection_size must be {images['width']}, the hidden_size of the images, got "
                f"{features}"
            )
    texts = {
        **vision.block_options(read),
        "words": entries["vocab_size"],
        "positions": entries["max_position_embeddings"],
        "width": width,
        "causal": clip,
    }
    return {
        "clip": clip,
        "features": features,
        "end": entries.get("eos_token_id", 0),
        "images": images,
        "texts": texts,
    }


def _tower(config: Config, kind: str) -> Config:
    """Return the complete configuration of the images or of the texts."""
    name, family = f"{kind}_config", f"{config.family}_{kind}_model"
    if config.entries.get(f"{name}_dict") is not None:  # of older files; it counts instead
        name = f"{name}_dict"
    entries = {"model_type": family} | (config.entries[name] or {})
    return complete(f"{config.where}: {name}", entries, TOWERS)


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights are stored: older files hold the numbers of the positions."""
    leave = tuple(name for name in weights or () if name.endswith("position_ids"))
    return Stored(options(config), "", leave)


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names of encoders of images and texts."""
    clip = stored.options["clip"]
    images, texts = stored.options["images"], stored.options["texts"]
    pixels, words = "vision_model.embeddings", "text_model.embeddings"
    table: Rows = {
        "texts/words/embedding": f"{words}.token_embedding.weight",
        "texts/positions/embedding": f"{words}.position_embedding.weight",
        "images/positions": f"{pixels}.position_embedding.weight",
        **dense_rows("images/patches", f"{pixels}.patch_embedding", use_bias=not clip),
        **norm_rows("images/norm", "vision_model.post_layernorm"),
        **norm_rows("texts/norm", "text_model.final_layer_norm"),
        **_block_rows("images", "vision_model", images),
        **_block_rows("texts", "text_model", texts),
    }
    if not clip:
        return table | _siglip_rows(images["width"], images["heads"])
    table |= {"scale": "logit_scale", "images/class_token": f"{pixels}.class_embedding"}
    table |= norm_rows("images/first_norm", "vision_model.pre_layrnorm")
    table |= dense_rows("images/head", "visual_projection", use_bias=False)
    return table | dense_rows("texts/head", "text_projection", use_bias=False)


def _block_rows(ours: str, theirs: str, options: Mapping[str, Any]) -> Rows:
    block = f"{theirs}.encoder.layers.{{i}}"
    return block_rows(f"{ours}/block_{{i}}", block, LAYERS, options["width"], options["heads"])


def _siglip_rows(width: int, heads: int) -> Rows:
    """Return the rows of SigLIP's heads."""
    pool = "vision_model.head"
    table: Rows = {
        "scale": ("logit_scale", reshaped(given=(1,))),
        "bias": ("logit_bias", reshaped(given=(1,))),
        "images/query": (f"{pool}.probe", reshaped(1, width, given=(1, 1, width))),
    }
    joined = f"{pool}.attention.in_proj"
    parts = [
        attention_rows("images/attention", {name: joined}, width, heads) for name in QUERY_KEY_VALUE
    ]
    for path, (name, *changes) in packed_rows(*parts).items():
        # PyTorch's own attention has arrays here, not a layer.
        table[path] = (name.replace("in_proj.", "in_proj_"), *changes)
    table |= block_rows("images", pool, POOL, width, heads)
    return table | dense_rows("texts/head", "text_model.head")


# Our layers of a block -> theirs.
LAYERS = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "attention_norm": "layer_norm1",
    "mlp_norm": "layer_norm2",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}
POOL = {
    "out": "attention.out_proj",
    "mlp_norm": "layernorm",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}
CLIP = vision.BLOCKS | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
CLIP_TEXT = CLIP | {
    "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
    "vocab_size": 49_408, "max_position_embeddings": 77, "eos_token_id": 49_407,
}  # fmt: skip
SIGLIP = vision.BLOCKS | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
SIGLIP_TEXT = SIGLIP | {
    "vocab_size": 32_000,
    "max_position_embeddings": 64,
    "projection_size": None,
}
ONLY = {"num_channels": 3, "vision_use_head": True}
IGNORED = (
    "dropout", "initializer_factor", "logit_scale_init_value", "projection_dim",
    "tie_word_embeddings",
)  # fmt: skip


def _family(defaults: dict[str, Any]) -> Family:
    x = vision.IMAGES, jn.spec((1, 1), jnp.int32)
    return Family(defaults, options, pairs, rows, how_stored, ONLY, IGNORED, x=x)


TOWERS = {
    "clip_text_model": _family(CLIP_TEXT),
    "clip_vision_model": _family(CLIP | {"image_size": 224, "patch_size": 32}),
    "siglip_text_model": _family(SIGLIP_TEXT),
    "siglip_vision_model": _family(SIGLIP | {"image_size": 224, "patch_size": 16}),
}
BOTH: dict[str, Any] = {"text_config": None, "vision_config": None}
OLD = {"text_config_dict": None, "vision_config_dict": None, "projection_dim": 512}
FAMILIES = {"clip": _family(BOTH | OLD), "siglip": _family(BOTH)}
