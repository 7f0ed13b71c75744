"""The words of a published language model: its tokenizer, and how a chat is written for it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet.core import Layer, Params
from jaxnet.data import Vocabulary
from jaxnet.decoding import iterate
from jaxnet.pretrained.gguf import opened, reading
from jaxnet.pretrained.source import place_of
from jaxnet.services.checks import check_list, check_options, check_type
from jaxnet.services.extras import extra
from jaxnet.services.files import exists, readable
from jaxnet.services.json_text import parse_json

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
# Our names of special tokens -> names in tokenizer_config.json, and in a file of llama.cpp.
ROLES = {"end": "eos_token", "start": "bos_token", "pad": "pad_token", "unknown": "unk_token"}
GGUF_ROLES = {"end": "eos", "start": "bos", "pad": "padding", "unknown": "unknown"}
CONTROL = 3  # type of special tokens in a file of llama.cpp


def tokenizer(source: str | Path) -> Vocabulary:
    """Return the tokenizer of a published model, as a vocabulary.

    Args:
      source: As in `load`.

    Returns:
      A `jn.data.Vocabulary`: encode, decode, and the ids of the special tokens.

    Raises:
      ImportError: If tokenizers is not installed.
      OSError: If a file is missing or cannot be read.
      ValueError: If the model has no tokenizer of a known kind.

    Example:
      >>> words = tokenizer("HuggingFaceTB/SmolLM2-135M")  # doctest: +SKIP
      >>> words.decode(words.encode("The capital of France"))  # doctest: +SKIP
      'The capital of France'
    """
    return vocabulary("tokenizer", place_of("tokenizer", source))


def chat(source: str | Path, messages: Any, *, reply: bool = True) -> str:
    """Return messages as the text that a published model expects, by its chat template.

    The template is a program in jinja2; it runs in jinja2's sandbox.

    Args:
      source: As in `load`.
      messages: A text, or a list of dicts {"role": "user", "content": text}.
      reply: Whether the text ends where the model's reply begins.

    Returns:
      The text to encode.

    Raises:
      ImportError: If jinja2 is not installed.
      ValueError: If the model has no chat template, or it refuses the messages.

    Example:
      >>> chat("HuggingFaceTB/SmolLM2-135M-Instruct", "Name three rivers.")  # doctest: +SKIP
    """
    check_options("chat", reply=reply)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    check_type("chat", "messages", messages, list | tuple, "a text or a list of dicts")
    return rendered("chat", place_of("chat", source), messages, reply)


def write(
    net: Layer,
    params: Params,
    words: Vocabulary,
    prompt: str,
    key: jax.Array | None = None,
    *,
    stop: Sequence[str] = (),
    **options: Any,
) -> Iterator[str]:
    """Yield the text that a language model writes after a prompt, piece by piece.

    A piece has whole letters, although a token may be half of one. The end token of the vocabulary
    ends the text.

    Args:
      net, params, key: As in `jn.decoding.generate`.
      words: Vocabulary of the model, see `tokenizer`.
      prompt: Text.
      stop: Texts that end it, in whatever tokens they are written.
      options: Options of `jn.decoding.iterate`, such as length and temperature.

    Returns:
      An iterator of texts.

    Raises:
      TypeError, ValueError: As in `jn.decoding.iterate`.

    Example:
      >>> words = jn.data.characters("abc. ")
      >>> net = jn.serial(jn.embedding(words.size, 8), jn.gru(8), jn.dense(words.size))
      >>> params, _ = net.init(jax.random.key(0), jn.spec((1, 4), jnp.int32))
      >>> text = "".join(write(net, params, words, "a", length=9, temperature=0, stop=["."]))
      >>> "." in text
      False
    """
    stop = check_list("write", "stop", stop, "str")
    for word in stop:
        check_type("write", "stop", word, str, "a list of str")
    if not callable(getattr(words, "encode", None)):
        raise TypeError(
            f"write: words must be a vocabulary, as of jn.pretrained.tokenizer(source), got a "
            f"{type(words).__name__}"
        )
    ids = words.encode(prompt)
    if words.end is not None:
        options = {"stop": words.end} | options
    tokens = iterate(net, params, [ids], key, **options)
    return pieces(words.decode, stop, (int(token[0]) for token in tokens))


def vocabulary(who: str, place: Path) -> Vocabulary:
    """Return the vocabulary of the files in a folder, or of a file of llama.cpp.

    Raises:
      ImportError: If tokenizers is not installed.
      OSError: If a file is missing or cannot be read.
      ValueError: If it has no tokenizer of a known kind.
    """
    tokenizers = extra("tokenizers", "tokenizers", who, "pretrained")
    with reading(who, place):
        if place.suffix == ".gguf":
            tokenizer, named = _of_llama_cpp(who, place, tokenizers)
        else:
            tokenizer = tokenizers.Tokenizer.from_str(
                readable(who, place / "tokenizer.json").read_text("utf-8")
            )
            settings = _settings(who, place)
            named = {role: _word(settings.get(name)) for role, name in ROLES.items()}
        tokenizer.no_padding()
        tokenizer.no_truncation()
        special: dict[str, int] = {}
        for role, word in named.items():
            id_ = tokenizer.token_to_id(word) if word else None
            if id_ is not None:
                special[role] = id_
        largest = max(tokenizer.get_vocab().values(), default=0)
        if largest >= 2**31:
            raise ValueError(f"{who}: {place}: the ids must be below 2**31, got {largest}")

    def encode(text: str) -> np.ndarray:
        return np.array(tokenizer.encode(text).ids, np.int32)

    def decode(ids: Any) -> str:
        ids = np.asarray(ids).tolist()
        if special.get("end") in ids:
            ids = ids[: ids.index(special["end"])]
        return tokenizer.decode(ids, skip_special_tokens=True)

    contents = {"tokenizer": tokenizer.to_str()}
    return Vocabulary(tokenizer.get_vocab_size(), encode, decode, special, contents)


def template(who: str, place: Path) -> tuple[str, dict[str, str]]:
    """Return the chat template of a model, and the tokens that it may name.

    Raises:
      ValueError: If it has none.
    """
    if place.suffix == ".gguf":
        fields = _entries(who, place)
        tokens = fields["tokenizer.ggml.tokens"]
        named = {}
        for role in ("bos", "eos"):
            id_ = fields.get(f"tokenizer.ggml.{role}_token_id")
            if id_ is not None:
                named[f"{role}_token"] = tokens[id_]
        text = fields.get("tokenizer.chat_template")
    else:
        settings = _settings(who, place)
        file = place / "chat_template.jinja"
        named = {name: _word(settings.get(name)) or "" for name in ROLES.values()}
        text = settings.get("chat_template")
        if exists(who, file):
            text = readable(who, file).read_text("utf-8")
    if not isinstance(text, str):
        raise ValueError(f"{who}: {place} has no chat template; write the prompt yourself")
    return text, named


def rendered(who: str, place: Path, messages: Sequence[Mapping[str, str]], reply: bool) -> str:
    """Return messages as the model's template writes them; it is run in jinja2's sandbox."""
    extra("jinja2", "jinja2", who, "pretrained")
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    with reading(who, place):
        text, named = template(who, place)
    world = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    world.globals["raise_exception"] = _refuse
    try:
        compiled = world.from_string(text)
        return compiled.render(messages=messages, add_generation_prompt=reply, **named)
    except Exception as error:  # of a program of strangers
        raise ValueError(f"{who}: the chat template of {place} fails: {error}") from None


def _refuse(words: str) -> None:
    raise ValueError(words)


def _entries(who: str, place: Path) -> dict[str, Any]:
    """Return the entries of a file of llama.cpp, of which it takes seconds to read the words."""
    return _cached_entries(who, place, readable(who, place).stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _cached_entries(who: str, place: Path, changed: int) -> dict[str, Any]:
    return opened(who, place)[0]


def _settings(who: str, place: Path) -> dict[str, Any]:
    file = place / "tokenizer_config.json"
    settings = parse_json(readable(who, file).read_bytes()) if exists(who, file) else {}
    check_type(who, file.name, settings, dict, "an object")
    return settings


def _word(entry: Any) -> str | None:
    return entry.get("content") if isinstance(entry, dict) else entry


def _of_llama_cpp(who: str, place: Path, tokenizers: Any) -> tuple[Any, dict[str, Any]]:
    """Return the tokenizer in a file of llama.cpp, and its special tokens by role."""
    fields = _entries(who, place)
    kind, divided = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != "gpt2" or divided not in DIVIDED:
        raise ValueError(
            f"{who}: {place}: the tokenizer must join pairs of bytes (gpt2) of texts divided as by "
            f"{', '.join(DIVIDED)}, got {kind!r} and {divided!r}"
        )
    tokens = fields["tokenizer.ggml.tokens"]
    ids = {token: i for i, token in enumerate(tokens)}
    pairs = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ids, pairs))
    tokenizer.pre_tokenizer = _divider(tokenizers, DIVIDED[divided])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    types = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens([token for token, type_ in types if type_ == CONTROL])
    named = {}
    for role, name in GGUF_ROLES.items():
        id_ = fields.get(f"tokenizer.ggml.{name}_token_id")
        if id_ is not None:
            named[role] = tokens[id_]
    return tokenizer, named


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
    ids: list[int] = []
    told = 0  # letters that are yielded
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        ends = [text.find(word) for word in stop if word in text]
        if ends:
            yield text[told : min(ends)]
            return
        if text.endswith("\ufffd"):  # half a letter
            continue
        ready = len(text) - _beginning_of(stop, text)
        if ready > told:
            yield text[told:ready]
            told = ready
    if rest := decode(ids)[told:].rstrip("\ufffd"):
        yield rest


def _beginning_of(stop: Sequence[str], text: str) -> int:
    """Return how many letters at the end of a text may be the beginning of a stop."""
    longest = max(map(len, stop), default=0)
    for count in range(longest, 0, -1):
        if any(word[:count] == text[-count:] for word in stop):
            return count
    return 0
