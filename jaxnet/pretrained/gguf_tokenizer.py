"""The tokenizer in a file of llama.cpp."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from jaxnet.pretrained.gguf import opened
from jaxnet.pretrained.words import Words
from jaxnet.services.files import readable

LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How llama.cpp's names of tokenizers divide a text before pairs of bytes are joined.
DIGITS = "digits"
DIVIDED = {
    "gpt-2": None,
    "smollm": DIGITS,
    "qwen2": LETTERS.replace("DIGITS", r"\p{N}"),
    "llama-bpe": LETTERS.replace("DIGITS", r"\p{N}{1,3}"),
}
# Names of special tokens -> their names in a file of llama.cpp.
ROLES = {
    "bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown",
}  # fmt: skip
ENDS = ("eos", "eot", "eom")  # of a text, of a turn, of a message
CONTROL = 3  # type of special tokens


def read_gguf_words(who: str, place: Path, tokenizers: Any) -> Words:
    """Return the tokenizer of a file, its special tokens and its chat template.

    Raises:
      ImportError: If gguf is not installed.
      OSError: If the file cannot be read.
      ValueError: If its tokenizer is not of a known kind.
    """
    fields = entries(who, place)
    kind, divided = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or divided not in DIVIDED:
        raise ValueError(
            f"{who}: {place}: the tokenizer must join pairs of bytes (gpt2) of texts divided as by "
            f"{', '.join(DIVIDED)}, got {kind!r} and {divided!r}"
        )
    tokens = fields["tokenizer.ggml.tokens"]
    special, stops = {}, set()
    for role, name in ROLES.items():
        id_ = fields.get(f"tokenizer.ggml.{name}_token_id")
        if id_ is not None:
            special[role] = tokens[id_]
    for name in ENDS:
        id_ = fields.get(f"tokenizer.ggml.{name}_token_id")
        if id_ is not None:
            stops.add(int(id_))
    template = fields.get("tokenizer.chat_template")
    return Words(
        place=place,
        library=_library(fields, tokens, DIVIDED[divided], tokenizers),
        special=special,
        templates={"default": template} if isinstance(template, str) else {},
        stop_ids=frozenset(stops),
        cleans=False,
    )


def _library(fields: dict[str, Any], tokens: list[str], divided: Any, tokenizers: Any) -> Any:
    ids = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ids, pairs))
    library.pre_tokenizer = _divider(tokenizers, divided)
    library.decoder = tokenizers.decoders.ByteLevel()
    types = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    library.add_special_tokens([token for token, type_ in types if type_ == CONTROL])
    return library


def entries(who: str, place: Path) -> dict[str, Any]:
    """Return the entries of a file of llama.cpp, of which it takes seconds to read the words."""
    return _cached_entries(who, place, readable(who, place).stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _cached_entries(who: str, place: Path, changed: int) -> dict[str, Any]:
    return opened(who, place)[0]


def _divider(tokenizers: Any, pattern: str | None) -> Any:
    """Return what divides a text before pairs of bytes are joined.

    Args:
      tokenizers: The package.
      pattern: A value of `DIVIDED`.
    """
    before = tokenizers.pre_tokenizers
    steps: list[Any] = []
    if pattern == DIGITS:
        steps.append(before.Digits(individual_digits=True))
    elif pattern is not None:
        steps.append(before.Split(tokenizers.Regex(pattern), "isolated"))
    usual = pattern in (None, DIGITS)  # the expression of GPT-2
    steps.append(before.ByteLevel(add_prefix_space=False, use_regex=usual))
    return before.Sequence(steps)
