"""Published models as data: a file for each kind of family.

A family says what its configurations may hold, which net they describe, and how its weights are
named. `jn.interop.load` reads a model by it, and `jn.interop.save` writes one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnet.models.published import (
    convnext,
    decoders,
    encoders,
    modernbert,
    pairs,
    t5,
    vision,
    whisper,
)
from jaxnet.models.published.config import complete as complete
from jaxnet.models.published.config import with_dtype as with_dtype
from jaxnet.models.published.integers import with_integers as with_integers

FAMILIES = decoders.FAMILIES | encoders.FAMILIES | t5.FAMILIES | vision.FAMILIES | pairs.FAMILIES
FAMILIES |= whisper.FAMILIES | modernbert.FAMILIES | convnext.FAMILIES


def decoder_config(config: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `decoder` for a published model, from its config.json.

    It knows Llama, SmolLM2 and 3, Mistral, Mixtral, Qwen 2 and 3 (with experts too), Gemma 2 and 3
    (text), OLMo 2 and 3, Phi-3 and Phi-4 mini, Granite 3, GPT-2 and gpt-oss. An entry that is left
    out has the family's own default, as in the package transformers.

    With LongRoPE, as in Phi-4 mini, the net takes sequences up to the original length. The net of
    `jn.interop.load` also takes longer ones, with the factors for long sequences. In a stream its
    `length` decides.

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
    found = complete("decoder_config", config, decoders.FAMILIES)
    return decoders.FAMILIES[found.family].options(found)
