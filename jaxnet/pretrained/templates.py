"""How a published model writes a chat: its template, a program in jinja2, run in a sandbox."""

from collections.abc import Mapping
from typing import Any

from jaxnet.pretrained.sandbox import run
from jaxnet.pretrained.words import Words
from jaxnet.services.checks import check_type
from jaxnet.services.extras import extra

# Names of what a model thought before it replied; a template reads the first or the second.
THOUGHTS = ("reasoning_content", "thinking", "reasoning")


def template_of(who: str, words: Words) -> str:
    """Return the chat template of a model.

    Raises:
      ValueError: If it has none, or several of which none is the default.
    """
    if not words.templates:
        raise ValueError(f"{who}: {words.place} has no chat template; write the prompt yourself")
    if "default" not in words.templates:
        names = ", ".join(sorted(words.templates))
        raise ValueError(f"{who}: {words.place} has the chat templates {names}, and no default")
    return words.templates["default"]


def render(who: str, template: str, messages: Any, special: Mapping[str, str], reply: bool) -> str:
    """Return messages as a template writes them.

    Args:
      who: Name of the function, for messages.
      template: Program in jinja2.
      messages: List of dicts, or a text of the user.
      special: Special tokens by name.
      reply: Whether the text ends where a reply begins.

    Raises:
      ImportError: If jinja2 is not installed.
      TypeError: If a message is not a dict with a role.
      ValueError: If the template fails, or computes too much.

    Example:
      >>> template = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}"
      >>> template += "{% endfor %}"
      >>> render("chat", template, "Hi", {"eos_token": "</s>"}, True)
      'user: Hi</s>'
    """
    extra("jinja2", "jinja2", who, "pretrained")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    check_type(who, "messages", messages, list | tuple, "a text or a list of dicts")
    if not messages:
        raise ValueError(f"{who}: messages must hold at least one message, got none")
    given: dict[str, Any] = {**special, "tools": None, "documents": None}
    given["messages"] = [_message(who, message) for message in messages]
    given["add_generation_prompt"] = bool(reply)
    return run(who, template, given)


def _message(who: str, message: Any) -> dict[str, Any]:
    """Return a message as templates expect it: without None, thoughts under all of their names."""
    hint = 'write {"role": "user", "content": text}'
    check_type(who, "each message", message, Mapping, "a dict", hint)
    entries = {name: _plain(who, entry) for name, entry in message.items() if entry is not None}
    if not isinstance(entries.get("role"), str):
        raise TypeError(f"{who}: each message must have a role, got {message!r:.60}; {hint}")
    thoughts = [entries[name] for name in THOUGHTS if name in entries]
    if thoughts:
        entries = {"thinking": thoughts[0], **entries, "reasoning_content": thoughts[0]}
    return entries


def _plain(who: str, value: Any) -> Any:
    """Return a value of JSON as a copy that has no methods but those of Python's own types."""
    for kind in (bool, str, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if isinstance(value, Mapping):
        return {_plain(who, name): _plain(who, entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(who, entry) for entry in value]
    if isinstance(value, tuple):
        return tuple(_plain(who, entry) for entry in value)
    if value is None:
        return value
    raise TypeError(f"{who}: messages must hold values of JSON, got {type(value).__name__}")
