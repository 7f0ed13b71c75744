"""Models in files of llama.cpp (.gguf), by the package gguf: weights as floats or integers."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.services.extras import extra
from jaxnet.services.files import OneByOne, readable

# Architecture -> model_type of transformers.
FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3"}
FAMILIES |= {"gemma2": "gemma2", "gemma3": "gemma3_text"}
ENTRIES = {
    "block_count": "num_hidden_layers", "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta",
    "context_length": "max_position_embeddings", "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.freq_base_swa": "rope_local_base_freq",
}  # fmt: skip
SCALING = {
    "rope.scaling.type": "rope_type", "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
    "rope.scaling.attn_factor": "attention_factor",
}  # fmt: skip
# Of weights that are integers: their bits, and the names of the floats of a group.
BITS = {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4}
FLOATS = {"Q8_0": ("scale",), "Q4_0": ("scale",), "Q4_1": ("scale", "lowest")}
GROUP = 32
IGNORED = {"vocab_size", "rope.dimension_count", "attention.value_length"}
NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
GEMMA_NAMES = NAMES | {
    "ffn_norm": "pre_feedforward_layernorm", "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}  # fmt: skip
PHI3_NAMES = NAMES | {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
FACTORS = "short_factor", "long_factor"  # of LongRoPE, which are weights in a file
LARGEST = 46, 62  # layers of Gemma 2 and 3 of 27B, whose queries have another scale


def read_gguf(path: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return the configuration of a file as that of transformers, and its weights by name.

    Raises:
      ImportError: If gguf is not installed.
      OSError: If the file cannot be read.
      ValueError: If it is not a file of llama.cpp, or of an architecture that is not known here.
    """
    with reading("load", path):
        return _read(path, *opened("load", path))


@contextmanager
def reading(who: str, path: Path) -> Iterator[None]:
    """Raise what a package says of a file as an error of ours, which names the file."""
    try:
        yield
    except (OSError, ImportError):
        raise
    except Exception as error:  # each package has its own, some of them plain Exceptions
        if str(error).startswith(f"{who}: "):
            raise
        raise ValueError(f"{who}: {path} is damaged: {error!r:.200}") from None


def opened(who: str, path: Path) -> tuple[dict[str, Any], Any]:
    """Return the entries of a file of llama.cpp by name, and its tensors."""
    package = extra("gguf", "gguf", who, "published")
    try:
        reader = package.GGUFReader(readable(who, path))
    except (ValueError, IndexError) as error:
        raise ValueError(f"{who}: {path} is not a file of llama.cpp: {error}") from None
    return {name: field.contents() for name, field in reader.fields.items()}, reader.tensors


