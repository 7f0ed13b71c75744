"""Models in files of llama.cpp (.gguf): weights as floats, by the package gguf, or as integers."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.pretrained.gguf_header import Tensor, read_header, read_tensors
from jaxnet.pretrained.rotations import llama3_scaling
from jaxnet.services.extras import extra
from jaxnet.services.files import OneByOne, readable

# Architecture -> model_type of transformers.
FAMILIES = {
    "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "phi3": "phi3", "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}  # fmt: skip
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
IGNORED = {"vocab_size", "rope.dimension_count", "attention.value_length", "tensor_data_layout"}
# Entries with a value that has no effect.
NEUTRAL = {
    "rope.scaling.type": "none", "expert_count": 0, "expert_used_count": 0,
    "attention.causal": True, "rope.scaling.finetuned": False, "leading_dense_block_count": 0,
}  # fmt: skip
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
# The factors of LongRoPE, which are weights in a file.
FACTORS = {
    "rope_factors_short.weight": "short_factor",
    "rope_factors_long.weight": "long_factor",
}
# The factors of the rotations of Llama 3.1 and later, and the lengths of training they may be for.
LLAMA3 = "rope_freqs.weight"
LLAMA3_LENGTHS = 8192, 4096, 16384, 32768, 65536, 131072
LLAMA3_TURNS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
# Types of weights that are whole numbers or wider than float32, which no layer here has.
OTHER_TYPES = {"I8", "I16", "I32", "I64", "F64"}
LARGEST = 46, 62  # layers of Gemma 2 and 3 of 27B, whose queries have another scale


class Kind(NamedTuple):
    """How weights are stored: as integers times the scale of their group, plus its lowest value.

    Fields:
      bits: Bits of an integer in params.
      group: Number of neighboring inputs that share a scale.
      planes: Parts of the bits of the integers, the lowest first, as (first byte of a block, byte
        after the last, bits, stride). A byte has bits of several integers, a stride apart.
      zero: Integer that stands for 0.
      lowest: Bytes of a block that its lowest values are multiples of; empty without these.
      table: Whether the integers are places in the table of IQ4_NL.
    """

    bits: int
    group: int
    planes: tuple[tuple[int, int, int, int], ...]
    zero: int = 0
    lowest: slice = slice(0)
    table: bool = False

    @property
    def has_lowest(self) -> bool:
        """Whether groups have lowest values."""
        return bool(self.lowest.stop)

    @property
    def floats(self) -> tuple[str, ...]:
        """The names of the floats of a group."""
        return ("scale", "lowest") if self.has_lowest else ("scale",)

    @property
    def least(self) -> int:
        """The integer that stands for a lowest value in params."""
        return -8 if self.has_lowest and self.bits == 4 else 0

    @property
    def largest(self) -> int:
        """The largest integer in a file."""
        return 2 ** sum(bits for _, _, bits, _ in self.planes) - 1


KINDS = {
    "Q8_0": Kind(8, 32, ((2, 34, 8, 32),)),
    "Q6_K": Kind(8, 16, ((0, 128, 4, 64), (128, 192, 2, 32)), zero=32),
    "Q5_0": Kind(8, 32, ((6, 22, 4, 16), (2, 6, 1, 1)), zero=16),
    "Q5_1": Kind(8, 32, ((8, 24, 4, 16), (4, 8, 1, 1)), lowest=slice(2, 4)),
    "Q5_K": Kind(8, 32, ((48, 176, 4, 32), (16, 48, 1, 32)), lowest=slice(2, 4)),
    "Q4_0": Kind(4, 32, ((2, 18, 4, 16),), zero=8),
    "Q4_1": Kind(4, 32, ((4, 20, 4, 16),), lowest=slice(2, 4)),
    "Q4_K": Kind(4, 32, ((16, 144, 4, 32),), lowest=slice(2, 4)),
    "Q3_K": Kind(4, 16, ((32, 96, 2, 32), (0, 32, 1, 32)), zero=4),
    "Q2_K": Kind(4, 16, ((16, 80, 2, 32),), lowest=slice(82, 84)),
    "IQ4_NL": Kind(8, 32, ((2, 18, 4, 16),), table=True),
    "IQ4_XS": Kind(8, 32, ((8, 136, 4, 16),), table=True),
}
BLOCKS = 2**14  # that are floats at the same time


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


def opened(who: str, path: Path) -> tuple[dict[str, Any], list[Tensor]]:
    """Return the entries of a file of llama.cpp by name, and its weights."""
    package = extra("gguf", "gguf", who, "pretrained")
    try:
        header = read_header(readable(who, path))
        tensors = read_tensors(path, header, package)
    except ValueError as error:
        raise ValueError(f"{who}: {path} is not a file of llama.cpp: {error}") from None
    return header.entries, tensors


def _read(
    path: Path, fields: dict[str, Any], tensors: Any
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    kind = fields.get("general.architecture")
    if kind not in FAMILIES:
        raise ValueError(
            f"load: {path}: the architecture must be one of {', '.join(FAMILIES)}, got {kind!r:.60}"
        )
    weights = Tensors(tensors, fields, kind)
    config = {
        "model_type": FAMILIES[kind],
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "vocab_size": weights.rows("model.embed_tokens.weight"),
        **_entries(path, fields, kind),
    }
    if kind.startswith("gemma"):
        config["query_pre_attn_scalar"] = _gemma_scale(config)
    if weights.divisors is not None:
        config["rope_scaling"] = _llama3_rotation(path, config, fields, weights.divisors)
    if kind == "phi3":
        rotated = fields.get("phi3.rope.dimension_count")
        config |= _phi3_rotation(config, rotated, weights.factors)
    return config, weights


def _entries(path: Path, fields: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the entries of a model by their names in a configuration of transformers."""
    config: dict[str, Any] = {}
    for name, value in fields.items():
        entry = name.removeprefix(f"{kind}.")
        if entry == name or entry in IGNORED or NEUTRAL.get(entry, ...) == value:
            continue
        if entry in SCALING:
            config.setdefault("rope_scaling", {})[SCALING[entry]] = value
        elif entry in ENTRIES:
            config[ENTRIES[entry]] = value
        else:
            raise ValueError(f"load: {path}: the entry {name!r} = {value!r:.60} is not known here")
    return config


