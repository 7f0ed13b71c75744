"""The families of published models by their model_type, and the options of a decoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnet.interop.names import Source
from jaxnet.pretrained import convnext, decoders, encoders, modernbert, pairs, t5, vision, whisper
from jaxnet.pretrained.config import complete
from jaxnet.services.checks import check_type

FAMILIES = (
    decoders.FAMILIES
    | encoders.FAMILIES
    | t5.FAMILIES
    | vision.FAMILIES
    | pairs.FAMILIES
    | whisper.FAMILIES
    | modernbert.FAMILIES
    | convnext.FAMILIES
)


def decoder_config(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `decoder` for a published model, from its config.json.

    It knows Llama, SmolLM2 and 3, Mistral, Mixtral, Qwen 2 and 3 (with experts too), Gemma 2 and 3
    (text), OLMo 2 and 3, Phi-3 and Phi-4 mini, Granite 3, GPT-2 and gpt-oss. An entry that is left
    out has the family's own default, as in the package transformers.

    With LongRoPE, as in Phi-4 mini, and with dynamic scaling, the rotations depend on the length
    that a sequence has reached. In a stream these are those of each chunk. When a text passes the
    original length of LongRoPE, the net of `jn.pretrained.load` computes the keys that it keeps
    again, as transformers does.

    Args:
      config: Path of the file, or its contents as a dict.

    Returns:
      Keyword arguments of `decoder`.

    Raises:
      OSError: If the file is missing.
      ValueError: If the file is not a config, or the model_type is not known.
      ValueError: If an entry is unknown, damaged, or has a value that `decoder` cannot compute.

    Example:
      >>> config = {
      ...     "model_type": "llama", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2,
      ...     "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 16,
      ...     "rms_norm_eps": 1e-5, "rope_theta": 5e5, "tie_word_embeddings": True,
      ... }
      >>> options = decoder_config(config)
      >>> options["kv_heads"], options["epsilon"], options["tied"]
      (2, 1e-05, True)
      >>> net = jn.models.decoder(**options)
    """
    checked = complete("decoder_config", config, decoders.FAMILIES)
    return decoders.FAMILIES[checked.family].options(checked)


def decoder_table(
    config: str | Path | Mapping[str, Any], *, prefix: str | None = None
) -> dict[str, Source]:
    """Return the table of names of a published language model, for `by_names` and `to_names`.

    Args:
      config: Config, as in `jaxnet.pretrained.decoder_config`.
      prefix: Beginning of all names but the head's; None uses the prefix of the package
        transformers, "model." or "transformer.".

    Returns:
      Dict of path -> name, or (name, functions).

    Raises:
      OSError, TypeError, ValueError: As in `jaxnet.pretrained.decoder_config`.

    Example:
      >>> config = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2}
      >>> decoder_table(config)["block_{i}/mlp_in/kernel"]
      'transformer.h.{i}.mlp.c_fc.weight'
    """
    check_type("decoder_table", "prefix", prefix, str | None, "a str or None")
    checked = complete("decoder_table", config, decoders.FAMILIES)
    how = decoders.FAMILIES[checked.family].stored(checked, None)
    return decoders.rows(checked, how if prefix is None else how._replace(prefix=prefix))
