"""The words of a published language model: its tokenizer, and how a chat is written for it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.data import Vocabulary
from jaxnet.models.published.gguf import opened, reading
from jaxnet.services.checks import check_type
from jaxnet.services.extras import extra
from jaxnet.services.files import readable

LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How llama.cpp's names of tokenizers divide a text before pairs of bytes are joined.
DIVIDED = {
    "gpt-2": None, "smollm": "digits", "qwen2": LETTERS.replace("DIGITS", r"\p{N}"),
    "llama-bpe": LETTERS.replace("DIGITS", r"\p{N}{1,3}"),
}  # fmt: skip
ROLES = {"end": "eos_token", "start": "bos_token", "pad": "pad_token", "unknown": "unk_token"}


def vocabulary(who: str, place: Path) -> Vocabulary:
    """Return the vocabulary of the files in a folder, or of a file of llama.cpp.

    Raises:
      ImportError: If tokenizers is not installed.
      OSError: If a file is missing or cannot be read.
      ValueError: If it has no tokenizer of a known kind.
    """
    tokenizers = extra("tokenizers", "tokenizers", who, "published")
    with reading(who, place):
        if place.suffix == ".gguf":
            found, named = _of_llama_cpp(who, place, tokenizers)
        else:
            found = tokenizers.Tokenizer.from_str(
                readable(who, place / "tokenizer.json").read_text("utf-8")
            )
            settings = _settings(who, place)
            named = {role: _word(settings.get(name)) for role, name in ROLES.items()}
        found.no_padding()
        found.no_truncation()
        special = {role: found.token_to_id(word) for role, word in named.items() if word}
        special = {role: id_ for role, id_ in special.items() if id_ is not None}
        if (largest := max(found.get_vocab().values(), default=0)) >= 2**31:
            raise ValueError(f"{who}: {place}: the ids must be below 2**31, got {largest}")

    def encode(text: str) -> np.ndarray:
        return np.array(found.encode(text).ids, np.int32)

    def decode(ids: Any) -> str:
        ids = np.asarray(ids).tolist()
        if special.get("end") in ids:
            ids = ids[: ids.index(special["end"])]
        return found.decode(ids, skip_special_tokens=True)

    contents = {"tokenizer": found.to_str()}
    return Vocabulary(found.get_vocab_size(), encode, decode, special, contents)


def template(who: str, place: Path) -> tuple[str, dict[str, str]]:
    """Return the chat template of a model, and the tokens that it may name.

    Raises:
      ValueError: If it has none.
    """
    if place.suffix == ".gguf":
        fields = _entries(who, place)
        tokens = fields["tokenizer.ggml.tokens"]
        ids = {role: fields.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos")}
        named = {f"{role}_token": tokens[i] for role, i in ids.items() if i is not None}
        text = fields.get("tokenizer.chat_template")
    else:
        settings, file = _settings(who, place), place / "chat_template.jinja"
        named = {name: _word(settings.get(name)) or "" for name in ROLES.values()}
        text = settings.get("chat_template")
        if file.exists():
            text = readable(who, file).read_text("utf-8")
    if not isinstance(text, str):
        raise ValueError(f"{who}: {place} has no chat template; write the prompt yourself")
    return text, named


def rendered(who: str, place: Path, messages: Sequence[Mapping[str, str]], reply: bool) -> str:
    """Return messages as the model's template writes them; it is run in jinja2's sandbox."""
    extra("jinja2", "jinja2", who, "published")
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    with reading(who, place):
        text, named = template(who, place)
    world = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    world.globals["raise_exception"] = _refuse
    try:
        made = world.from_string(text)
        return made.render(messages=messages, add_generation_prompt=reply, **named)
    except Exception as error:  # of a program of strangers
        raise ValueError(f"{who}: the chat template of {place} fails: {error}") from None


def _refuse(words: str) -> None:
    raise ValueError(words)


def _entries(who: str, place: Path) -> dict[str, Any]:
    """Return the entries of a file of llama.cpp, of which it takes seconds to read the words."""
    return _kept(who, place, readable(who, place).stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _kept(who: str, place: Path, changed: int) -> dict[str, Any]:
    return opened(who, place)[0]


def _settings(who: str, place: Path) -> dict[str, Any]:
    file = place / "tokenizer_config.json"
    found = json.loads(readable(who, file).read_bytes()) if file.exists() else {}
    check_type(who, file.name, found, dict, "an object")
    return found


def _word(entry: Any) -> str | None:
    return entry.get("content") if isinstance(entry, dict) else entry


def _of_llama_cpp(who: str, place: Path, tokenizers: Any) -> tuple[Any, dict[str, Any]]:
    """Return the tokenizer in a file of llama.cpp, and its special tokens by role."""
    fields = _entries(who, place)
    kind, divided = (fields.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2" or divided not in DIVIDED:
        raise ValueError(
            f"{who}: {place}: the tokenizer must join pairs of bytes (gpt2) of texts divided as by "
            f"{', '.join(DIVIDED)}, got {kind!r} and {divided!r}"
        )
    tokens = fields["tokenizer.ggml.tokens"]
    pairs = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    ids = {token: i for i, token in enumerate(tokens)}
    found = tokenizers.Tokenizer(tokenizers.models.BPE(ids, pairs))
    before, pattern = tokenizers.pre_tokenizers, DIVIDED[divided]
    first: list[Any] = []
    if pattern == "digits":
        first = [before.Digits(individual_digits=True)]
    elif pattern:
        first = [before.Split(tokenizers.Regex(pattern), "isolated")]
    plain = pattern in (None, "digits")
    bytes_ = before.ByteLevel(add_prefix_space=False, use_regex=plain)
    found.pre_tokenizer = before.Sequence([*first, bytes_])
    found.decoder = tokenizers.decoders.ByteLevel()
    control = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    found.add_special_tokens([token for token, type_ in control if type_ == 3])
    roles = {"end": "eos", "start": "bos", "pad": "padding", "unknown": "unknown"}
    places = {role: fields.get(f"tokenizer.ggml.{name}_token_id") for role, name in roles.items()}
    return found, {role: tokens[i] for role, i in places.items() if i is not None}


def pieces(
    decode: Callable[[Any], str], stop: Sequence[str], tokens: Iterable[int]
) -> Iterator[str]:
    """Yield a text as it grows, in whole letters, up to the first of the words that stop it.

    Args:
      decode: Function from ids to text.
      stop: Texts, none of which is yielded, not even in part.
      tokens: Iterable of ids.

    Example:
      >>> "".join(pieces("".join, ["END"], iter("one, two ENDING")))
      'one, two '
    """
    ids, told = [], 0
    longest = max(map(len, stop), default=0)
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        ends = [text.find(word) for word in stop if word in text]
        if ends:
            yield text[told : min(ends)]
            return
        if text.endswith("\ufffd"):  # half a letter
            continue
        # What may be the beginning of a stop waits.
        held = next((n for n in range(longest, 0, -1) if any(w[:n] == text[-n:] for w in stop)), 0)
        if len(text) - held > told:
            yield text[told : len(text) - held]
            told = len(text) - held
    if rest := decode(ids)[told:].rstrip("\ufffd"):
        yield rest
