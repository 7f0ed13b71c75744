"""Docstrings as the reference shows them: sections of a layer, and links between public names.

An extension of griffe, which reads the docstrings without importing jaxnet.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

SNAPSHOT = Path(__file__).parent.parent / "tests" / "public_api.txt"
# griffe takes a section "Params" for the arguments of the function.
SECTION = re.compile(r"^(Params|State|Input|Output|Input and output)([ ;][^\n]*)?:$", re.M)
WORD = re.compile(r"(?<![\[`\w])`(?:jn\.)?([A-Za-z_][\w.]*)`(?![\w\[`])")


def public_places() -> list[str]:
    """The public names in their order, such as "jaxnet.losses.dice"."""
    lines = SNAPSHOT.read_text().splitlines()
    return [re.split(r"[(\s]", line, maxsplit=1)[0] for line in lines]


@cache
def public_names() -> dict[str, str]:
    """Each public name, without "jaxnet.", and its place in the reference; last parts as well."""
    places = public_places()
    short: dict[str, list[str]] = {}
    for place in places:
        short.setdefault(place.rpartition(".")[2], []).append(place)
    names = {name: found[0] for name, found in short.items() if len(found) == 1}
    return names | {place.removeprefix("jaxnet."): place for place in places}


def linked(text: str, own: str = "") -> str:
    """Markdown with public names in backticks as links, outside of code."""

    def link(match: re.Match) -> str:
        place = public_names().get(match[1])
        return match[0] if place in (None, own) else f"[{match[0]}][{place}]"

    lines = []
    for line in text.splitlines():
        code = line.lstrip().startswith((">>>", "..."))
        lines.append(line if code else WORD.sub(link, line))
    return "\n".join(lines)


class Sections(griffe.Extension):
    """Shows the entries of a layer as text, and links public names."""

    def on_instance(self, *, obj: griffe.Object, **options: Any) -> None:
        if obj.docstring is None:
            return
        text = SECTION.sub(lambda m: f"**{m[1]}**{m[2] or ''}:\n", obj.docstring.value)
        text = re.sub(r"^Fields:", "Attributes:", text, flags=re.M)
        text = re.sub(r"^Example:", "Examples:", text, flags=re.M)
        text = re.sub(r"^Reference:", "**Reference**:", text, flags=re.M)
        obj.docstring.value = linked(text)
