"""The files of a model's tokenizer, from a folder or a file of llama.cpp."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.pretrained.gguf import reading
from jaxnet.pretrained.gguf_tokenizer import read_gguf_words
from jaxnet.pretrained.words import Words
from jaxnet.services.checks import check_type, is_integer
from jaxnet.services.extras import extra
from jaxnet.services.files import exists, readable
from jaxnet.services.json_text import parse_json

# The special tokens that every tokenizer may name, in the order in which they are added.
NAMED = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
LARGEST = 2**24  # ids; `tokenizers` aborts the program if it runs out of memory
MOST_BYTES = 2**28  # of a file; the largest that are published have 34 MB
MOST_GROWTH = 64  # letters that the replacements of a normalizer may make of one
LONGEST_PREFIX = 1000  # letters that a normalizer puts before a text
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read_words(who: str, place: Path) -> Words:
    """Return the tokenizer in a folder, or in a file of llama.cpp.

    Raises:
      ImportError: If tokenizers is not installed.
      OSError: If a file is missing or cannot be read.
      ValueError: If it has no tokenizer of a known kind.
    """
    tokenizers = extra("tokenizers", "tokenizers", who, "pretrained")
    with reading(who, place), panics():
        if place.suffix == ".gguf":
            words = read_gguf_words(who, place, tokenizers)
        else:
            words = _read_folder(who, place, tokenizers)
        words.library.no_padding()
        words.library.no_truncation()
    return words


@contextmanager
def panics() -> Iterator[None]:
    """Raise a panic of a library in Rust, which is no Exception, as one."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the library fails: {error!s:.200}") from None


def _read_folder(who: str, folder: Path, tokenizers: Any) -> Words:
    text = _small_enough(who, folder / "tokenizer.json")
    contents = parse_json(text)
    check_contents(f"{who}: {folder / 'tokenizer.json'}", contents)
    library = tokenizers.Tokenizer.from_str(text.decode("utf-8"))
    settings = _settings(who, folder)
    special = _special_tokens(settings)
    _add_tokens(library, settings, special, tokenizers)
    library.encode_special_tokens = settings.get("split_special_tokens") is True
    even_pairs = settings.get(
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    )
    cleans = settings.get("clean_up_tokenization_spaces") is True
    pairs = contents["model"].get("type", "BPE") == "BPE"
    return Words(
        place=folder,
        library=library,
        special={name: token.content for name, token in special.items()},
        templates=_templates(who, folder, settings),
        stop_ids=_stop_ids(who, folder),
        cleans=cleans and (not pairs or even_pairs is True),
    )


def _small_enough(who: str, file: Path) -> bytes:
    size = readable(who, file).stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{who}: {file} must have at most {MOST_BYTES} bytes, got {size}")
    return file.read_bytes()


