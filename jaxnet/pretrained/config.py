"""Configurations of published models, checked and complete.

A family is data: each entry that its published configurations hold is named, with the family's own
default, or as one that must have a certain value, or as one without effect on the outputs. An entry
that is on no list raises, since it may say that the model computes something else.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet import Layer, spec
from jaxnet.services.checks import check_type
from jaxnet.services.files import file_path, is_folder
from jaxnet.services.json_text import read_object


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "quick_gelu": _quick_gelu,
    "relu": jax.nn.relu,
}
DEEPEST = 10_000  # layers


Rows = dict[str, Any]  # a table for `jn.interop.by_names`


class Config(NamedTuple):
    """A configuration whose entries are checked and complete.

    Fields:
      where: Name of the function and of the file, for messages.
      family: The model_type.
      entries: Entries that the options depend on, with defaults for those left out.
      raw: Entries as the file has them.
    """

    where: str
    family: str
    entries: dict[str, Any]
    raw: dict[str, Any] = {}

    def error(self, words: str) -> ValueError:
        """Return an error that names the file."""
        return ValueError(f"{self.where}: {words}")

    def head(self, kind: str, heads: Mapping[str, str]) -> str:
        """Return the head that the entry `architectures` names.

        Args:
          kind: Beginning of the names of the family's classes.
          heads: Head by the rest of the name; "" is that of a config without the entry.

        Raises:
          ValueError: If it names another class, or several.
        """
        named = self.raw.get("architectures") or [""]
        name, *more = named if isinstance(named, list) else [named]
        head_kind = heads.get(str(name).removeprefix(kind))
        other_kind = name and not str(name).startswith(kind)
        if head_kind is None or more or other_kind:
            allowed = ", ".join(f"{kind}{head}" for head in heads if head)
            raise self.error(f"architectures must be one of {allowed}, got {name!r:.60}")
        return head_kind

    def labels(self) -> int:
        """Return the number of classes, 2 by default."""
        names = self.raw.get("id2label")
        if isinstance(names, dict) and names:
            return len(names)
        return self.raw.get("num_labels") or 2

    def check_heads(self, width: int, heads: int) -> None:
        """Raise an error if a width has no equal parts for the heads of the attention."""
        if width % heads:
            raise self.error(f"the number of heads must divide the width {width}, got {heads}")


class Stored(NamedTuple):
    """How the weights of a model are stored.

    Fields:
      options: Options of the family's net.
      prefix: Beginning of the names.
      leave: Patterns of names that are not read.
      x: Spec of an input, if it depends on the options; None is that of the family.
      packed: Whether the kernels of experts are in mxfp4.
    """

    options: dict[str, Any]
    prefix: str
    leave: tuple[str, ...] = ()
    x: Any = None
    packed: bool = False


def prefix_in(weights: Mapping[str, Any], prefix: str) -> str:
    """Return the prefix if a name begins with it; a model without a head may lack it."""
    return prefix if any(name.startswith(prefix) for name in weights) else ""


class Family(NamedTuple):
    """A family of published models.

    In addition to its own entries, a configuration may hold those of `ONLY` and `IGNORED`.

    Fields:
      defaults: Default of each entry that is used.
      options: Function of a complete config that returns the options of `net`.
      net: Function of these options that returns the net.
      rows: Function (config, `Stored`) -> table of names.
      stored: Function (config, weights by name, or None for those to be written) -> `Stored`.
      only: Entries that may have one value; null and leaving it out count as that value.
      ignored: Entries without effect on the outputs, which may be of `ONLY`.
      aliases: Other names of entries.
      x: Spec of an input.
    """

    defaults: dict[str, Any]
    options: Callable[[Config], dict[str, Any]]
    net: Callable[..., Layer]
    rows: Callable[[Config, Stored], Rows]
    stored: Callable[[Config, Mapping[str, Any] | None], Stored]
    only: dict[str, Any] = {}
    ignored: tuple[str, ...] = ()
    aliases: dict[str, str] = {}
    x: Any = spec((1, 1), jnp.int32)


def complete(who: str, config: str | Path | Mapping[str, Any], families: Any) -> Config:
    """Return the contents of a config.json, complete and checked.

    Args:
      who: Name of the function that got it, for messages.
      config: Path of the file or of its folder, or its contents as a dict.
      families: `Family` by model_type.

    Raises:
      OSError: If the file is missing.
      TypeError: If it is neither a path nor a mapping.
      ValueError: If the file is not a config, or the model_type is not known.
      ValueError: If an entry is unknown, damaged, or has a value that the net cannot compute.
    """
    where, raw = _contents(who, config)
    family = raw.get("model_type")
    if not isinstance(family, str) or family not in families:
        raise ValueError(
            f"{where}: model_type must be one of {', '.join(families)}, got {family!r:.60}; write "
            "the net with its options, and a table for jn.interop.by_names"
        )
    checked = Config(where, family, dict(families[family].defaults), dict(raw))
    seen: dict[str, str] = {}  # name of an entry -> as the config names it
    for raw_name, value in raw.items():
        name = families[family].aliases.get(raw_name, raw_name)
        if name in seen:
            raise checked.error(
                f"{name} is given twice, as {seen[name]} and {raw_name}; leave one out"
            )
        seen[name] = raw_name
        if name in checked.entries:
            _check_kind(checked, name, value)
            checked.entries[name] = value
        else:
            _check_unused(checked, name, value, families[family])
    return checked


def _contents(who: str, config: Any) -> tuple[str, Mapping[str, Any]]:
    """Return where a configuration is, for messages, and its entries."""
    where = who
    if isinstance(config, str | Path):
        path = file_path(who, config, "config")
        path = path / "config.json" if is_folder(who, path) else path
        where, config = f"{who}: {path}", read_object(who, path)
    check_type(who, "config", config, Mapping, "the path of a config.json or its contents")
    return where, config


def _check_kind(config: Config, name: str, value: Any) -> None:
    """Raise unless the value of an entry is of its kind."""
    if value is None and name in MAY_BE_NULL:
        return
    needed, fits = KINDS.get(name) or BY_TYPE[type(config.entries[name])]
    if not fits(value):
        raise config.error(f"{name} must be {needed}, got {value!r:.60}")


def _check_unused(config: Config, name: str, value: Any, family: Family) -> None:
    """Raise for an entry without use here, unless it is known to have no effect on the outputs."""
    only = ONLY | family.only
    if name in family.ignored:
        return
    if name in only:
        if value not in (None, only[name]):
            raise config.error(f"{name} must be {only[name]}, got {value!r:.60}; {OTHERWISE}")
    elif name not in IGNORED:
        raise config.error(
            f"the entry {name!r:.60} is unknown for {config.family}. If the outputs do not depend "
            f"on it, leave it out of the config; otherwise {OTHERWISE}"
        )


OTHERWISE = "write the net, such as jn.models.decoder(...), with options of your own"


# Tests of entries. JSON has only the types named here, but a dict of a user may hold others.


def is_positive(value: Any) -> bool:
    """Return whether an entry is a positive number.

    Example:
      >>> is_positive(0.5), is_positive(True), is_positive("1")
      (True, False, False)
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31


