"""Chat templates, against transformers' text, letter by letter."""

from typing import Any

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained.templates import render
from tests.pretrained.template_forms import ENDS, TEMPLATES
from tests.pretrained.tokenizer_forms import write_form

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CALL = {
    "role": "assistant", "content": "",
    "tool_calls": [
        {"id": "abcdefghi", "function": {"name": "sum", "arguments": {"b": "<ü>", "a": [1, 2.5]}}}
    ],
}  # fmt: skip
CHATS: dict[str, list[dict[str, Any]]] = {
    "question": [{"role": "user", "content": " Hi <there> & ü🌧 \n"}],
    "system": [
        {"role": "system", "content": "Be brief. /no_think"}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "\nYes "}, {"role": "user", "content": "Why?"},
    ],
    "thoughts": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes"},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So", "reasoning": "because", "name": None},
    ],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image"}]}],
    "tools": [
        {"role": "user", "content": "Hi"}, CALL,
        {"role": "tool", "content": '{"sum": "<3>"}', "tool_call_id": "abcdefghi"},
        {"role": "assistant", "content": "3"}, {"role": "user", "content": "Thanks"},
    ],
    "two of the user": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "hidden": [{"role": "hidden", "content": "a"}, {"role": "user", "content": "b"}],
}  # fmt: skip


def test_messages_are_given_as_templates_expect_them():
    template = "{{ messages }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}"
    parts = [{"type": "text", "text": "Hi", "n": np.float32(0.5).item()}]
    message = {"role": np.str_("user"), "content": parts, "name": None, "pair": (1, True)}
    found = render("chat", template, [message], {}, True)
    wanted = {"role": "user", "content": parts, "pair": (1, True)}
    assert found == f"[{wanted}]TrueTrueTrue"


def test_a_template_refuses():
    with pytest.raises(ValueError, match="chat: the chat template fails: no system"):
        render("chat", "{{ raise_exception('no system') }}", "Hi", {}, True)


@pytest.mark.parametrize("family", ENDS)
def test_a_reply_ends_where_its_family_ends_a_turn(family, tmp_path):
    end = ENDS[family]
    further = {"additional_special_tokens": [end, "<|im_start|>", "<|channel|>"]}
    folder = write_form(tmp_path, "bytes", "begin", chat_template=TEMPLATES[family], **further)
    words = jn.pretrained.tokenizer(folder)
    (turn,) = words.encode(end).tolist()
    assert words.stop_ids == tuple(sorted({words.end, turn}))


@pytest.mark.slow
@pytest.mark.parametrize("reply", [True, False])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("family", ENDS)
def test_a_chat_is_written_as_by_transformers(family, chat, reply):
    pytest.importorskip("transformers", reason="compares with transformers")
    from transformers.utils.chat_template_utils import render_jinja_template

    template = TEMPLATES[family]
    messages = CHATS[chat]
    plain = [{n: e for n, e in message.items() if e is not None} for message in messages]
    wanted = found = None
    try:
        (wanted,), _ = render_jinja_template(
            [plain], chat_template=template, add_generation_prompt=reply, **SPECIAL
        )
    except Exception as error:  # the template refuses
        with pytest.raises(ValueError, match="chat: the chat template fails"):
            render("chat", template, messages, SPECIAL, reply)
        assert chat in ("system", "parts", "tools", "two of the user", "hidden"), error
    else:
        found = render("chat", template, messages, SPECIAL, reply)
    assert found == wanted
