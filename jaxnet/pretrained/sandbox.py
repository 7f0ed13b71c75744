"""The sandbox in which a chat template runs, with the functions that templates expect."""

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any


def run(who: str, template: str, given: Mapping[str, Any]) -> str:
    """Return what a template writes."""
    try:
        return compiled(template).render(**given)
    except Exception as error:  # of a program of strangers
        raise ValueError(f"{who}: the chat template fails: {error}") from None


@lru_cache(maxsize=16)
def compiled(template: str) -> Any:
    """Return a template that can be rendered."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block {% generation %}, which marks what is learned, and writes its content."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("content"), [], [], body).set_lineno(line)

        def content(self, caller):
            return caller()

    world = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    world.filters["tojson"] = to_json
    world.globals |= {"raise_exception": refuse, "strftime_now": now}
    return world.from_string(template)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON, its names in their order."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def now(form: str) -> str:
    """Return the local time, such as the day."""
    return datetime.now().strftime(form)


def refuse(words: str) -> None:
    """Raise what a template says of the messages."""
    raise ValueError(words)
