"""What a file of llama.cpp says of its tokenizer: tokens, ends, templates; files that lie."""

import json
import os
import random
import time

import pytest

import jaxnet as jn
from jaxnet.pretrained import gguf_tokenizer
from jaxnet.pretrained.copying import files_to_copy
from jaxnet.pretrained.generate import _prompt_ids
from tests.helpers import HANGS
from tests.pretrained.gguf_forms import (
    CONTROL,
    NORMAL,
    UNUSED,
    entries_of,
    paired,
    scored_entries,
    write,
)


@pytest.fixture(scope="module")
def pairs():
    pytest.importorskip("tokenizers")
    return entries_of(paired("llama-bpe")) | {"pre": "llama-bpe"}


@pytest.fixture
def read(tmp_path):
    """Return a function of entries to the tokenizer of a file that has them."""

    def read(entries, architecture="llama", **more):
        return jn.pretrained.tokenizer(write(tmp_path / "a.gguf", entries, architecture, **more))

    return read


def test_the_words_of_a_file_are_read_once_until_it_changes(tmp_path, monkeypatch):
    place, read = tmp_path / "model.gguf", []
    place.write_bytes(b"")
    monkeypatch.setattr(gguf_tokenizer, "read_entries", lambda path: read.append(path) or {})
    gguf_tokenizer.entries("chat", place)
    gguf_tokenizer.entries("chat", place)
    os.utime(place, ns=(1, 1))
    gguf_tokenizer.entries("chat", place)
    assert len(read) == 2


def test_a_users_token_is_one_id_and_stays_in_the_text(pairs, read):
    words = read(pairs)
    text = "<think>\nhm</think> <tool_call>New York</tool_call>"
    ids = words.encode(text).tolist()
    for token in ("<think>", "</think>", "<tool_call>", "New York"):
        assert ids.count(pairs["tokens"].index(token)) == 1
    assert words.decode(ids) == text


def test_a_special_token_is_left_out_and_an_unused_one_does_not_exist(pairs, read):
    words = read(pairs)
    assert words.decode(words.encode("a<|turn|>b")) == "ab"
    assert len(words.encode("[PAD1]")) > 1
    assert words.decode([pairs["tokens"].index("[PAD1]")]) == ""


def test_a_token_that_the_file_names_is_special(pairs, read):
    place = pairs["tokens"].index("</s>")
    types = [*pairs["token_type"]]
    types[place] = NORMAL
    types[-1] = UNUSED
    named = {"token_type": types, "padding_token_id": len(types) - 1}
    words = read(pairs | named)
    assert words.encode("</s>").tolist() == [words.end] == [place]
    assert words.encode("[PAD1]").tolist() == [words.pad]


@pytest.mark.parametrize(("entries", "wanted"), [
    ({}, ["<s>"]), ({"add_bos_token": False}, []), ({"add_bos_token": True}, ["<s>"]),
    ({"add_eos_token": True}, ["<s>"]), ({"pre": "qwen2"}, []),
    ({"pre": "qwen2", "add_bos_token": True}, ["<s>"]),
])  # fmt: skip
def test_a_text_begins_as_the_file_says(entries, wanted, pairs, read):
    words = read(pairs | entries)
    plain = words.encode("three").tolist()
    assert _prompt_ids(words, "three") == [pairs["tokens"].index(word) for word in wanted] + plain
    assert words.encode("three").tolist() == plain
    ends = words._library.encode("three").ids[-1] == words.end
    assert ends == ("add_eos_token" in entries)


def test_a_text_of_llama_begins_with_a_token_and_a_space(read):
    entries = scored_entries("llama")
    words = read(entries)
    assert words.beginning == [1]
    assert words.encode("a").tolist() == [
        entries["tokens"].index("▁"),
        entries["tokens"].index("a"),
    ]
    bare = read(entries | {"add_space_prefix": False, "add_bos_token": False})
    assert bare.beginning == []
    assert bare.encode("a").tolist() == [entries["tokens"].index("a")]
    assert bare.decode(bare.encode(" a")) == " a"


