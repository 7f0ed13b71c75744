"""Tokenizers and chat templates of published models, and text in whole letters."""

import json
import os

import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained import chat, tokenizer, words
from jaxnet.pretrained.words import pieces

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def folder(tmp_path):
    """The files of a tokenizer, as transformers writes them."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["</s>", "<s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(["three rivers in Europe"] * 9, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    end = {"content": "</s>", "lstrip": False}
    settings = {"eos_token": end, "bos_token": "<s>", "chat_template": CHAT}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_text_becomes_ids_and_comes_back(folder):
    words = tokenizer(folder)
    assert words.end == 0
    assert words.start == 1
    assert words.pad is None
    for text in ("three rivers", "naïve 🌧 雨", ""):
        ids = words.encode(text)
        assert ids.dtype == np.int32
        assert words.decode([*ids, 0, 5]) == text


def test_a_chat_is_written_by_the_template_of_the_model(folder):
    assert chat(folder, "Hi") == "<user>Hi</s>\n<assistant>"
    both = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert chat(folder, both, reply=False) == "<system>Be brief.</s>\n<user>Hi</s>\n"
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system') }}")
    with pytest.raises(ValueError, match="chat: the chat template of .* fails: no system"):
        chat(folder, "Hi")


@pytest.mark.parametrize("attack", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% set _ = messages.append(1) %}",
    "{{ cycler.__init__.__globals__ }}",
])  # fmt: skip
def test_a_template_runs_in_a_sandbox(attack, folder):
    (folder / "chat_template.jinja").write_text(attack)
    with pytest.raises(ValueError, match="chat: the chat template of .* fails"):
        chat(folder, "Hi")


def test_a_model_without_a_template_says_so(folder):
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no chat template; write the prompt yourself"):
        chat(folder, "Hi")


@pytest.mark.parametrize(("parts", "stop", "text"), [
    (["a", "b", "c"], (), ["a", "b", "c"]),
    (["one E", "N", "D two"], ("END",), ["one "]),  # merged by no token
    (["one E", "N", "one"], ("END",), ["one ", "ENone"]),  # held back, then told
    (["x\n", "\nUser: "], ("\n\n",), ["x"]),
], ids=["plain", "in two", "not yet", "lines"])  # fmt: skip
def test_pieces_end_before_the_words_that_stop(parts, stop, text):
    found = list(pieces(lambda ids: "".join(parts[i] for i in ids), stop, range(len(parts))))
    assert "".join(found) == "".join(text)
    assert found[0] == text[0]


def test_no_piece_is_half_a_letter(folder):
    words = tokenizer(folder)
    ids = [int(i) for i in words.encode("a 🌧 雨")]
    found = list(pieces(words.decode, (), ids))
    assert "".join(found) == "a 🌧 雨" and not any("\ufffd" in piece for piece in found)
    assert "".join(pieces(words.decode, (), ids[:-1])) == "a 🌧 "


@pytest.mark.slow
def test_a_net_writes_what_generate_makes(folder):
    words = tokenizer(folder)
    net = jn.serial(jn.embedding(words.size, 8), jn.gru(8), jn.dense(words.size))
    params, _ = net.init(jax.random.key(0), np.ones((1, 4), np.int32))
    options = {"length": 20, "temperature": 0}
    made = jn.decoding.generate(net, params, [words.encode("three")], **options).lists()[0]
    text = "".join(jn.pretrained.write(net, params, words, "three", **options))
    assert text == words.decode(made).rstrip("\ufffd")


@pytest.mark.parametrize(("file", "content"), [
    ("tokenizer.json", "{"), ("tokenizer.json", "null"), ("tokenizer_config.json", "{"),
    ("tokenizer_config.json", "[]"), ("tokenizer_config.json", "[" * 100_000),
    ("chat_template.jinja", "{{ 1 / 0 }}"), ("chat_template.jinja", "{{ range(10 ** 9) }}"),
    ("chat_template.jinja", "{{ (1e308 * 10) | int }}"),
])  # fmt: skip
def test_words_that_are_damaged_are_an_error_of_ours(file, content, folder):
    (folder / file).write_text(content)
    function = "chat" if "chat" in file else "tokenizer"
    with pytest.raises((ValueError, TypeError), match=f"{function}: "):
        if function == "chat":
            chat(folder, "Hi")
        else:
            tokenizer(folder)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_pipe_does_not_block(file, folder):
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    with pytest.raises(OSError, match="chat: "):
        chat(folder, "Hi")


def test_the_words_of_a_file_are_read_once_until_it_changes(tmp_path, monkeypatch):
    place, read = tmp_path / "model.gguf", []
    place.write_bytes(b"")
    monkeypatch.setattr(words, "opened", lambda *given: (read.append(given) or {}, ()))
    words._entries("chat", place)
    words._entries("chat", place)
    os.utime(place, ns=(1, 1))
    words._entries("chat", place)
    assert len(read) == 2


def test_write_takes_a_vocabulary():
    with pytest.raises(TypeError, match=r"write: words must be a vocabulary, .* got a ndarray"):
        next(jn.pretrained.write(jn.dense(2), {}, np.ones(3), "a"))
