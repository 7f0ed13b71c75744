"""The sandbox of chat templates."""

import pytest

from jaxnet.pretrained.sandbox import run

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("attack", [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% set _ = messages.append(1) %}",
    "{{ cycler.__init__.__globals__ }}", "{{ raise_exception.__globals__['a'] }}",
    "{{ messages.__class__.__base__ }}", "{{ (''|attr('format')).__globals__['a'] }}",
])  # fmt: skip
def test_a_template_reaches_nothing_outside(attack):
    with pytest.raises(ValueError, match="chat: the chat template fails"):
        run("chat", attack, {"messages": MESSAGES})