def _read(
    path: Path, fields: dict[str, Any], tensors: Any
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    kind = fields.get("general.architecture")
    if kind not in FAMILIES:
        raise ValueError(
            f"load: {path}: the architecture must be one of {', '.join(FAMILIES)}, got {kind!r:.60}"
        )
    weights = Tensors(tensors, fields, kind)
    config = {"model_type": FAMILIES[kind], "tie_word_embeddings": "lm_head.weight" not in weights}
    config["vocab_size"] = weights.rows("model.embed_tokens.weight")
    for name, value in fields.items():
        own = name.removeprefix(f"{kind}.")
        if own == name or own in IGNORED:
            continue
        if own not in ENTRIES | SCALING:
            raise ValueError(f"load: {path}: the entry {name!r} = {value!r:.60} is not known here")
        if own in SCALING:
            config.setdefault("rope_scaling", {})[SCALING[own]] = value
        else:
            config[ENTRIES[own]] = value
    if kind.startswith("gemma"):
        width = config["hidden_size"] // config["num_attention_heads"]
        large = config["num_hidden_layers"] in LARGEST
        config["query_pre_attn_scalar"] = width if large else config["head_dim"]
    if kind == "phi3":
        rope, first = config.get("rope_scaling", {}), "original_max_position_embeddings"
        config[first] = rope.pop(first, config["max_position_embeddings"])
        size = config["hidden_size"] // config["num_attention_heads"]
        config["partial_rotary_factor"] = fields.get("phi3.rope.dimension_count", size) / size
        if weights.factors:
            rope |= {"rope_type": "longrope", **weights.factors}
    return config, weights


class Tensors(OneByOne):
    """Weights of a file by their names in transformers, each made floats when it is read.

    Those that are integers have parts too: "name.numbers", "name.scale" of each 32 inputs and, if
    it has one, "name.lowest". The weights (outputs, inputs) are numbers * scale, or
    (numbers + 8) * scale + lowest.

    Fields:
      kinds: Bits of the weights that can be read as integers, by name.
      factors: Factors of LongRoPE, by their names in a configuration.
    """

    def __init__(self, tensors: Any, fields: Mapping[str, Any], kind: str):
        self._quants = extra("gguf.quants", "gguf", "load", "published")
        self._gemma = kind.startswith("gemma")
        special = {"phi3": PHI3_NAMES, "gemma2": GEMMA_NAMES, "gemma3": GEMMA_NAMES}
        self._their_names = special.get(kind, NAMES)
        self._heads = {}
        stored = {f"rope_factors_{name.partition('_')[0]}.weight": name for name in FACTORS}
        turns = {tensor.name: tensor.data for tensor in tensors if tensor.name in stored}
        turns = turns if kind == "phi3" else {}
        self.factors = {stored[name]: data.tolist() for name, data in turns.items()}
        tensors = [tensor for tensor in tensors if tensor.name not in turns]
        if kind == "llama":  # llama.cpp rotates neighbors, transformers halves
            heads = fields["llama.attention.head_count"]
            groups = fields.get("llama.attention.head_count_kv", heads)
            self._heads = {"attn_q": heads, "attn_k": groups}
        self._found = {self._name(tensor.name): tensor for tensor in tensors}
        if len(self._found) < len(tensors):
            raise ValueError("load: two weights of the file have one name")
        self._names = list(self._found)
        kinds = ((name, BITS.get(tensor.tensor_type.name)) for name, tensor in self._found.items())
        self.kinds = {name: bits for name, bits in kinds if bits}

    def floats_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the parts of integers that are floats."""
        return FLOATS[self._found[name].tensor_type.name]

    def chosen(self, names: Iterable[str]) -> "Tensors":
        """Return the same weights, of which only these have to be used."""
        found = copy(self)
        found._names = list(names)
        return found

    def _turned(self, tensor: Any, array: np.ndarray) -> np.ndarray:
        if heads := self._heads.get(tensor.name.split(".")[-2]):
            pairs = array.reshape(heads, -1, 2, *array.shape[1:])
            array = pairs.swapaxes(1, 2).reshape(array.shape)
        return array

    def _name(self, theirs: str) -> str:
        found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(\w+)", theirs)
        if not found or found[2] not in self._their_names:
            raise ValueError(f"load: the weights {theirs!r:.60} are not known here")
        layer = f"model.layers.{found[1]}." if found[1] else ""
        return f"{layer}{self._their_names[found[2]]}.{found[3]}"

    def rows(self, name: str) -> int:
        return int(self._found[name].shape[-1])

    def __getitem__(self, name: str) -> np.ndarray:
        whole, _, part = name.rpartition(".")
        if whole in self.kinds:
            return self._part(whole, part)
        tensor = self._found[name]
        array = self._quants.dequantize(tensor.data, tensor.tensor_type)
        array = np.asarray(self._turned(tensor, array), np.float32)
        return array - 1 if self._gemma and name.endswith("norm.weight") else array  # 1 is added

    def _part(self, name: str, part: str) -> np.ndarray:
        """Return a part of integers."""
        tensor, bits, floats = self._found[name], self.kinds[name], self.floats_of(name)
        rows, size = len(tensor.data), GROUP * tensor.data.shape[-1] // int(tensor.shape[0])
        stored, array = np.split(tensor.data.reshape(rows, -1, size), [2 * len(floats)], -1)
        if part in floats:
            array = stored.copy().view(np.float16)[..., floats.index(part)]
            return self._turned(tensor, array)
        if bits == 4:  # the first half in the low bits, and 8 more than the integers
            array = np.concatenate([array & 15, array >> 4], -1) - np.uint8(8)
        return self._turned(tensor, array.view(np.int8).reshape(rows, -1))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
