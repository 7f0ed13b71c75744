"""What a model's files say about its words."""

from pathlib import Path
from typing import Any, NamedTuple


class Words(NamedTuple):
    """A tokenizer, its special tokens and its chat templates, as a model's files have them.

    Fields:
      place: Folder, or file of llama.cpp.
      library: Tokenizer of the package tokenizers.
      special: Special tokens by their names, such as eos_token.
      templates: Chat templates by their names.
      stop_ids: Ids that the files name as ends of a text.
      cleans: Whether spaces before punctuation are removed from decoded texts.
    """

    place: Path
    library: Any
    special: dict[str, str]
    templates: dict[str, str]
    stop_ids: frozenset[int]
    cleans: bool
