"""Vocabularies of characters and subwords, which convert text to integers and back.

A vocabulary is built from one text and encodes any other; it can be saved to a JSON file. For
batches of encoded texts of different lengths see `jaxnet.data.sequences`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.services.checks import between, check_list, check_text, check_type, on_host
from jaxnet.services.extras import extra
from jaxnet.services.files import readable, replace_file
from jaxnet.services.json_text import parse_json

KINDS = ("characters", "subwords")
SPECIAL = ("pad", "start", "end", "unknown")
LARGEST = 2**24  # ids of subwords; `tokenizers` aborts the program if it runs out of memory
_LOST = "\N{REPLACEMENT CHARACTER}"
"""The character that stands for an unknown one in decoded text."""


class Vocabulary(NamedTuple):
    """A mapping between text and ids, see `characters` and `subwords`.

    Fields:
      size: Number of ids, which are 0 to size - 1; the special entries come first.
      encode: Function from text to ids, int32 (length,), without start and end.
      decode: Function from ids (length,) to text, up to the first end, without pads and starts; an
        unknown becomes U+FFFD.
      special: Dict from names of the special entries, of "pad", "start", "end", "unknown", to ids.
      contents: Vocabulary as JSON types.

    Attributes:
      pad, start, end, unknown: Ids of the special entries; None if the vocabulary lacks an entry.
    """

    size: int
    encode: Callable[[str], np.ndarray]
    decode: Callable[[Any], str]
    special: dict[str, int]
    contents: dict[str, Any]

    def __repr__(self) -> str:
        kind = self.contents.get("vocabulary", "words")
        special = f", special: {', '.join(self.special)}" if self.special else ""
        return f"Vocabulary({self.size} ids of {kind}{special})"

    @property
    def pad(self) -> int | None:
        return self.special.get("pad")

    @property
    def start(self) -> int | None:
        return self.special.get("start")

    @property
    def end(self) -> int | None:
        return self.special.get("end")

    @property
    def unknown(self) -> int | None:
        return self.special.get("unknown")

    def save(self, path: str | Path) -> None:
        """Write a JSON file for `load`, whole or not at all; see `jn.save`.

        Raises:
          OSError: If the file cannot be written.
          ValueError: If `contents` are not those of `characters` or `subwords`.
        """
        if not isinstance(self.contents, dict) or self.contents.get("vocabulary") not in KINDS:
            raise ValueError(
                "Vocabulary.save: contents must be those of characters or subwords, which load "
                f"reads, got {self.contents!r:.60}"
            )
        replace_file("Vocabulary.save", path, json.dumps(self.contents).encode())

    @staticmethod
    def load(path: str | Path) -> "Vocabulary":
        """Read a vocabulary from a file of `save`.

        Args:
          path: Path of the file.

        Raises:
          FileNotFoundError: If the file does not exist.
          IsADirectoryError: If `path` is a directory.
          OSError: If the file cannot be read.
          ValueError: If the file has a different format.
          ImportError: If the vocabulary has subwords and `tokenizers` is not installed.

        Example:
          >>> import tempfile
          >>> file = f"{tempfile.mkdtemp()}/letters.json"
          >>> characters("to be").save(file)
          >>> Vocabulary.load(file).encode("bet")
          array([1, 2, 4], dtype=int32)
        """
        path = readable("Vocabulary.load", path)
        try:
            contents = parse_json(path.read_bytes())
            kind = contents["vocabulary"]
            special = _checked_special(contents["special"], SPECIAL, "Vocabulary.load")
            if kind == "characters":
                alphabet = contents["characters"]
                if not alphabet or alphabet != "".join(sorted(set(alphabet))):
                    raise ValueError("the characters must be different and in order")
                return _characters(alphabet, special)
            if kind != "subwords":
                raise ValueError(f"'vocabulary' must be characters or subwords, got {kind!r}")
            tokenizer = json.dumps(contents["tokenizer"])
            return _subwords(_import_tokenizers().Tokenizer.from_str(tokenizer), special)
        except ImportError:
            raise
        except Exception as error:  # `tokenizers` raises a plain Exception for a broken file
            raise ValueError(
                f"Vocabulary.load: {path} is not a file of Vocabulary.save: {error!r}"
            ) from error


def characters(text: str, *, special: Sequence[str] = ()) -> Vocabulary:
    """Return a vocabulary of the characters of a text, in the order of their code points.

    Args:
      text: Source of the characters, such as the training text.
      special: Special entries, of "pad", "start", "end" and "unknown", in the order of their ids
        from 0. Other characters are encoded as "unknown"; without it they raise.

    Returns:
      A `Vocabulary`, whose `encode` and `decode` map texts to integers and back.

    Raises:
      TypeError: If `text` is not a str.
      ValueError: If `text` is empty, or if `special` has another entry.
      ValueError: If `encode` gets an unknown character.
      ValueError: If `decode` gets an id out of range.

    Example:
      >>> vocabulary = characters("to be, or not")
      >>> vocabulary.size, vocabulary.encode("tor")
      (8, array([7, 5, 6], dtype=int32))
      >>> vocabulary.decode([2, 3, 3])
      'bee'
      >>> vocabulary.encode("to bed")
      Traceback (most recent call last):
      ...
      ValueError: encode: 'd' (index 5) is not in the vocabulary of 8 characters; ...
      >>> vocabulary = characters("to be", special=("pad", "unknown"))
      >>> vocabulary.encode("bed"), vocabulary.pad, vocabulary.start
      (array([3, 4, 1], dtype=int32), 0, None)
    """
    check_type("characters", "text", text, str, "a str")
    if not text:
        raise ValueError("characters: expected a text, got an empty one")
    alphabet = "".join(sorted(set(text)))
    return _characters(alphabet, _checked_special(special, SPECIAL, "characters"))


def _characters(alphabet: str, special: dict[str, int]) -> Vocabulary:
    codes = _codes(alphabet)  # in order
    shift = len(special)
    size = len(codes) + shift

    def encode(text: str) -> np.ndarray:
        check_type("encode", "text", text, str, "a str")
        text_codes = _codes(text)
        places = np.searchsorted(codes, text_codes)
        in_vocabulary = codes[np.minimum(places, len(codes) - 1)] == text_codes
        if "unknown" not in special and not in_vocabulary.all():
            i = int(np.argmin(in_vocabulary))
            raise ValueError(
                f"encode: {text[i]!r} (index {i}) is not in the vocabulary of {len(codes)} "
                'characters; build it from a text with this character, or pass special=("unknown",)'
            )
        ids = np.where(in_vocabulary, places + shift, special.get("unknown", 0))
        return ids.astype(np.int32)

    letters = np.concatenate([np.full(shift, ord(_LOST), np.uint32), codes])

    def decode(ids: Any) -> str:
        text_ids = _text_ids(ids, size, special)
        encoded = letters[text_ids].astype("<u4").tobytes()
        return encoded.decode("utf-32-le", "surrogatepass")

    contents = {"vocabulary": "characters", "special": list(special), "characters": alphabet}
    return Vocabulary(size, encode, decode, special, contents)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def subwords(
    sentences: Iterable[str], size: int, *, special: Sequence[str] = ("pad", "start", "end")
) -> Vocabulary:
    """Return a vocabulary of subwords, by byte-level byte-pair encoding of `tokenizers`.

    The smallest units are the 256 bytes, so every text is encoded and decoded without loss. A space
    belongs to the word after it.

    Args:
      sentences: Sentences of the training text.
      size: Number of ids, at least 256 + special entries and at most 2**24; few sentences may give
        fewer.
      special: Special entries, of "pad", "start" and "end", in the order of their ids from 0.

    Returns:
      A `Vocabulary`, whose `encode` and `decode` map texts to integers and back.

    Raises:
      ImportError: If `tokenizers` is not installed.
      TypeError: If `sentences` is not a list of str.
      ValueError: If `size` is out of range.
      ValueError: If `sentences` is empty, or if `special` has another entry.

    Example:
      >>> vocabulary = subwords(["ein Hund läuft", "zwei Hunde laufen"] * 3, 280)
      >>> vocabulary.size, len(vocabulary.encode("ein Hund")), vocabulary.end
      (278, 2, 2)
      >>> vocabulary.decode(vocabulary.encode("eine Straße"))
      'eine Straße'

    Reference: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
    """
    tokenizers = _import_tokenizers()
    named = _checked_special(special, SPECIAL[:3], "subwords")
    what = f"size (256 bytes, {len(named)} special entries and the rest)"
    between("subwords", what, size, 256 + len(named), LARGEST)
    sentences = check_list("subwords", "sentences", sentences, "str")
    for i, sentence in enumerate(sentences):
        check_text("subwords", f"sentence {i}", sentence)
    if not any(sentences):
        raise ValueError("subwords: expected sentences, got none")
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[f"[{name}]" for name in named],
        initial_alphabet=sorted(byte_level.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    return _subwords(tokenizer, named)


def _subwords(tokenizer: Any, special: dict[str, int]) -> Vocabulary:
    tokenizer.encode_special_tokens = True  # a "[pad]" in a text is plain text
    size = tokenizer.get_vocab_size()

    def encode(text: str) -> np.ndarray:
        check_text("encode", "text", text)
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(ids: Any) -> str:
        text_ids = _text_ids(ids, size, special)
        return tokenizer.decode(text_ids.tolist(), skip_special_tokens=False)

    contents = {"vocabulary": "subwords", "special": list(special)}
    contents["tokenizer"] = parse_json(tokenizer.to_str())
    return Vocabulary(size, encode, decode, special, contents)


def _checked_special(names: Sequence[str], allowed: Sequence[str], who: str) -> dict[str, int]:
    fine = isinstance(names, list | tuple) and all(name in allowed for name in names)
    if not fine or len(set(names)) < len(names):
        raise ValueError(
            f"{who}: special must be a tuple of {', '.join(allowed)}, each at most once, "
            f"got {names!r}"
        )
    return {name: i for i, name in enumerate(names)}


def _text_ids(ids: Any, size: int, special: dict[str, int]) -> np.ndarray:
    """Return the ids of text up to the first end, without pads and starts."""
    ids = on_host("decode", "ids", ids, "(length,)", "integers").astype(np.int64)
    wrong = ids[(ids < 0) | (ids >= size)]
    if wrong.size:
        raise ValueError(f"decode: ids must be in [0, {size}), got {wrong[0]}")
    if "end" in special and (ids == special["end"]).any():
        ids = ids[: np.argmax(ids == special["end"])]
    left_out = [special[name] for name in ("pad", "start") if name in special]
    return ids[~np.isin(ids, left_out)]


def _import_tokenizers() -> Any:
    for part in ("decoders", "models", "pre_tokenizers", "trainers"):
        extra(f"tokenizers.{part}", "tokenizers", "subwords", "text")
    return extra("tokenizers", "tokenizers", "subwords", "text")
