"""JSON of any form is read, or a ValueError."""

import pytest

from jaxnet.services.json_text import parse_json

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
