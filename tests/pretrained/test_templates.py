"""Chat templates."""

import pytest

from jaxnet.pretrained.templates import render


def test_messages_are_given_as_templates_expect_them():
    template = "{{ messages }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}"
    message = {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": None}
    found = render("chat", template, [message], {}, True)
    assert found == ("[{'role': 'user', 'content': [{'type': 'text', 'text': 'Hi'}]}]TrueTrueTrue")


def test_a_template_refuses():
    with pytest.raises(ValueError, match="chat: the chat template fails: no system"):
        render("chat", "{{ raise_exception('no system') }}", "Hi", {}, True)