def test_letters_without_a_token_are_bytes(read):
    words = read(scored_entries("gemma3"), "gemma3")
    assert words.encode("🌧").tolist() == [3 + byte for byte in "🌧".encode()]
    assert words.decode(words.encode("🌧")) == "🌧"


def test_a_tab_of_gemma_is_joined(read):
    entries = scored_entries("gemma3")
    entries["tokens"][-1] = "\t\t"
    words = read(entries, "gemma3")
    for text, wanted in (("\t", [3 + 9]), ("\t\t", [len(entries["tokens"]) - 1])):
        assert words.encode(text).tolist() == wanted
        assert words.decode(wanted) == text


def test_tokens_of_phi3_take_the_spaces_after_them(read):
    entries = scored_entries("phi3")
    words = read(entries, "phi3")
    turn = entries["tokens"].index("<|turn|>")
    assert words.encode("<|turn|>\n\n<|turn|>").tolist() == [turn, turn]
    assert words.encode("<s> ").tolist() != [1]


def test_a_reply_ends_by_what_the_file_says(pairs, read):
    ids = {token: pairs["tokens"].index(token) for token in ("</s>", "<|turn|>", "<unk>")}
    assert read(pairs).stop_ids == (ids["</s>"],)
    ends = {"eot_token_id": ids["<|turn|>"], "eom_token_id": ids["<unk>"]}
    assert read(pairs | ends).stop_ids == tuple(sorted(ids.values()))
    lacking = {"eot_token_id": -1}
    assert read(pairs | lacking).stop_ids == (ids["</s>"],)
    more = {
        "tokens": [*pairs["tokens"], "<|im_end|>", "<|eot_id|>"],
        "token_type": [*pairs["token_type"], CONTROL, NORMAL],
    }
    assert read(pairs | more).stop_ids == (ids["</s>"], len(pairs["tokens"]))


TEMPLATE = "{% for m in messages %}{{ m.content }}<|turn|>{% endfor %}"


def test_templates_have_names(pairs, read, tmp_path):
    more = {"chat_template": TEMPLATE, "chat_template__tool_use": "tools", "chat_templates": ["x"]}
    words = read(pairs, **more)
    assert words.chat("three").tolist() == words.encode("three<|turn|>").tolist()
    assert pairs["tokens"].index("<|turn|>") in words.stop_ids
    files = files_to_copy("save", tmp_path / "a.gguf")
    assert files["chat_template.jinja"].decode() == TEMPLATE
    assert files["additional_chat_templates/tool_use.jinja"] == b"tools"
    with pytest.raises(
        ValueError, match="chat: .* has the chat templates tool_use, and no default"
    ):
        read(pairs, chat_template__tool_use="tools").chat("three")


def test_a_saved_tokenizer_is_that_of_the_file(read, tmp_path):
    ours = read(scored_entries("llama"), chat_template=TEMPLATE)
    for name, content in files_to_copy("save", tmp_path / "a.gguf").items():
        (tmp_path / name).write_bytes(content)
    saved = jn.pretrained.tokenizer(tmp_path)
    assert saved.stop_ids == ours.stop_ids
    for text in ("three rivers", " <think>hm</think>", "🌧"):
        assert _prompt_ids(saved, text) == _prompt_ids(ours, text)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["bos_token"] == "<s>"


def test_a_file_that_does_not_say_how_texts_are_divided_is_read_with_a_warning(pairs, read):
    entries = {name: value for name, value in pairs.items() if name != "pre"}
    with pytest.warns(UserWarning, match="does not say how its tokenizer divides texts"):
        found = read(entries).encode("three rivers")
    assert found.tolist() == read(entries | {"pre": "default"}).encode("three rivers").tolist()


