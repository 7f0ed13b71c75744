"""Tokenizers in files of llama.cpp."""

import os

from jaxnet.pretrained import gguf_tokenizer


def test_the_words_of_a_file_are_read_once_until_it_changes(tmp_path, monkeypatch):
    place, read = tmp_path / "model.gguf", []
    place.write_bytes(b"")
    monkeypatch.setattr(gguf_tokenizer, "opened", lambda *given: (read.append(given) or {}, ()))
    gguf_tokenizer.entries("chat", place)
    gguf_tokenizer.entries("chat", place)
    os.utime(place, ns=(1, 1))
    gguf_tokenizer.entries("chat", place)
    assert len(read) == 2
