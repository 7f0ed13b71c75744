"""JSON of any form is read, or a ValueError."""

import pytest

from jaxnet.services.json_text import parse_json, read_object

DEEP = 100_000


@pytest.mark.parametrize("text", ['{"a": [1, null]}', ' {"a":[1,null]}\n', b'{"a": [1, null]}'])
def test_forms_of_one_value(text):
    assert parse_json(text) == {"a": [1, None]}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * DEEP, '{"a":' * DEEP, "[" * DEEP + "]" * DEEP, b"\xff\xfe\x00", "nul"],
    ids=["nothing", "half", "deep lists", "deep dicts", "closed", "bytes", "a word"],
)
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize(("text", "words"), [
    (b"[1]", "load: .*a.json must hold an object, got list"),
    (b"\xff\xfe\x00", "load: .*a.json is not JSON"),
    (b"", "load: .*a.json is not JSON"),
])  # fmt: skip
def test_a_file_without_an_object_is_named(text, words, tmp_path):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match=words):
        read_object("load", tmp_path / "a.json")
