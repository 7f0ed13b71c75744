"""The tokenizer of a published model, against transformers' in every form."""

import json
import random

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained.generate import Stops, _prompt_ids, _stops, pieces
from tests.pretrained.tokenizer_forms import MODELS, POSTS, TEXTS, write_form


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_form(tmp_path_factory.mktemp("bytes"), "bytes", "both")


@pytest.fixture
def changed(folder, tmp_path):
    """Return a function that writes the files with other settings."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())

    def write(**entries):
        for name in ("tokenizer.json",):
            (tmp_path / name).write_bytes((folder / name).read_bytes())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | entries))
        return tmp_path

    return write


def test_text_becomes_ids_and_comes_back(folder):
    words = jn.pretrained.tokenizer(folder)
    assert (words.unknown, words.start, words.end, words.pad) == (0, 1, 2, None)
    for text in ("three rivers", "naïve 🌧 雨", ""):
        ids = words.encode(text)
        assert ids.dtype == np.int32
        assert words.start not in ids
        assert words.decode(ids) == text
    assert f"size={words.size}" in repr(words)


def test_texts_are_joined_as_ids(folder):
    words = jn.pretrained.tokenizer(folder)
    ids = [*words.encode("one two"), words.end, *words.encode(" three")]
    assert words.decode(ids) == "one two three"


@pytest.mark.parametrize("post", POSTS)
def test_a_row_of_training_data_begins_and_ends_once(post, tmp_path):
    words = jn.pretrained.tokenizer(write_form(tmp_path, "fallback", post))
    prompt = words.chat([{"role": "user", "content": "Hi"}])
    row = [*prompt, *words.encode("Yes"), words.end]
    assert row.count(words.start) == 1
    assert row.count(words.end) == 2  # of the user's turn, and of the answer
    assert words.decode(row).split() == ["user", "Hi", "assistant", "Yes"]


def test_a_conversation_is_decoded_whole(folder):
    words = jn.pretrained.tokenizer(folder)
    messages = [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Why"},
    ]  # fmt: skip
    assert words.decode(words.chat(messages)) == "user\nHi\nassistant\nYes\nuser\nWhy\nassistant\n"


def test_a_text_is_a_message_of_the_user(folder):
    words = jn.pretrained.tokenizer(folder)
    wanted = words.encode("<s><|turn|>user\nHi</s>\n")
    np.testing.assert_array_equal(words.chat("Hi", reply=False), wanted)


ENDS = "{% for m in messages %}{{ m.content }} <|turn|>\n{% endfor %}"


@pytest.mark.parametrize(("files", "entries", "wanted"), [
    ({}, {}, ["</s>"]),
    ({}, {"chat_template": ENDS}, ["</s>", "<|turn|>"]),
    ({}, {"chat_template": "{{ raise_exception('no') }}"}, ["</s>"]),
    ({}, {"chat_template": "{{ messages[0].content }}"}, ["</s>"]),
    ({}, {"chat_template": None}, ["</s>"]),
    ({"config.json": {"eos_token_id": 1}}, {}, ["<s>", "</s>"]),
    ({"config.json": {"text_config": {"eos_token_id": [1]}}}, {}, ["<s>", "</s>"]),
    ({"generation_config.json": {"eos_token_id": [0, 1]}}, {}, ["<unk>", "<s>", "</s>"]),
    ({"config.json": {"eos_token_id": -1}}, {"eos_token": None}, []),
])  # fmt: skip
def test_a_reply_ends_by_what_the_files_say(files, entries, wanted, changed):
    place = changed(**({"chat_template": "{{ messages[0].content }}"} | entries))
    for name, content in files.items():
        (place / name).write_text(json.dumps(content))
    words = jn.pretrained.tokenizer(place)
    assert words.stop_ids == tuple(sorted(words._id(word) for word in wanted))


@pytest.mark.parametrize(("entries", "start", "end"), [
    ({"bos_token": None, "eos_token": None}, "<unk>", "<|turn|>"),
    ({"bos_token": None}, "<unk>", "</s>"), ({"eos_token": None}, "<s>", "<|turn|>"),
    ({}, "<s>", "</s>"),
])  # fmt: skip
def test_texts_of_encoders_begin_and_end_too(entries, start, end, changed):
    """BERT names a [CLS] and a [SEP], and neither a beginning nor an end."""
    named = {"cls_token": "<unk>", "sep_token": "<|turn|>", "chat_template": None}
    words = jn.pretrained.tokenizer(changed(**named, **entries))
    assert (words.start, words.end) == (words._id(start), words._id(end))
    assert words.stop_ids == ((words.end,) if end == "</s>" else ())


def test_a_separator_ends_no_reply(changed):
    entries = {"bos_token": None, "eos_token": None, "sep_token": "<|turn|>"}
    words = jn.pretrained.tokenizer(changed(**entries, chat_template=None))
    ids = [*words.encode("one"), words.end, *words.encode(" two")]
    stops = _stops(words, ())
    assert "".join(pieces(words, [], stops, ids)) == "one two"


def test_tokens_of_the_settings_are_added(changed):
    added = {"500": {"content": "<|far|>", "special": True, "lstrip": False}}
    words = jn.pretrained.tokenizer(changed(added_tokens_decoder=added, pad_token="<pad>"))
    assert len(words.encode("<|far|>")) == len(words.encode("<pad>")) == 1
    assert words.pad == words.encode("<pad>")[0]


@pytest.mark.parametrize(("call", "error"), [
    (lambda words: words.encode(3), "encode: text must be a str, got int"),
    (lambda words: words.encode("\ud800"), "encode: text has half of a surrogate pair"),
    (lambda words: words.decode("abc"), "decode: "),
    (lambda words: words.decode([1.5]), "decode: "),
    (lambda words: words.decode([[1]]), "decode: "), (lambda words: words.decode([-1]), "decode: "),
    (lambda words: words.decode([2**31]), "decode: ids must be in "),
    (lambda words: words.decode(None), "decode: "), (lambda words: words.chat([]), "chat: "),
    (lambda words: words.chat(["Hi"]), "chat: each message must be a dict, got str; write"),
    (lambda words: words.chat([{"text": "Hi"}]), "chat: each message must have a role"),
    (lambda words: words.chat("Hi", reply=1), "chat: reply must be True or False"),
    (lambda words: words.chat(3), "chat: messages must be a text or a list of dicts"),
    (lambda words: words.chat([{"role": "user", "content": object()}]), "chat: messages must hold"),
    (lambda words: words.chat("\ud800"), "chat: .* has half of a surrogate pair"),
])  # fmt: skip
def test_wrong_arguments_are_told(call, error, folder):
    with pytest.raises((TypeError, ValueError), match=error):
        call(jn.pretrained.tokenizer(folder))


def test_ids_that_stand_for_nothing_are_left_out(folder):
    words = jn.pretrained.tokenizer(folder)
    assert words.decode([*words.encode("a"), words.size, 2**31 - 1]) == "a"


# Against transformers.


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return a function of a form to its folder, our tokenizer, and theirs."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")

    def load(kind, post):
        folder = write_form(tmp_path_factory.mktemp("form"), kind, post)
        theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
        return folder, jn.pretrained.tokenizer(folder), theirs

    return load


def coded(theirs, text, special=True):
    return theirs(text, add_special_tokens=special)["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("post", POSTS)
@pytest.mark.parametrize("kind", MODELS)
def test_ids_and_texts_are_those_of_transformers(kind, post, both):
    _, ours, theirs = both(kind, post)
    assert ours.size == len(theirs)
    draw = random.Random(0)
    for text in TEXTS:
        assert ours.encode(text).tolist() == coded(theirs, text, special=False), text
        for ids in (coded(theirs, text), [draw.randrange(ours.size) for _ in range(30)]):
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
        messages = [{"role": role, "content": text} for role in ("user", "assistant", "user")]
        wanted = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        assert ours.chat(messages).tolist() == wanted, text


@pytest.mark.slow
@pytest.mark.parametrize("post", POSTS)
@pytest.mark.parametrize("kind", MODELS)
def test_replies_are_those_of_transformers(kind, post, both):
    _, ours, theirs = both(kind, post)
    draw = random.Random(0)
    compared = 0
    for i, text in enumerate(TEXTS):
        prompt = _prompt_ids(ours, text)
        ends = post in ("both", "pair")
        assert prompt == coded(theirs, text)[: -1 if ends else None], text
        at_random = [draw.randrange(ours.size) for _ in range(30)]
        for reply in (coded(theirs, TEXTS[7 * i % 40], special=False), at_random):
            before = theirs.decode(prompt, skip_special_tokens=True)
            whole = theirs.decode(prompt + reply, skip_special_tokens=True)
            if whole.startswith(before):  # not if the reply completes a letter of the prompt
                compared += 1
                found = "".join(pieces(ours, prompt, Stops(), reply))
                assert found == whole[len(before) :], (text, reply)
    assert compared > 60
