"""Text as integers and back: vocabularies of characters and of subwords.

A vocabulary is made from a text, encodes any other, and is written to a JSON file. What makes
batches of encoded texts of many lengths is in `jaxnet.data.sequences`.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SPECIAL = ("pad", "start", "end", "unknown")
LOST = "\N{REPLACEMENT CHARACTER}"  # what an unknown character is decoded to


class Vocabulary(NamedTuple):
    """What `characters`, `subwords` and `load_vocabulary` give.

    Fields:
      size: number of ids, which are 0 to size - 1; the special entries come first.
      encode: text -> ids, int32 (length,). It adds no start and no end.
      decode: ids (length,) -> text. What stands after the first end is left out, and so are pads
        and starts; an unknown becomes U+FFFD.
      special: name -> id of the entries that are no text, of "pad", "start", "end", "unknown".
      contents: the vocabulary in terms of JSON.

    Attributes:
      pad, start, end, unknown: ids of these entries, None where there is none.
    """

    size: int
    encode: Callable[[str], np.ndarray]
    decode: Callable[[Any], str]
    special: dict[str, int]
    contents: dict[str, Any]

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
        """Writes it as JSON; `load_vocabulary` reads it. Folders above the file are made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.contents), encoding="utf-8")


def characters(text: str, *, special: Sequence[str] = ()) -> Vocabulary:
    """One id for each character that the text has, in the order of their code points.

    Args:
      text: whose characters are the vocabulary, such as the training part.
      special: entries that are no text, of "pad", "start", "end" and "unknown", in the order of
        their ids from 0. With "unknown", other characters are encoded as that; without it they
        raise.

    Raises:
      ValueError: for no text, or another special entry; from `encode` for an unknown character,
        from `decode` for an id out of range.

    Example:
      >>> vocabulary = characters("to be, or not")
      >>> vocabulary.size, vocabulary.encode("tor")
      (8, array([7, 5, 6], dtype=int32))
      >>> vocabulary.decode([2, 3, 3])
      'bee'
      >>> vocabulary.encode("to bed")
      Traceback (most recent call last):
      ...
      ValueError: encode: 'd' (place 5) is not among the 8 characters of the vocabulary; ...
      >>> vocabulary = characters("to be", special=("pad", "unknown"))
      >>> vocabulary.encode("bed"), vocabulary.pad, vocabulary.start
      (array([3, 4, 1], dtype=int32), 0, None)
    """
    if not text:
        raise ValueError("characters: needs a text, got an empty one")
    return _characters("".join(sorted(set(text))), _checked_special(special, SPECIAL, "characters"))


def _characters(alphabet: str, special: dict[str, int]) -> Vocabulary:
    codes, shift = _codes(alphabet), len(special)  # in order
    size = len(codes) + shift

    def encode(text: str) -> np.ndarray:
        given = _codes(text)
        places = np.searchsorted(codes, given)
        known = codes[np.minimum(places, len(codes) - 1)] == given
        if "unknown" not in special and not known.all():
            i = int(np.argmin(known))
            raise ValueError(
                f"encode: {text[i]!r} (place {i}) is not among the {len(codes)} characters of the "
                'vocabulary; make it from a text that has it, or with special=("unknown",)'
            )
        return np.where(known, places + shift, special.get("unknown", 0)).astype(np.int32)

    letters = np.concatenate([np.full(shift, ord(LOST), np.uint32), codes])

    def decode(ids: Any) -> str:
        kept = _text_ids(ids, size, special)
        return letters[kept].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    contents = {"vocabulary": "characters", "special": list(special), "characters": alphabet}
    return Vocabulary(size, encode, decode, special, contents)


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def subwords(
    sentences: Iterable[str], size: int, *, special: Sequence[str] = ("pad", "start", "end")
) -> Vocabulary:
    """Frequent pieces of words, by byte-pair encoding of the library `tokenizers`.

    The smallest pieces are the 256 bytes, so any text can be encoded and comes back exactly: there
    is no unknown. A word in a sentence has the space before it as its first letter.

    Args:
      sentences: what the pieces are learned from, such as the training part.
      size: number of ids, at least 256 + special entries; few sentences may give fewer.
      special: entries that are no text, of "pad", "start" and "end", in the order of their ids
        from 0.

    Raises:
      ImportError: where `tokenizers` is not installed.
      ValueError: for a smaller size, no sentences, or another special entry.

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
    least = 256 + len(named)
    if size < least:
        raise ValueError(
            f"subwords: size must be at least {least}, 256 bytes and {len(named)} special entries, "
            f"got {size}"
        )
    sentences = list(sentences)
    if not any(sentences):
        raise ValueError("subwords: needs sentences to learn from, got none")
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
    tokenizer.encode_special_tokens = True  # a "[pad]" in a text is five characters
    size = tokenizer.get_vocab_size()

    def encode(text: str) -> np.ndarray:
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(ids: Any) -> str:
        return tokenizer.decode(_text_ids(ids, size, special).tolist(), skip_special_tokens=False)

    contents = {
        "vocabulary": "subwords",
        "special": list(special),
        "tokenizer": json.loads(tokenizer.to_str()),
    }
    return Vocabulary(size, encode, decode, special, contents)


def load_vocabulary(path: str | Path) -> Vocabulary:
    """The vocabulary that its `save` wrote.

    Args:
      path: of the file.

    Raises:
      FileNotFoundError: where there is none.
      ValueError: for a file of another kind.
      ImportError: for subwords where `tokenizers` is not installed.

    Example:
      >>> import tempfile
      >>> file = f"{tempfile.mkdtemp()}/letters.json"
      >>> characters("to be").save(file)
      >>> load_vocabulary(file).encode("bet")
      array([1, 2, 4], dtype=int32)
    """
    try:
        contents = json.loads(Path(path).read_text(encoding="utf-8"))
        kind, names = contents["vocabulary"], contents["special"]
        special = _checked_special(names, SPECIAL, "load_vocabulary")
        if kind == "characters":
            return _characters(contents["characters"], special)
        if kind != "subwords":
            raise ValueError(f"it is of the kind {kind!r}")
        words = json.dumps(contents["tokenizer"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"load_vocabulary: {path} is no vocabulary that save wrote: {error!r}"
        ) from error
    return _subwords(_import_tokenizers().Tokenizer.from_str(words), special)


def _checked_special(names: Sequence[str], known: Sequence[str], who: str) -> dict[str, int]:
    if isinstance(names, str) or set(names) - set(known) or len(set(names)) < len(names):
        raise ValueError(
            f"{who}: special must be a tuple of {', '.join(known)}, each at most once, "
            f"got {names!r}"
        )
    return {name: i for i, name in enumerate(names)}


def _text_ids(ids: Any, size: int, special: dict[str, int]) -> np.ndarray:
    """The ids that stand for text, up to the first end."""
    ids = np.asarray(ids)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(
            f"decode: needs the integers of one text, (length,), got {ids.shape} {ids.dtype}"
        )
    ids = ids.astype(np.int64)
    wrong = ids[(ids < 0) | (ids >= size)]
    if wrong.size:
        raise ValueError(f"decode: ids must be in [0, {size}), got {wrong[0]}")
    if "end" in special and (ids == special["end"]).any():
        ids = ids[: np.argmax(ids == special["end"])]
    silent = [special[name] for name in ("pad", "start") if name in special]
    return ids[~np.isin(ids, silent)]


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            f"subwords: needs the library tokenizers ({error}); "
            'install the extra jaxnet-toolkit[text]: in a checkout, pip install -e ".[text]"'
        ) from error
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.pre_tokenizers
    import tokenizers.trainers

    return tokenizers