def _is_depth(value: Any) -> bool:
    return _is_count(value) and value <= DEEPEST


def _is_natural(value: Any) -> bool:
    zero = value == 0 and not isinstance(value, bool)
    return zero or _is_count(value)


def _is_fraction(value: Any) -> bool:
    return value == 0 or is_positive(value) and value < 1


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_activation(value: Any) -> bool:
    return isinstance(value, str) and value in ACTIVATIONS


def _is_pooling(value: Any) -> bool:
    return value in ("cls", "mean")


def _is_mxfp4(value: Any) -> bool:
    return isinstance(value, dict) and value.get("quant_method") == "mxfp4"


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a test of lists, by a test of their items."""
    return lambda value: isinstance(value, list) and all(map(fits, value))


KIND = ("full_attention", "sliding_attention")  # of a layer

# What an entry must be, in words and as a test.
ACTIVATION = f"one of {', '.join(ACTIVATIONS)}", _is_activation
COUNT = "a whole number of at least 1", _is_count
DEPTH = f"a whole number from 1 to {DEEPEST:,}", _is_depth
DEPTHS = f"a list of whole numbers from 1 to {DEEPEST:,}", _list_of(_is_depth)
FLAG = "true or false", _is_bool
FLAGS = "a list of 0 and 1", _list_of(lambda item: item in (0, 1))
FRACTION = "a number in [0, 1)", _is_fraction
LAYERS = f"a list of {' and '.join(KIND)}", _list_of(lambda item: item in KIND)
MXFP4 = "an object whose quant_method is mxfp4", _is_mxfp4
NUMBER = "a positive number", is_positive
OBJECT = "an object", _is_object
POOLING = "cls or mean", _is_pooling
NATURAL = "a whole number of at least 0", _is_natural
WORD = "a word", _is_text
# The other entries are of the kind of their defaults.
BY_TYPE = {int: COUNT, float: NUMBER, bool: FLAG, str: ACTIVATION}
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "attn_logit_softcapping": NUMBER,
    "classifier_pooling": POOLING,
    "decoder_layers": DEPTH,
    "depths": DEPTHS,
    "dropout": FRACTION,
    "dropout_rate": FRACTION,
    "encoder_layers": DEPTH,
    "eos_token_id": NATURAL,
    "feed_forward_proj": WORD,
    "final_logit_softcapping": NUMBER,
    "head_dim": COUNT,
    "hidden_dropout_prob": FRACTION,
    "hidden_sizes": DEPTHS,
    "layer_types": LAYERS,
    "max_window_layers": NATURAL,
    "n_inner": COUNT,
    "n_layer": DEPTH,
    "no_rope_layers": FLAGS,
    "num_decoder_layers": DEPTH,
    "num_hidden_layers": DEPTH,
    "num_key_value_heads": COUNT,
    "num_layers": DEPTH,
    "original_max_position_embeddings": COUNT,
    "pad_token_id": NATURAL,
    "partial_rotary_factor": NUMBER,
    "projection_size": COUNT,
    "quantization_config": MXFP4,
    "query_pre_attn_scalar": NUMBER,
    "rope_parameters": OBJECT,
    "rope_scaling": OBJECT,
    "scale_decoder_outputs": FLAG,
    "sliding_window": COUNT,
    "text_config": OBJECT,
    "text_config_dict": OBJECT,
    "vision_config": OBJECT,
    "vision_config_dict": OBJECT,
}


# Entries of every family. These must have one value, if they are given.
ONLY = {
    "is_encoder_decoder": False, "add_cross_attention": False,
    "quantization_config": None, "auto_map": None, "pruned_heads": {},
}  # fmt: skip
# These have no effect on the logits: names, tokens, training, generation, how it is computed.
IGNORED = {
    "model_type", "_name_or_path", "name_or_path", "transformers_version", "architectures",
    "transformers.js_config", "tokenizer_class", "prefix", "finetuning_task", "problem_type",
    "task_specific_params", "id2label", "label2id", "_num_labels", "num_labels",
    "pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id",
    "initializer_range", "attention_dropout", "gradient_checkpointing", "use_cache",
    "cache_implementation", "output_hidden_states", "output_attentions", "return_dict",
    "use_return_dict", "return_dict_in_generate", "output_scores", "dtype", "torch_dtype",
    "use_bfloat16", "tf_legacy_loss", "torchscript", "chunk_size_feed_forward", "is_decoder",
    "tie_encoder_decoder", "cross_attention_hidden_size", "pretraining_tp",
    "_attn_implementation", "attn_implementation", "_attn_implementation_autoset",
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
    "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
}  # fmt: skip
MAY_BE_NULL = {
    "num_key_value_heads", "head_dim", "sliding_window", "layer_types", "n_inner",
    "num_decoder_layers", "scale_decoder_outputs", "no_rope_layers",
    "rope_parameters", "rope_scaling", "partial_rotary_factor",
    "original_max_position_embeddings", "final_logit_softcapping", "attn_logit_softcapping",
    "text_config", "text_config_dict", "vision_config", "vision_config_dict", "projection_size",
    "quantization_config",
}  # fmt: skip


def with_dtype(config: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration of floats that says the dtype of the arrays, if they have one.

    Example:
      >>> with_dtype({"dtype": "float16"}, {"bias": jnp.zeros(3)})
      {'torch_dtype': 'float32'}
    """
    dtypes = {str(array.dtype) for array in arrays.values()}
    # The newer name of the dtype would count, and the arrays are no longer in mxfp4.
    entries = without(dict(config), "dtype", "quantization_config")
    if len(dtypes) == 1:
        entries["torch_dtype"] = dtypes.pop()
    return entries


def without(entries: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return entries without some.

    Example:
      >>> without({"a": 1, "b": 2}, "b")
      {'a': 1}
    """
    return {name: value for name, value in entries.items() if name not in names}