def _json_of(who: str, file: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one if there is no file."""
    entries = parse_json(_small_enough(who, file)) if exists(who, file) else {}
    check_type(who, file.name, entries, dict, "an object")
    return entries


def _settings(who: str, folder: Path) -> dict[str, Any]:
    """Return the entries of tokenizer_config.json and of the older files next to it."""
    settings = _json_of(who, folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in settings:
        settings |= _json_of(who, folder / "special_tokens_map.json")
        added = _json_of(who, folder / "added_tokens.json")
        settings["added_tokens"] = added
    return settings


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the special tokens that have names, with their flags."""
    further = {name: entry for name, entry in settings.items() if name.endswith("_token")}
    extra_ones = settings.get("extra_special_tokens")
    if isinstance(extra_ones, dict):
        further |= extra_ones
    names = [*NAMED, *(name for name in further if name not in NAMED)]
    found = {name: added_token(further.get(name)) for name in names}
    return {name: token for name, token in found.items() if token is not None}


def added_token(entry: Any) -> Any:
    """Return a token that is written as a text, or as a dict with its flags; None for neither."""
    from tokenizers import AddedToken

    if isinstance(entry, str):
        return AddedToken(entry, special=True)
    if isinstance(entry, dict) and isinstance(entry.get("content"), str):
        flags = {name: entry[name] is True for name in FLAGS if name in entry}
        return AddedToken(entry["content"], **flags)
    return None


def _add_tokens(
    library: Any, settings: Mapping[str, Any], special: dict[str, Any], tokenizers: Any
) -> None:
    """Add the tokens of tokenizer_config.json that tokenizer.json lacks, as `transformers` does."""
    known = library.get_added_tokens_decoder()
    by_word = {token.content: token for token in known.values()}
    tokens = []
    decoder = settings.get("added_tokens_decoder") or {}
    check_type("tokenizer", "added_tokens_decoder", decoder, dict, "an object")
    listed = {int(id_): added_token(entry) for id_, entry in decoder.items()}
    for word, id_ in (settings.get("added_tokens") or {}).items():
        is_special = word in {token.content for token in special.values()}
        listed[int(id_)] = tokenizers.AddedToken(
            word, normalized=not is_special, special=is_special
        )
    if decoder:
        by_word = {}
    by_word |= {token.content: token for token in listed.values() if token is not None}
    for name, token in special.items():
        special[name] = by_word.get(token.content, token)
    there = {repr(token) for token in known.values()}
    for _, token in sorted(listed.items()):
        if token is not None and repr(token) not in there:
            tokens.append(token)
    words = {token.content for token in [*known.values(), *tokens]}
    also = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    more = [added_token(entry) for entry in also] if isinstance(also, list) else []
    for token in [*special.values(), *more]:
        if token is not None and token.content not in words:
            tokens.append(token)
            words.add(token.content)
    named = {token.content for token in special.values()}
    for token in tokens:
        token.special = token.special or token.content in named
    library.add_tokens(tokens)


def _templates(who: str, folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the chat templates by name; files have priority over tokenizer_config.json."""
    named = {}
    file, further = folder / "chat_template.jinja", folder / "additional_chat_templates"
    if exists(who, file):
        named["default"] = file
    if further.is_dir():
        named |= {path.stem: path for path in sorted(further.glob("*.jinja"))}
    if named:
        return {name: _small_enough(who, path).decode("utf-8") for name, path in named.items()}
    entry = settings.get("chat_template")
    if isinstance(entry, list):
        entry = {each["name"]: each["template"] for each in entry}
    templates = {"default": entry} if isinstance(entry, str) else entry or {}
    for name, template in templates.items():
        check_type(who, f"the chat template {name!r}", template, str, "a text")
    return templates


def _stop_ids(who: str, folder: Path) -> frozenset[int]:
    """Return the ids that end a text, as generation_config.json and config.json say."""
    found: set[int] = set()
    config = _json_of(who, folder / "config.json")
    inside = config.get("text_config")
    generation = _json_of(who, folder / "generation_config.json")
    for entries in (generation, config, inside if isinstance(inside, dict) else {}):
        ids = entries.get("eos_token_id")
        ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
        for id_ in ids:
            if not is_integer(id_) or id_ >= 2**31:
                raise ValueError(f"{who}: {folder}: eos_token_id must be ids, got {id_!r:.60}")
        found.update(id_ for id_ in ids if id_ >= 0)
    return frozenset(found)


# A small look at tokenizer.json, before the library gets it.


def check_contents(where: str, contents: Any) -> None:
    """Raise for contents that end the process, or that take all memory.

    Args:
      where: Function and file, for messages.
      contents: What tokenizer.json holds.

    Raises:
      TypeError, ValueError: If the library must not get it.
    """
    check_type(where, "the file", contents, dict, "an object")
    model = contents.get("model")
    check_type(where, "model", model, dict, "an object")
    vocabulary = model.get("vocab")
    check_type(where, "vocab", vocabulary, dict | list, "ids by token, or a list")
    if isinstance(vocabulary, dict):
        _check_ids(where, vocabulary.values())
    added = contents.get("added_tokens") or []
    check_type(where, "added_tokens", added, list, "a list")
    _check_ids(where, [token["id"] for token in added])
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        _check_growth(where, part, _steps(contents.get(part)))


def _check_ids(where: str, ids: Any) -> None:
    for id_ in ids:
        if not is_integer(id_) or not 0 <= id_ < LARGEST:
            raise ValueError(f"{where}: ids must be integers in [0, {LARGEST}), got {id_!r:.60}")


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part of a tokenizer, in their order."""
    left = [part]
    while left:
        step = left.pop()
        if not isinstance(step, dict):
            continue
        yield step
        for inside in ("normalizers", "pretokenizers", "decoders"):
            if isinstance(step.get(inside), list):
                left.extend(reversed(step[inside]))


def _check_growth(where: str, part: str, steps: Iterator[dict[str, Any]]) -> None:
    growth = 1.0
    for step in steps:
        if step.get("type") == "Precompiled":
            _check_charsmap(where, step.get("precompiled_charsmap"))
        prefix = step.get("prepend")
        if isinstance(prefix, str) and len(prefix) > LONGEST_PREFIX:
            raise ValueError(
                f"{where}: {part} must put at most {LONGEST_PREFIX} letters before a text, got "
                f"{len(prefix)}"
            )
        content = step.get("content") if step.get("type") == "Replace" else None
        if isinstance(content, str):
            pattern = step.get("pattern")
            plain = pattern.get("String") if isinstance(pattern, dict) else None
            replaced = len(plain) if isinstance(plain, str) and plain else 1
            growth *= max(1.0, len(content) / replaced)
    if growth > MOST_GROWTH:
        raise ValueError(
            f"{where}: the replacements of {part} must make at most {MOST_GROWTH} letters of one, "
            f"got {growth:.3g}"
        )


def _check_charsmap(where: str, encoded: Any) -> None:
    """Raise unless a map of letters of SentencePiece is whole: a tree, then its texts."""
    try:
        data = base64.b64decode(encoded or "", validate=True)
    except (TypeError, ValueError, binascii.Error):
        data = b"?"
    size = int.from_bytes(data[:4], "little")
    whole = not data or (len(data) >= 4 and size % 4 == 0 and 4 + size <= len(data))
    if not whole:
        raise ValueError(f"{where}: precompiled_charsmap is damaged")
    if size:
        _check_tree(where, data[4 : 4 + size], len(data) - 4 - size)


def _check_tree(where: str, tree: bytes, letters: int) -> None:
    """Raise if a place in the tree is outside of the tree, or a text outside of the texts."""
    units = np.frombuffer(tree, "<u4").astype(np.int64)
    leaf = units >> 31 == 1
    if (units[leaf] & 0x7FFFFFFF).max(initial=0) >= max(letters, 1):
        raise ValueError(f"{where}: precompiled_charsmap names a text that it lacks")