def _llama3_rotation(
    path: Path, config: dict[str, Any], fields: dict[str, Any], divisors: np.ndarray
) -> dict[str, Any]:
    """Return the entries whose factors a file has as weights, one for each rotated pair.

    Raises:
      ValueError: If they are not those of Llama 3.
    """
    base = config.get("rope_theta", 10_000.0)
    size = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    angles = base ** (-np.arange(0, size, 2) / size)
    factor = float(divisors.max(initial=1))
    for length in LLAMA3_LENGTHS:
        low, high = LLAMA3_TURNS.values()
        scaled = llama3_scaling(angles, factor=factor, low=low, high=high, length=length)
        if scaled.shape == divisors.shape and np.allclose(angles / divisors, scaled, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "original_max_position_embeddings": length,
                **LLAMA3_TURNS,
            }
    raise ValueError(
        f"load: {path}: the factors {LLAMA3} are not those of Llama 3, got {divisors[:8]}"
    )


def _gemma_scale(config: dict[str, Any]) -> int:
    """Return the number whose square root divides the queries of Gemma."""
    if config["num_hidden_layers"] in LARGEST:
        return config["hidden_size"] // config["num_attention_heads"]
    return config["head_dim"]


def _phi3_rotation(
    config: dict[str, Any], rotated: int | None, factors: dict[str, Any]
) -> dict[str, Any]:
    """Return the entries of the rotation of Phi.

    Args:
      config: Its other entries.
      rotated: Number of rotated features of a head; None is all of them.
      factors: Factors of LongRoPE, if there are any.
    """
    trained = "original_max_position_embeddings"
    size = config["hidden_size"] // config["num_attention_heads"]
    scaling = dict(config.get("rope_scaling", {}))
    entries = {
        trained: scaling.pop(trained, config["max_position_embeddings"]),
        "partial_rotary_factor": (size if rotated is None else rotated) / size,
    }
    if factors:
        scaling |= {"rope_type": "longrope", **factors}
    if scaling or "rope_scaling" in config:
        entries["rope_scaling"] = scaling
    return entries


def _check_finite(tensor: Any, numbers: np.ndarray) -> None:
    """Raise if weights or their scales are not finite; scales must fit float16."""
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"load: the weights {tensor.name!r:.60} ({tensor.tensor_type.name}) are damaged: some "
            "of them, or of their scales in float16, are not finite"
        )


