"""The weights of published language models: a table of their names, and a reader."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State, spec
from jaxnet.interop.names import Change, Source, by_names, invertible, part, shaped, transposed
from jaxnet.interop.weights import Files, open_weights
from jaxnet.models import decoder
from jaxnet.models.decoder_config import read_config

# Ends of the names of buffers that older files have in addition to the weights.
BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")

# Beginnings and names of weights, of most families and of GPT-2.
PREFIXES = "model.", "transformer."
EMBEDDING = "embed_tokens.weight", "wte.weight"
HEAD = "lm_head.weight"
# The kernels of a block of `jn.models.decoder`, and their names in most families and in GPT-2.
LLAMA = {f"attention/{ours}": f"self_attn.{ours[0]}_proj" for ours in ("query", "key", "value")}
LLAMA |= {"attention/out": "self_attn.o_proj", "mlp_in": "mlp.gate_proj"}
LLAMA |= {"mlp_gate": "mlp.up_proj", "mlp_out": "mlp.down_proj"}
GPT2 = {"attention/out": "attn.c_proj", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj"}

# Gemma stores what is added to 1.
_plus_one = invertible(lambda a: np.asarray(a, np.float32) + 1, lambda a: a - 1)


def load_decoder(
    folder: str | Path,
    *,
    weights: Files | None = None,
    dtype: Any = None,
    put: Callable[[str, jax.Array], jax.Array] | None = None,
) -> tuple[Layer, Params, State]:
    """Read a published language model: the net, its params and its state.

    The folder has config.json and safetensors files, as `huggingface_hub.snapshot_download` writes
    it. Each array is read, cast and placed before the next one is read.

    Args:
      folder: Folder of the model.
      weights: Files of the weights; None reads all safetensors files of the folder.
      dtype: Dtype of the params, such as jnp.bfloat16; None is float32.
      put: Function of (path, array) that places an array, as in `by_names`.

    Raises:
      OSError: If a file is missing or cannot be read.
      ValueError: If the model_type is unknown, or the weights do not fit the config.

    Example:
      >>> from huggingface_hub import snapshot_download  # doctest: +SKIP
      >>> folder = snapshot_download("HuggingFaceTB/SmolLM2-135M")  # doctest: +SKIP
      >>> net, params, state = load_decoder(folder)  # doctest: +SKIP
    """
    config = read_config("load_decoder", folder)
    options = config.options()
    stored = open_weights("load_decoder", folder if weights is None else weights)
    # The first published files have no prefix.
    bare = config.family == "gpt2" and "wte.weight" in stored
    first = "" if bare else PREFIXES[config.family == "gpt2"]
    layers = first + ("h" if config.family == "gpt2" else "layers")
    if not any(name.startswith(f"{layers}.{options['depth'] - 1}.") for name in stored):
        raise config.error(
            f"says that there are {options['depth']:,} layers, but the weights have no entry "
            f"{layers}.{options['depth'] - 1}.…"
        )
    leave = [name for name in stored if name.endswith(BUFFERS)]
    words = first + EMBEDDING[config.family == "gpt2"]
    if HEAD in stored and words in stored and options["tied"]:
        # Whoever changed one of them, as by adding tokens, did not untie them in the config.
        table = np.asarray(stored[words])
        if np.array_equal(np.asarray(stored[HEAD]), table):
            leave.append(HEAD)
        else:
            options["tied"] = False
    net = decoder(**options)
    table = _table(config.family, options, first)
    ids = spec((1, 1), jnp.int32)
    return net, *by_names(net, stored, ids, table, leave=leave, dtype=dtype, put=put)


def decoder_table(
    config: str | Path | Mapping[str, Any], *, prefix: str | None = None
) -> dict[str, Source]:
    """Return the table of names of a published language model, for `by_names` and `to_names`.

    Args:
      config: Config, as in `jaxnet.models.decoder_config`.
      prefix: Beginning of all names but the head's; None uses the prefix of the package
        transformers, "model." or "transformer.".

    Raises:
      OSError, TypeError, ValueError: As in `jaxnet.models.decoder_config`.

    Example:
      >>> config = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2}
      >>> decoder_table(config)["block_{i}/mlp_in/kernel"]
      'transformer.h.{i}.mlp.c_fc.weight'
    """
    read = read_config("decoder_table", config)
    first = PREFIXES[read.family == "gpt2"] if prefix is None else prefix
    return _table(read.family, read.options(), first)


def _table(family: str, options: dict[str, Any], first: str) -> dict[str, Source]:
    head: dict[str, Source] = {} if options["tied"] else {"head/kernel": (HEAD, transposed)}
    if family == "gpt2":
        return _gpt2(options["width"], options["heads"], first) | head
    return _llama(options, first, gemma=family.startswith("gemma")) | head


def _llama(options: dict[str, Any], first: str, gemma: bool) -> dict[str, Source]:
    """Return the names of all models except GPT-2, limited to the chosen options."""
    heads, groups = options["heads"], options["kv_heads"] or options["heads"]
    size = options["head_size"] or options["width"] // heads
    biased, qk_norm, norm_at = options["use_bias"], options.get("qk_norm"), options.get("norm_at")
    block = first + "layers.{i}"
    joined = shaped(heads, size, options["width"], given=(-1, options["width"]))
    counts = {"query": heads, "key": groups, "value": groups}
    table: dict[str, Source] = {"embedding/embedding": f"{first}embed_tokens.weight"}
    table["norm/scale"] = _scale(f"{first}norm.weight", gemma)
    for ours, theirs in LLAMA.items():
        path, name, kind = f"block_{{i}}/{ours}", f"{block}.{theirs}", ours.rpartition("/")[2]
        if options.get("experts") and kind.startswith("mlp"):
            continue
        bias: Source = f"{name}.bias"
        if count := counts.get(kind):
            changes, bias = (_heads_of(count),), (bias, shaped(count, size, given=(-1,)))
        else:
            changes = (transposed, joined) if kind == "out" else (transposed,)
        table[f"{path}/kernel"] = (f"{name}.weight", *changes)
        if kind.partition("_")[0] in biased:
            table[f"{path}/bias"] = bias
        if qk_norm in ("head", "all") and kind in ("query", "key"):
            table[f"{path}_norm/scale"] = _scale(f"{name.replace('proj', 'norm')}.weight", gemma)
    if options.get("experts"):
        own = f"{block}.block_sparse_moe"
        table["block_{i}/moe/router/kernel"] = (f"{own}.gate.weight", transposed)
        for ours, theirs in (("mlp_in", "w1"), ("mlp_gate", "w3"), ("mlp_out", "w2")):
            name = own + ".experts.{j}." + theirs + ".weight"
            table[f"block_{{i}}/moe/experts/{ours}/kernel"] = (name, transposed)

    for ours, theirs in NORMS[norm_at or "input"].items():
        table[f"block_{{i}}/{ours}/scale"] = _scale(f"{block}.{theirs}_layernorm.weight", gemma)
    return table


# Our norms -> theirs without "_layernorm", by `norm_at`.
NORMS = {
    "input": {"attention_norm": "input", "mlp_norm": "post_attention"},
    "output": {"attention_norm": "post_attention", "mlp_norm": "post_feedforward"},
    "both": {
        "attention_norm": "input",
        "attention_out_norm": "post_attention",
        "mlp_norm": "pre_feedforward",
        "mlp_out_norm": "post_feedforward",
    },
}


def _scale(name: str, gemma: bool) -> Source:
    return (name, _plus_one) if gemma else name


def _heads_of(count: int) -> Change:
    """Convert from (heads * size, width) to (width, heads, size)."""
    return invertible(
        lambda a: np.reshape(np.transpose(a), (a.shape[1], count, -1)),
        lambda a: np.reshape(a, (a.shape[0], -1)).T,
    )


def _gpt2(width: int, heads: int, first: str) -> dict[str, Source]:
    """Return the names of GPT-2: kernels are (inputs, outputs), with queries, keys and values
    joined."""
    size, block = width // heads, first + "h.{i}"
    table: dict[str, Source] = {"embedding/embedding": f"{first}wte.weight"}
    table["positions/embedding"] = f"{first}wpe.weight"
    norms = {"norm": f"{first}ln_f", "block_{i}/attention_norm": f"{block}.ln_1"}
    norms |= {"block_{i}/mlp_norm": f"{block}.ln_2"}
    for ours, theirs in norms.items():
        table |= {f"{ours}/scale": f"{theirs}.weight", f"{ours}/bias": f"{theirs}.bias"}
    for i, ours in enumerate(("query", "key", "value")):
        path = f"block_{{i}}/attention/{ours}"
        split = shaped(width, heads, size, given=(width, width))
        flat = shaped(heads, size, given=(width,))
        table[f"{path}/kernel"] = (f"{block}.attn.c_attn.weight", part(i, 3), split)
        table[f"{path}/bias"] = (f"{block}.attn.c_attn.bias", part(i, 3), flat)
    joined = shaped(heads, size, width, given=(width, width))
    for ours, theirs in GPT2.items():
        name = f"{block}.{theirs}.weight"
        table[f"block_{{i}}/{ours}/kernel"] = (name, joined) if ours == "attention/out" else name
        table[f"block_{{i}}/{ours}/bias"] = f"{block}.{theirs}.bias"
    return table
