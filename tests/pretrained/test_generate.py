"""Text that a net writes, in whole letters, up to its end."""

import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained.generate import Stops, pieces
from tests.pretrained.tokenizer_forms import write_form


class Letters:
    """Words whose ids are places in a list of texts."""

    def __init__(self, parts):
        self.parts = parts

    def text_of(self, ids):
        return "".join(self.parts[i] for i in ids)

    def loose(self, ids):
        return 0

    def settled(self, text):
        return len(text.rstrip("\ufffd"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_form(tmp_path_factory.mktemp("bytes"), "bytes", "begin")


@pytest.fixture(scope="module")
def words(folder):
    return jn.pretrained.tokenizer(folder)


@pytest.mark.parametrize(("parts", "stop", "text"), [
    (["a", "b", "c"], (), ["a", "b", "c"]),
    (["one E", "N", "D two"], ("END",), ["one "]),  # merged by no token
    (["one E", "N", "one"], ("END",), ["one ", "ENone"]),  # held back, then told
    (["x\n", "\nUser: "], ("\n\n",), ["x"]),
], ids=["plain", "in two", "not yet", "lines"])  # fmt: skip
def test_pieces_end_before_the_texts_that_stop(parts, stop, text):
    found = list(pieces(Letters(parts), [], Stops(stop), range(len(parts))))
    assert "".join(found) == "".join(text)
    assert found[0] == text[0]


@pytest.mark.parametrize(("stop", "text"), [
    ((), "abca"), (((2,),), "ab"), (((1, 2),), "a"), (((2, 1),), "abca"), (((2,), (1, 2)), "a"),
], ids=["none", "an id", "two ids", "only begun", "the longest"])  # fmt: skip
def test_pieces_end_before_the_ids_that_stop(stop, text):
    assert "".join(pieces(Letters("abc"), [], Stops(ids=stop), [0, 1, 2, 0])) == text


def test_what_may_begin_a_stop_is_held_back():
    found = pieces(Letters("abc"), [], Stops(ids=((1, 2, 0),)), iter([0, 1, 2, 2]))
    assert next(found) == "a"
    assert next(found) == "bcc"


def test_a_piece_is_what_the_text_has_beyond_the_prompt(tmp_path):
    """The decoder of Llama 2 strips the space before the first word."""
    llama = jn.pretrained.tokenizer(write_form(tmp_path, "fallback", "begin"))
    ids = llama.encode("a small wore").tolist()
    first = len(llama.encode("a small"))
    assert llama.decode(ids[first:]) == "wore"
    assert "".join(pieces(llama, ids[:first], Stops(), ids[first:])) == " wore"


@pytest.mark.parametrize("kind", ["bytes", "fallback", "metaspace"])
def test_no_piece_is_half_a_letter(kind, tmp_path):
    words = jn.pretrained.tokenizer(write_form(tmp_path, kind, "none"))
    ids = [*map(int, words.encode("a 🌧 雨 b"))]
    found = list(pieces(words, [], Stops(), ids))
    assert "".join(found) == "a 🌧 雨 b"
    assert not any("\ufffd" in piece for piece in found)
    cut = "".join(pieces(words, [], Stops(), ids[:4]))
    assert cut == words.decode(ids[:4])
    assert "\ufffd" in cut


def test_a_special_token_does_not_end_the_bytes_of_a_letter(tmp_path):
    words = jn.pretrained.tokenizer(write_form(tmp_path, "fallback", "none"))
    first, *rest = words.encode("🌧").tolist()[-4:]
    found = list(pieces(words, [], Stops(), [first, words.start, *rest, *words.encode("a")]))
    assert "".join(found) == "🌧 a"


def prompted(monkeypatch, words, prompt, reply, **options):
    """Return the prompt that a net gets, and the text of the reply that it gives."""
    seen = []

    def iterate(net, params, rows, key, **given):
        seen.append(rows[0])
        return (np.array([id_]) for id_ in reply)

    monkeypatch.setitem(jn.pretrained.generate.__globals__, "iterate", iterate)
    return "".join(jn.pretrained.generate(None, {}, words, prompt, **options)), seen[0]


def test_a_prompt_is_a_text_a_chat_or_ids(words, monkeypatch):
    text, ids = prompted(monkeypatch, words, "three", words.encode(" rivers"))
    assert text == " rivers"
    assert ids == [words.start, *words.encode("three")]
    messages = [{"role": "user", "content": "Hi"}]
    text, ids = prompted(monkeypatch, words, messages, words.encode("yes"))
    assert text == "yes"
    assert ids == words.chat(messages).tolist()
    assert ids.count(words.start) == 1
    assert prompted(monkeypatch, words, np.array([5, 6]), [])[1] == [5, 6]


@pytest.mark.parametrize("post", ["both", "pair"])
def test_a_prompt_does_not_end_although_texts_do(post, tmp_path, monkeypatch):
    words = jn.pretrained.tokenizer(write_form(tmp_path, "bytes", post))
    assert words._library.encode("three").ids[-1] == words.end
    for text in ("three", ""):
        ids = prompted(monkeypatch, words, text, [])[1]
        assert ids == [words.start, *words.encode(text)]


def test_a_reply_ends_where_the_model_ends_it(words, monkeypatch):
    reply = [*words.encode("yes"), words.end, *words.encode("no")]
    assert prompted(monkeypatch, words, "Hi", reply)[0] == "yes"


@pytest.mark.parametrize("stop", [
    ["<|turn|>"], "<|turn|>", ["<|turn|>\n"], [" no"], ["yes no", "<|turn|>"],
])  # fmt: skip
def test_special_words_stop_as_texts_do(stop, words, monkeypatch):
    reply = [*words.encode("yes<|turn|>\n"), *words.encode(" no")]
    ended = "yes\n" if stop == [" no"] else "yes"
    assert prompted(monkeypatch, words, "Hi", reply, stop=stop)[0] == ended


def test_an_id_stops(words, monkeypatch):
    comma = int(words.encode(",")[0])
    reply = words.encode("yes, no")
    assert prompted(monkeypatch, words, "Hi", reply, stop=[comma])[0] == "yes"


@pytest.mark.slow
def test_a_net_writes_what_decoding_makes(words):
    net = jn.serial(jn.embedding(words.size, 8), jn.gru(8), jn.dense(words.size))
    params, _ = net.init(jax.random.key(0), np.ones((1, 4), np.int32))
    options = {"length": 20, "temperature": 0}
    prompt = [words.start, *words.encode("three")]
    made = jn.decoding.generate(net, params, [prompt], stop=[*words.stop_ids], **options)
    text = "".join(jn.pretrained.generate(net, params, words, "three", **options))
    whole = words.decode([*prompt, *made.lists()[0]])
    assert "three" + text == whole


def test_a_vocabulary_stands_for_a_tokenizer(monkeypatch):
    words = jn.data.characters("abc ", special=("end",))
    reply = [*words.encode("cab"), words.end, *words.encode("a")]
    text, ids = prompted(monkeypatch, words, "a b", reply)
    assert text == "cab"
    assert ids == words.encode("a b").tolist()
    assert prompted(monkeypatch, words, [1, words.end], reply)[0] == "cab"
    with pytest.raises(TypeError, match="a list of messages needs the tokenizer of a model"):
        prompted(monkeypatch, words, [{"role": "user", "content": "a"}], reply)


@pytest.mark.parametrize(("given", "error"), [
    ({"tokenizer": np.ones(3)}, "tokenizer must be one of jn.pretrained.tokenizer"),
    ({"prompt": ["a", "b"]}, "got a list of texts; write"),
    ({"prompt": 3.5}, "prompt must hold integers"),
    ({"stop": [None]}, "stop must hold texts and ids, got None"),
    ({"stop": [-1]}, "stop must hold texts and ids, got -1"), ({"stop": 3}, "stop must be a list"),
], ids=["tokenizer", "texts", "number", "none", "negative", "no list"])  # fmt: skip
def test_wrong_arguments_are_told(given, error, words):
    arguments = {"tokenizer": words, "prompt": "a"} | given
    with pytest.raises((TypeError, ValueError), match=f"generate: .*{error}"):
        next(jn.pretrained.generate(jn.dense(2), {}, **arguments))
