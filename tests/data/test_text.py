"""Vocabularies: there and back, what is unknown, the special entries, files."""

import json
import os

import numpy as np
import pytest

from jaxnet.data.text import Vocabulary, characters, subwords
from tests.helpers import refuses

# Characters.


def test_characters_by_hand():
    vocabulary = characters("banana cab")
    assert vocabulary.size == 5
    assert vocabulary.special == {}  # " abcn"
    encoded = vocabulary.encode("can a")
    assert encoded.tolist() == [3, 1, 4, 0, 1]
    assert encoded.dtype == np.int32
    assert vocabulary.decode(encoded) == "can a"
    ids = vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.unknown
    assert ids == (None, None, None, None)


def test_every_character_comes_back_also_beyond_the_basic_plane():
    text = "Straße \N{GRINNING FACE}\n\0\U0010ffff\ud800"
    vocabulary = characters(text[::-1])
    assert vocabulary.size == len(set(text))
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.encode("").shape == (0,)
    assert vocabulary.decode([]) == ""


def test_special_entries_come_first():
    vocabulary = characters("ab", special=("pad", "start", "end", "unknown"))
    assert vocabulary.size == 6
    ids = vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.unknown
    assert ids == (0, 1, 2, 3)
    assert vocabulary.encode("abz").tolist() == [4, 5, 3]
    # The end cuts off.
    assert vocabulary.decode([1, 4, 0, 5, 3, 2, 4]) == "ab\N{REPLACEMENT CHARACTER}"
    assert vocabulary.decode([4, 2, 5, 2, 2]) == "a"  # the first one, as in padded translations
    assert characters("ab", special=("end", "pad")).pad == 1


# Subwords.

SENTENCES = ["ein Hund läuft über die Straße", "zwei Hunde laufen", "ein Mann läuft"] * 5


@pytest.fixture(scope="module")
def words():
    pytest.importorskip("tokenizers", reason="needs the extra jaxnet-toolkit[text]")
    return subwords(SENTENCES, 290)


@pytest.mark.parametrize("text", ["ein Hund läuft", "Xylophon \N{GRINNING FACE}!", " a  b\n", ""])
def test_any_text_comes_back(words, text):
    encoded = words.encode(text)
    assert encoded.dtype == np.int32
    assert words.decode(encoded) == text
    assert not encoded.size or (encoded.min() >= 3 and encoded.max() < words.size)


def test_frequent_words_are_few_pieces(words):
    assert words.size == 290
    assert words.special == {"pad": 0, "start": 1, "end": 2}
    assert len(words.encode("ein Hund läuft")) == 3
    assert len(words.encode("Zylinder")) > 5
    assert subwords(SENTENCES, 290).contents == words.contents  # learning is the same every time


def test_special_entries_are_no_text(words):
    framed = [words.start, *words.encode("ein Hund"), words.end, words.pad, words.pad]
    assert words.decode(framed) == "ein Hund"
    assert words.unknown is None
    assert words.decode(words.encode("[pad] [end]")) == "[pad] [end]"
    assert words.pad not in words.encode("[pad]")


# Files.


def test_only_what_can_be_loaded_is_saved(tmp_path):
    words = characters("abc")._replace(contents={"tokenizer": "{}"})
    with pytest.raises(ValueError, match="Vocabulary.save: contents must be those of characters"):
        words.save(tmp_path / "words.json")
    assert not (tmp_path / "words.json").exists()


