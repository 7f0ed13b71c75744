"""Files of tokenizers, damaged or hostile ones too."""

import json
import os

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
