"""ConvNeXt with any sizes, of images (batch, height, width, 3) that are normalized as in vision.py.

The entry `architectures` says what a net returns: features (batch, rows, columns, width) for a bare
model; logits (batch, labels) for classes of images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jaxnet as jn
from jaxnet.models.convnext import features_of
from jaxnet.pretrained.config import ACTIVATIONS, Config, Family, Rows, Stored, prefix_in
from jaxnet.pretrained.rows import dense_rows, norm_rows


def convnext(
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    patch: int,
    epsilon: float,
    activation: Any,
    scale: float,
    head: str,
    labels: int,
) -> jn.Layer:
    """Make a ConvNeXt.

    Args:
      widths, depths: Maps and blocks of each stage.
      patch: Pixels of a patch's side.
      epsilon: Of the norm before the head.
      activation: Activation of the blocks.
      scale: Initial factor of each branch.
      head: "" or "class".
      labels: Number of classes.
    """

    def forward(m, x):
        stages = tuple(zip(widths, depths, strict=True))
        x = features_of(m, x, stages, patch=patch, activation=activation, scale=scale)
        if not head:
            return x
        x = m(jn.global_avg_pool(), x)
        x = m(jn.layer_norm(epsilon=epsilon, name="norm"), x)
        return m(jn.dense(labels, name="output"), x)

    return jn.compose(forward, name="convnext", kind="convnext")


def options(config: Config) -> dict[str, Any]:
    """Return the options of `convnext`."""
    entries = config.entries
    if not len(entries["hidden_sizes"]) == len(entries["depths"]) == entries["num_stages"]:
        raise config.error(
            f"hidden_sizes and depths must have num_stages = {entries['num_stages']}"
        )
    return {
        **{ours: entries[name] for ours, name in NAMES.items()},
        "activation": ACTIVATIONS[entries["hidden_act"]],
        "head": config.head("ConvNext", HEADS),
        "labels": config.labels(),
    }


def how_stored(config: Config, weights: Mapping[str, Any] | None) -> Stored:
    """Return how the weights are stored: without a prefix if they have no head."""
    net_options, prefix = options(config), "convnext."
    if weights is None:
        return Stored(net_options, prefix if net_options["head"] else "")
    prefix = prefix_in(weights, prefix)
    unused = () if net_options["head"] else (f"{prefix}layernorm.", "classifier.")
    leave = tuple(name for name in weights if name.startswith(unused))
    return Stored(net_options, prefix, leave)


def rows(config: Config, stored: Stored) -> Rows:
    """Return the table of the names."""
    options, first = stored.options, stored.prefix
    table: Rows = dense_rows("stem", f"{first}embeddings.patch_embeddings")
    table |= norm_rows("stem_norm", f"{first}embeddings.layernorm")
    for stage, depth in enumerate(options["depths"]):
        theirs = f"{first}encoder.stages.{stage}"
        if stage:
            table |= norm_rows(f"reduce_{stage + 1}_norm", f"{theirs}.downsampling_layer.0")
            table |= dense_rows(f"reduce_{stage + 1}", f"{theirs}.downsampling_layer.1")
        for i in range(depth):
            ours = f"stage_{stage + 1}_block_{i + 1}"
            block = f"{theirs}.layers.{i}"
            table |= dense_rows(f"{ours}/conv", f"{block}.dwconv")
            table |= norm_rows(f"{ours}/norm", f"{block}.layernorm")
            table |= dense_rows(f"{ours}/wide", f"{block}.pwconv1")
            table |= dense_rows(f"{ours}/narrow", f"{block}.pwconv2")
            table[f"{ours}/layer_scale"] = f"{block}.layer_scale_parameter"
    if options["head"]:
        table |= norm_rows("norm", f"{first}layernorm") | dense_rows("output", "classifier")
    return table


HEADS = {"": "", "Model": "", "ForImageClassification": "class"}
# Our options -> entries of the configuration.
NAMES = {
    "widths": "hidden_sizes",
    "depths": "depths",
    "patch": "patch_size",
    "epsilon": "layer_norm_eps",
    "scale": "layer_scale_init_value",
}
DEFAULTS: dict[str, Any] = {
    "hidden_sizes": [96, 192, 384, 768], "depths": [3, 3, 9, 3], "num_stages": 4, "patch_size": 4,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "layer_scale_init_value": 1e-6,
}  # fmt: skip
IGNORED = ("drop_path_rate", "image_size", "stage_names", "out_features", "out_indices")
ONLY = {"num_channels": 3}
IMAGES = jn.spec((1, 224, 224, 3))
FAMILIES = {
    "convnext": Family(DEFAULTS, options, convnext, rows, how_stored, ONLY, IGNORED, x=IMAGES)
}