def test_saved_and_loaded(words, tmp_path):
    for vocabulary in (words, characters("Hund\ud800ß\n", special=("end", "unknown"))):
        path = tmp_path / "new" / "vocabulary.json"
        vocabulary.save(path)
        again = Vocabulary.load(path)
        assert (again.size, again.special) == (vocabulary.size, vocabulary.special)
        for text in ("Hund\n", "Straße [pad]"):
            np.testing.assert_array_equal(again.encode(text), vocabulary.encode(text))
            wanted = vocabulary.decode(vocabulary.encode(text))
            assert again.decode(again.encode(text)) == wanted
        assert again.contents == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("contents", [
    "no json",
    '{"vocabulary": "emoji", "special": []}',
    '{"vocabulary": "characters", "special": [], "characters": "ba"}',
    '{"vocabulary": "characters", "special": [], "characters": "aa"}',
    '{"vocabulary": "characters", "special": [[]], "characters": "ab"}',
    '{"vocabulary": "characters", "special": {"pad": 1}, "characters": "ab"}',
    '{"vocabulary": "subwords", "special": [], "tokenizer": {}}',
])  # fmt: skip
def test_a_file_that_is_no_vocabulary(contents, tmp_path):
    (tmp_path / "x.json").write_text(contents)
    with pytest.raises(ValueError, match=r"x\.json is not a file of Vocabulary.save"):
        Vocabulary.load(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError, match="Vocabulary.load: there is no file .*y.json"):
        Vocabulary.load(tmp_path / "y.json")


def test_a_vocabulary_replaces_a_file_whole(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "a")

    def full_disk(file):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="Vocabulary.save: .*/a cannot be written: no space left"):
        characters("abc").save(tmp_path / "link")
    assert (tmp_path / "a").read_text() == "old"
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    characters("abc").save("~/link")
    assert (tmp_path / "link").is_symlink()
    assert Vocabulary.load("~/link").size == 3
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


test_refusals = refuses([
    (lambda: characters("ab", special=("pad",)).encode("abzx"),
     r"'z' \(index 2\) is not in the vocabulary of 2"),
    (lambda: characters("ab").encode(["a"]), TypeError, "encode: text must be a str, got "),
    (lambda: characters(b"ab"), TypeError, "characters: text must be a str, got "),
    (lambda: characters(""), "expected a text"),
    (lambda: characters("ab", special=("pad", "pad")), "must be a tuple of pad, start"),
    (lambda: characters("ab", special=("mask",)), "of pad, start, end, unknown"),
    (lambda: characters("ab", special="pad"), "special must be a tuple of pad, start"),
    (lambda: characters("ab").decode(np.array([0, 2])), "decode: "),
    (lambda: characters("ab").decode(np.array([-1])), "decode: "),
    (lambda: characters("ab").decode(np.array([0.0])), TypeError, "decode: "),
    (lambda: characters("ab").decode(np.array([[0, 1]])), "decode: "),
])  # fmt: skip


@pytest.mark.parametrize("sentences, size, error, words", [
    (SENTENCES, 100, ValueError, r"size \(256 bytes, 3 special .*\) must be at least 259"),
    (SENTENCES, 2**30, ValueError, "size .* must be 259 to 16777216, got 1073741824"),
    ([], 300, ValueError, "expected sentences"),
    ("abc", 300, TypeError, "subwords: sentences must be a list of str, got "),
    (["a", 3], 300, TypeError, "subwords: sentence 1 must be a str, got "),
    (["a", "b\ud800"], 300, ValueError, "subwords: sentence 1 has half of a surrogate pair at 1"),
])  # fmt: skip
def test_refusals_of_subwords(sentences, size, error, words):
    pytest.importorskip("tokenizers", reason="needs the extra jaxnet-toolkit[text]")
    with pytest.raises(error, match=words):
        subwords(sentences, size)
    with pytest.raises(ValueError, match="special must be a tuple of pad, start, end, each"):
        subwords(SENTENCES, 300, special=("unknown",))


def test_a_vocabulary_prints_as_one_line_that_every_terminal_can_show():
    words = characters("äöü", special=("pad", "unknown"))
    assert repr(words) == "Vocabulary(5 ids of characters, special: pad, unknown)"
    assert repr(characters("ab")) == "Vocabulary(2 ids of characters)"


def test_a_vocabulary_of_subwords_prints_as_one_line():
    pytest.importorskip("tokenizers")
    assert repr(subwords(["läuft"] * 3, 270)).isascii()
