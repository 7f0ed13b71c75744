"""Files of tokenizers, damaged or hostile ones too."""

import base64
import json
import os
from types import SimpleNamespace

import pytest

import jaxnet as jn
from tests.pretrained.tokenizer_forms import write_form


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_form(tmp_path_factory.mktemp("bytes"), "bytes", "both")


@pytest.fixture
def folder(written, tmp_path):
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(("file", "content"), [
    ("tokenizer.json", "{"), ("tokenizer.json", "null"), ("tokenizer.json", "{}"),
    ("tokenizer.json", '{"model": {"vocab": 3}}'), ("tokenizer.json", "\udcff"),
    ("tokenizer_config.json", "{"), ("tokenizer_config.json", "[]"),
    ("tokenizer_config.json", "[" * 100_000), ("tokenizer_config.json", '{"chat_template": 3}'),
    ("tokenizer_config.json", '{"chat_template": [{}]}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": [1]}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"a": {"content": "b"}}}'),
    ("generation_config.json", '{"eos_token_id": "2"}'), ("generation_config.json", "[]"),
    ("config.json", '{"eos_token_id": [1, null]}'), ("config.json", "{"),
])  # fmt: skip
def test_files_that_are_damaged_are_an_error_of_ours(file, content, folder):
    (folder / file).write_text(content, errors="surrogateescape")
    with pytest.raises((ValueError, TypeError), match="tokenizer: "):
        jn.pretrained.tokenizer(folder)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_pipe_does_not_block(file, folder):
    (folder / file).unlink(missing_ok=True)
    os.mkfifo(folder / file)
    with pytest.raises(OSError, match="tokenizer: "):
        jn.pretrained.tokenizer(folder)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer: there is no file .*tokenizer.json"):
        jn.pretrained.tokenizer(tmp_path)


@pytest.mark.parametrize(("files", "entry", "wanted"), [
    ({}, "one", "one"),
    ({}, [{"name": "rag", "template": "no"}, {"name": "default", "template": "one"}], "one"),
    ({"chat_template.jinja": "one"}, "no", "one"),
    ({"chat_template.jinja": "one", "additional_chat_templates/rag.jinja": "no"}, "no", "one"),
])  # fmt: skip
def test_the_default_template_is_found(files, entry, wanted, folder):
    settings = {"eos_token": "</s>", "chat_template": entry}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    words = jn.pretrained.tokenizer(folder)
    assert words.decode(words.chat("Hi")) == wanted
    assert words.stop_ids == (words.end,)


@pytest.mark.parametrize(("entry", "error"), [
    (None, "has no chat template; write the prompt yourself"),
    ([{"name": "rag", "template": "no"}], "has the chat templates rag, and no default"),
])  # fmt: skip
def test_a_model_without_a_template_says_so(entry, error, folder):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": entry}))
    with pytest.raises(ValueError, match=f"chat: .*{error}"):
        jn.pretrained.tokenizer(folder).chat("Hi")


def replaced(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(data):
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


TWICE = [replaced({"String": "a"}, "aa")] * 40
# Each ends the process, or takes all memory, if the library gets it.
HOSTILE = {
    "a large id": ("model", lambda model: model["vocab"].update(zzz=2**31 - 1), "ids must be"),
    "a larger id": ("model", lambda model: model["vocab"].update(zzz=2**32), "ids must be"),
    "a negative id": ("model", lambda model: model["vocab"].update(zzz=-1), "ids must be"),
    "no id": ("model", lambda model: model["vocab"].update(zzz=None), "ids must be"),
    "a large added id": (
        "added_tokens", lambda added: added[0].update(id=2**31 - 1), "ids must be integers in"
    ),
    "an added text": ("added_tokens", ["a"], "is damaged"),
    "letters that double": (
        "normalizer", {"type": "Sequence", "normalizers": TWICE}, "replacements of normalizer"
    ),
    "letters of nothing": ("normalizer", replaced({"String": ""}, "x" * 10**6), "replacements"),
    "letters of a pattern": ("normalizer", replaced({"Regex": ""}, "x" * 10**6), "replacements"),
    "letters before a text": (
        "normalizer", {"type": "Prepend", "prepend": "x" * 10**6}, "must put at most 1000 letters"
    ),
    "decoded letters": (
        "decoder", {"type": "Sequence", "decoders": TWICE}, "replacements of decoder"
    ),
    "half a map": ("normalizer", charsmap(b"abc"), "precompiled_charsmap is damaged"),
    "a short map": ("normalizer", charsmap(b"\xff\0\0\0abcd"), "precompiled_charsmap is damaged"),
    "a map of noise": ("normalizer", charsmap(bytes(range(256)) * 9), "precompiled_charsmap"),
    "texts that are missing": (
        "normalizer", charsmap(b"\4\0\0\0" + b"\xff\xff\xff\xff" + b"a\0"), "a text that it lacks"
    ),
    "a map that is no text": (
        "normalizer", {"type": "Precompiled", "precompiled_charsmap": 7}, "precompiled_charsmap"
    ),
    "a map that is no base64": (
        "normalizer", {"type": "Precompiled", "precompiled_charsmap": "@@"}, "precompiled_charsmap"
    ),
    "a pattern that is none": (
        "pre_tokenizer",
        {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
        "is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_an_error_of_ours(name, folder):
    part, change, error = HOSTILE[name]
    contents = json.loads((folder / "tokenizer.json").read_text())
    if callable(change):
        change(contents[part])
    else:
        contents[part] = change
    (folder / "tokenizer.json").write_text(json.dumps(contents))
    with pytest.raises((ValueError, TypeError), match=f"tokenizer: .*{error}"):
        jn.pretrained.tokenizer(folder)


def test_a_huge_file_is_not_read(folder):
    with open(folder / "tokenizer.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="tokenizer: .*must have at most 268435456 bytes, got 10"):
        jn.pretrained.tokenizer(folder)


def test_a_panic_of_the_library_is_an_error_of_ours(folder, monkeypatch):
    words = jn.pretrained.tokenizer(folder)

    class PanicException(BaseException):
        """Like the one of pyo3, which no Exception catches."""

    def panic(*args, **named):
        raise PanicException("index out of bounds")

    monkeypatch.setattr(words, "_library", SimpleNamespace(encode=panic, decode=panic))
    with pytest.raises(ValueError, match="encode: the tokenizer of .* fails: .*out of bounds"):
        words.encode("a")
    with pytest.raises(ValueError, match="decode: the tokenizer of .* fails: .*out of bounds"):
        words.decode([1])