def hostile(entries):
    """Return entries that lie, and what the message says."""
    count = len(entries["tokens"])
    tokens, types = entries["tokens"], entries["token_type"]
    return [
        ({"model": "t5"}, "must join letters by scores"), ({"model": 3}, "must join letters by"),
        ({"tokens": "abc"}, "must be a list of texts"), ({"tokens": [1, 2]}, "a list of texts"),
        ({"tokens": tokens[:-1]}, "token_type must be"), ({"token_type": types[:-1]}, "token_type"),
        ({"tokens": [*tokens[:-1], tokens[0]]}, "its tokens must differ"),
        ({"token_type": [*types, 1]}, "token_type must be"), ({"token_type": 3}, "token_type must"),
        ({"token_type": ["a"] * count}, "token_type must"),
        ({"bos_token_id": count}, "bos_token_id must be an id"),
        ({"eos_token_id": -2}, "eos_token_id must be an id"),
        ({"eot_token_id": 2**31 - 1}, "eot_token_id must be an id"),
        ({"padding_token_id": "a"}, "padding_token_id must be"),
        ({"unknown_token_id": 1.5}, "unknown_token_id must be"),
        ({"unknown_token_id": True}, "unknown_token_id must be"),
        ({"add_bos_token": 3}, "add_bos_token must be True or False"),
        ({"add_eos_token": True, "eos_token_id": -1}, "add_eos_token needs eos_token_id"),
    ]  # fmt: skip


def hostile_pairs(entries):
    merges = entries["merges"]
    return [
        *hostile(entries), ({"pre": "other"}, "must divide texts as one of gpt-2"),
        ({"pre": 3}, "must divide texts"), ({"merges": "a b"}, "merges must be a list of texts"),
        ({"merges": ["ab"]}, "must be pairs"), ({"merges": [*merges, "qzj zjq"]}, "must be pairs"),
        ({"merges": [" "]}, "must be pairs"), ({"merges": [3]}, "merges must be a list"),
    ]  # fmt: skip


def hostile_scores(entries):
    scores, count = entries["scores"], len(entries["tokens"])
    long = ["a" * 9000 + str(i) for i in range(2)]
    return [
        *hostile(entries), ({"scores": scores[:-1]}, "scores must be"), ({"scores": 3}, "scores"),
        ({"scores": [*scores, 0.0]}, "scores must be"), ({"scores": ["a"] * count}, "scores must"),
        ({"scores": [*scores[:-1], float("nan")]}, "scores must be"),
        ({"scores": [*scores[:-1], float("-inf")]}, "scores must be"),
        ({"add_space_prefix": 1}, "add_space_prefix must be True or False"),
        ({"tokens": [*entries["tokens"][:-2], *long]}, "its tokens are too long"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["pairs", "llama"])
def test_a_damaged_file_is_told_or_read(kind, pairs, tmp_path):
    """Bytes that differ, and files that end early, raise no other error."""
    entries = pairs if kind == "pairs" else scored_entries(kind)
    data = write(tmp_path / "a.gguf", entries).read_bytes()
    draw = random.Random(0)
    told = 0
    for i in range(60):
        changed = bytearray(data)
        changed[draw.randrange(len(data))] = draw.randrange(256)
        changed[draw.randrange(200)] ^= 1 << draw.randrange(8)
        path = tmp_path / f"{i}.gguf"
        path.write_bytes(changed if i % 2 else data[: draw.randrange(len(data))])
        began = time.monotonic()
        try:
            jn.pretrained.tokenizer(path).encode("three rivers")
        except ValueError as error:
            told += str(error).startswith(("tokenizer: ", "encode: "))
        assert time.monotonic() - began < HANGS
    assert told >= 30


@pytest.mark.parametrize("kind", ["pairs", "llama", "gemma3"])
def test_files_that_lie_are_told_soon(kind, pairs, read):
    entries = pairs if kind == "pairs" else scored_entries(kind)
    variants = hostile_pairs(entries) if kind == "pairs" else hostile_scores(entries)
    for changed, message in variants:
        began = time.monotonic()
        with pytest.raises(ValueError, match=f"tokenizer: .*{message}"):
            read(entries | changed, "gemma3" if kind == "gemma3" else "llama")
        assert time.monotonic() - began < HANGS, changed.keys()
    for name in ("tokens", "merges" if kind == "pairs" else "scores"):
        with pytest.raises(ValueError, match=f"tokenizer: .*{name}"):
            read({entry: value for entry, value in entries.items() if entry != name})
    with pytest.raises(ValueError, match="the chat template 'default' must be a text"):
        read(entries, chat_template=3)