class Tensors(OneByOne):
    """Weights of a file by their names in transformers, each made floats when it is read.

    Those that are integers have parts too: "name.numbers", "name.scale" of each group and, if it
    has one, "name.lowest". The weights (outputs, inputs) are (numbers - kind.least) * scale +
    lowest.

    Fields:
      kinds: How the weights are stored that can be read as integers, by name.
      factors: Factors of LongRoPE, by their names in a configuration.
      divisors: Numbers that divide the angles of Llama 3, or None.
    """

    def __init__(self, tensors: Any, fields: Mapping[str, Any], kind: str):
        self._quants = extra("gguf.quants", "gguf", "load", "pretrained")
        self._gemma = kind.startswith("gemma")
        special = {"phi3": PHI3_NAMES, "gemma2": GEMMA_NAMES, "gemma3": GEMMA_NAMES}
        self._their_names = special.get(kind, NAMES)
        self._heads: dict[str, int] = {}
        if kind == "llama":  # llama.cpp rotates neighbors, transformers halves
            heads = fields["llama.attention.head_count"]
            groups = fields.get("llama.attention.head_count_kv", heads)
            self._heads = {"attn_q": heads, "attn_k": groups}
        self.factors: dict[str, Any] = {}
        self.divisors: np.ndarray | None = None
        weights = []
        for tensor in tensors:
            if tensor.tensor_type.name in OTHER_TYPES:
                raise ValueError(
                    f"load: the weights {tensor.name!r:.60} must be floats or blocks of integers, "
                    f"got {tensor.tensor_type.name}"
                )
            if tensor.name == LLAMA3:
                self.divisors = np.asarray(tensor.data, np.float64)
            elif kind == "phi3" and tensor.name in FACTORS:
                self.factors[FACTORS[tensor.name]] = tensor.data.tolist()
            else:
                weights.append(tensor)
        self._tensors = {self._name(tensor.name): tensor for tensor in weights}
        if len(self._tensors) < len(weights):
            raise ValueError("load: two weights of the file have one name")
        self._names = list(self._tensors)
        self.kinds: dict[str, Kind] = {}
        for name, tensor in self._tensors.items():
            how = tensor.tensor_type.name
            if how in KINDS:
                self.kinds[name] = KINDS[how]

    def chosen(self, names: Iterable[str]) -> "Tensors":
        """Return the same weights, of which only these have to be used."""
        selection = copy(self)
        selection._names = list(names)
        return selection

    def _turned(self, tensor: Any, array: np.ndarray) -> np.ndarray:
        """Return the rows of a kernel in the order in which transformers rotates them."""
        layer = tensor.name.split(".")[-2]
        if layer not in self._heads:
            return array
        pairs = array.reshape(self._heads[layer], -1, 2, *array.shape[1:])
        return pairs.swapaxes(1, 2).reshape(array.shape)

    def _name(self, theirs: str) -> str:
        match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(\w+)", theirs)
        if not match or match[2] not in self._their_names:
            raise ValueError(f"load: the weights {theirs!r:.60} are not known here")
        number, layer, end = match.groups()
        block = f"model.layers.{number}." if number else ""
        return f"{block}{self._their_names[layer]}.{end}"

    def rows(self, name: str) -> int:
        """Return the number of rows of weights."""
        return int(self._tensors[name].shape[-1])

    def __getitem__(self, name: str) -> np.ndarray:
        base, _, part = name.rpartition(".")
        if base in self.kinds:
            return self._part(base, part)
        tensor = self._tensors[name]
        try:
            floats = self._quants.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            raise ValueError(
                f"load: the weights {tensor.name!r:.60} are {tensor.tensor_type.name}, which the "
                "package gguf cannot turn into floats"
            ) from None
        array = np.asarray(self._turned(tensor, floats), np.float32)
        _check_finite(tensor, array)
        if self._gemma and name.endswith("norm.weight"):
            array = array - 1  # which llama.cpp has added
        return array

    def _part(self, name: str, part: str) -> np.ndarray:
        """Return a part of integers."""
        tensor, kind = self._tensors[name], self.kinds[name]
        columns = int(tensor.shape[0])
        if part == "numbers":
            read = self._integers
        else:
            read = partial(self._floats, part)
            columns //= kind.group
        bytes_of_block = self._quants.GGML_QUANT_SIZES[tensor.tensor_type][1]
        blocks = tensor.data.reshape(-1, bytes_of_block)
        pieces = []
        for first in range(0, len(blocks), BLOCKS):
            pieces.append(read(kind, tensor, blocks[first : first + BLOCKS]))
        rows = len(tensor.data)
        return self._turned(tensor, np.concatenate(pieces).reshape(rows, columns))

    def _integers(self, kind: Kind, tensor: Any, blocks: np.ndarray) -> np.ndarray:
        digits_so_far: Any = np.uint8(0)
        done = 0  # bits
        for first, last, bits, stride in kind.planes:
            plane = blocks[:, first:last].reshape(-1, 1, stride)
            shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
            digits = (plane >> shifts) & np.uint8(2**bits - 1)
            digits_so_far = digits_so_far | (digits.reshape(-1) << done)
            done += bits
        if kind.table:
            return np.int8(self._quants.IQ4_NL.kvalues)[digits_so_far]
        shift = (kind.least - kind.zero) % 256  # bytes wrap around
        return (digits_so_far + np.uint8(shift)).view(np.int8)

    def _floats(self, part: str, kind: Kind, tensor: Any, blocks: np.ndarray) -> np.ndarray:
        """Return the scale of each group, or its lowest value, in float16."""
        numbers_of_block = self._quants.GGML_QUANT_SIZES[tensor.tensor_type][0]
        if numbers_of_block == kind.group:  # they come first
            first = 2 * kind.floats.index(part)
            floats = blocks[:, first : first + 2].copy().view(np.float16)[:, 0]
            _check_finite(tensor, floats)
            return floats
        # In the file they are products. They follow from the floats of one integer everywhere.
        blocks = blocks.copy()
        if part == "lowest":
            byte, factor = 0, 1  # of the integer 0 nothing else is left
        elif kind.has_lowest:
            byte, factor = 255, kind.largest
            blocks[:, kind.lowest] = 0
        else:
            byte, factor = 0, -127 if kind.table else -kind.zero
        for first, last, _, _ in kind.planes:
            blocks[:, first:last] = byte
        floats = self._quants.dequantize(blocks.reshape(1, -1), tensor.tensor_type)[0]
        with np.errstate(over="ignore"):
            halves = (floats[:: kind.group] / factor).astype(np.float16)
        _check_finite(tensor, halves)
        return halves

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
