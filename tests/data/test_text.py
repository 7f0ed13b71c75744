"""Vocabularies: there and back, what is unknown, the special entries, files."""

import json
import os

import numpy as np
import pytest

from jaxnet.data.text import LOST, characters, load_vocabulary, subwords


def ids(*numbers):
    return np.array(numbers)


# Characters.


def test_characters_by_hand():
    vocabulary = characters("banana cab")
    assert vocabulary.size == 5 and vocabulary.special == {}  # " abcn"
    encoded = vocabulary.encode("can a")
    assert encoded.tolist() == [3, 1, 4, 0, 1] and encoded.dtype == np.int32
    assert vocabulary.decode(encoded) == "can a"
    assert (vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.unknown) == (None,) * 4


def test_every_character_comes_back_also_beyond_the_basic_plane():
    text = "Straße \N{GRINNING FACE}\n\0\U0010ffff\ud800"
    vocabulary = characters(text[::-1])
    assert vocabulary.size == len(set(text))
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.encode("").shape == (0,) and vocabulary.decode([]) == ""


def test_special_entries_come_first():
    vocabulary = characters("ab", special=("pad", "start", "end", "unknown"))
    assert vocabulary.size == 6
    assert (vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.unknown) == (0, 1, 2, 3)
    assert vocabulary.encode("abz").tolist() == [4, 5, 3]
    assert vocabulary.decode([1, 4, 0, 5, 3, 2, 4]) == "ab" + LOST  # the end cuts off
    assert vocabulary.decode([4, 2, 5, 2, 2]) == "a"  # the first one, as in padded translations
    assert characters("ab", special=("end", "pad")).pad == 1


def test_an_unknown_character_is_named_with_its_place():
    with pytest.raises(ValueError, match=r"'z' \(index 2\) is not in the vocabulary of 2"):
        characters("ab", special=("pad",)).encode("abzx")


@pytest.mark.parametrize("special", [("pad", "pad"), ("mask",), "pad"])
def test_wrong_special_entries(special):
    with pytest.raises(ValueError, match="special must be a tuple of pad, start, end, unknown"):
        characters("ab", special=special)


def test_no_text():
    with pytest.raises(ValueError, match="expected a text"):
        characters("")


@pytest.mark.parametrize("wrong", [ids(0, 2), ids(-1), ids(0.0), ids([0, 1])])
def test_ids_that_are_none_of_a_text(wrong):
    with pytest.raises((TypeError, ValueError), match="decode: "):
        characters("ab").decode(wrong)


# Subwords.

SENTENCES = ["ein Hund läuft über die Straße", "zwei Hunde laufen", "ein Mann läuft"] * 5


@pytest.fixture(scope="module")
def words():
    pytest.importorskip("tokenizers", reason="needs the extra jaxnet-toolkit[text]")
    return subwords(SENTENCES, 290)


@pytest.mark.parametrize("text", ["ein Hund läuft", "Xylophon \N{GRINNING FACE}!", " a  b\n", ""])
def test_any_text_comes_back(words, text):
    encoded = words.encode(text)
    assert encoded.dtype == np.int32 and words.decode(encoded) == text
    assert not encoded.size or (encoded.min() >= 3 and encoded.max() < words.size)


def test_frequent_words_are_few_pieces(words):
    assert words.size == 290 and words.special == {"pad": 0, "start": 1, "end": 2}
    assert len(words.encode("ein Hund läuft")) == 3
    assert len(words.encode("Zylinder")) > 5


def test_special_entries_are_no_text(words):
    framed = [words.start, *words.encode("ein Hund"), words.end, words.pad, words.pad]
    assert words.decode(framed) == "ein Hund" and words.unknown is None
    assert words.decode(words.encode("[pad] [end]")) == "[pad] [end]"
    assert words.pad not in words.encode("[pad]")


def test_learning_is_the_same_every_time(words):
    assert subwords(SENTENCES, 290).contents == words.contents


def test_sizes_and_sentences_that_do_not_do(words):
    with pytest.raises(ValueError, match="size must be at least 259, 256 bytes and 3 special"):
        subwords(SENTENCES, 100)
    with pytest.raises(ValueError, match="expected sentences"):
        subwords([], 300)
    with pytest.raises(ValueError, match="special must be a tuple of pad, start, end, each"):
        subwords(SENTENCES, 300, special=("unknown",))


# Files.


def test_saved_and_loaded(words, tmp_path):
    letters = characters("Hund\ud800ß\n", special=("end", "unknown"))
    for vocabulary in (words, letters):
        path = tmp_path / "new" / "vocabulary.json"
        vocabulary.save(path)
        again = load_vocabulary(path)
        assert (again.size, again.special) == (vocabulary.size, vocabulary.special)
        for text in ("Hund\n", "Straße [pad]"):
            np.testing.assert_array_equal(again.encode(text), vocabulary.encode(text))
            assert again.decode(again.encode(text)) == vocabulary.decode(vocabulary.encode(text))
        assert again.contents == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "contents",
    [
        "[]",
        "no json",
        '{"vocabulary": "emoji", "special": []}',
        '{"special": []}',
        "3",
        "null",
        '{"vocabulary": "characters", "special": [], "characters": 3}',
        '{"vocabulary": "characters", "special": [], "characters": ""}',
        '{"vocabulary": "characters", "special": [], "characters": "ba"}',
        '{"vocabulary": "characters", "special": [], "characters": "aa"}',
        '{"vocabulary": "characters", "special": [[]], "characters": "ab"}',
        '{"vocabulary": "characters", "special": {"pad": 1}, "characters": "ab"}',
        '{"vocabulary": "subwords", "special": [], "tokenizer": 3}',
        '{"vocabulary": "subwords", "special": [], "tokenizer": {}}',
    ],  # fmt: skip
)
def test_a_file_that_is_no_vocabulary(contents, tmp_path):
    (tmp_path / "x.json").write_text(contents)
    with pytest.raises(ValueError, match=r"x\.json is not a file of Vocabulary.save"):
        load_vocabulary(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError, match="load_vocabulary: there is no file .*y.json"):
        load_vocabulary(tmp_path / "y.json")


@pytest.mark.parametrize("value", [None, 3, b"ab", ["a"]], ids=repr)
def test_texts_of_another_type(value, words):
    for vocabulary in (words, characters("ab")):
        with pytest.raises(TypeError, match="encode: text must be a str, got "):
            vocabulary.encode(value)
    with pytest.raises(TypeError, match="characters: text must be a str, got "):
        characters(value)
    with pytest.raises(TypeError, match="subwords: sentence 1 must be a str, got "):
        subwords(["a", value], 300)
    with pytest.raises((TypeError, ValueError), match="special must be a tuple of pad"):
        characters("ab", special=value)


def test_sizes_and_sentences_of_another_type():
    with pytest.raises(TypeError, match="subwords: size must be an integer, got 2.5"):
        subwords(SENTENCES, 2.5)
    with pytest.raises(ValueError, match="size .* and at most 16777216, got 1073741824"):
        subwords(SENTENCES, 2**30)
    for sentences in (None, "abc", 3, {"a": 1}):
        with pytest.raises(TypeError, match="subwords: sentences must be a list of str, got "):
            subwords(sentences, 300)


def test_a_vocabulary_replaces_a_file_whole(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="Vocabulary.save: .*/a cannot be written: no space left"):
        characters("abc").save(tmp_path / "link")
    assert (tmp_path / "a").read_text() == "old"
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    characters("abc").save("~/link")
    assert (tmp_path / "link").is_symlink() and load_vocabulary("~/link").size == 3
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
