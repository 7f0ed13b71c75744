"""The small files of a published model, which stay as they are when its weights are saved."""

import json
from pathlib import Path

from jaxnet.pretrained.tokenizer_files import MOST_BYTES, read_words
from jaxnet.services.files import exists, readable

# Files of tokenizers, templates, generation, and preprocessing.
NAMES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", "generation_config.json",
    "preprocessor_config.json", "processor_config.json", "normalizer.json",
    "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
)  # fmt: skip
INSIDE = "additional_chat_templates/*.jinja", "[0-9]*_*/config.json"  # of templates, of modules


def files_to_copy(who: str, place: Path) -> dict[str, bytes]:
    """Return the contents of the small files of a model by their names in its folder.

    Args:
      who: Name of the function, for messages.
      place: Folder, or a file of llama.cpp, whose tokenizer is written as `transformers` does.

    Raises:
      OSError: If a file cannot be read.
      ValueError: If a file is too large, or the tokenizer of a file is not known.
    """
    if place.suffix == ".gguf":
        return _of_gguf(who, place)
    paths = [place / name for name in NAMES if exists(who, place / name)]
    paths += sorted(path for pattern in INSIDE for path in place.glob(pattern))
    found = {}
    for path in paths:
        if readable(who, path).stat().st_size > MOST_BYTES:
            raise ValueError(f"{who}: {path} must have at most {MOST_BYTES} bytes")
        found[path.relative_to(place).as_posix()] = path.read_bytes()
    return found


def _of_gguf(who: str, place: Path) -> dict[str, bytes]:
    words = read_words(who, place)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **words.special}
    found = {
        "tokenizer.json": words.library.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings, indent=2).encode(),
    }
    if words.stop_ids:
        generation = {"eos_token_id": sorted(words.stop_ids)}
        found["generation_config.json"] = json.dumps(generation, indent=2).encode()
    for name, template in words.templates.items():
        further = f"additional_chat_templates/{name}.jinja"
        file = "chat_template.jinja" if name == "default" else further
        found[file] = template.encode()
    return found
