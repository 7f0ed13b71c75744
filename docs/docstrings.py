"""Docstrings as the reference shows them: sections of a layer, and links between public names.

An extension of griffe, which reads the docstrings without importing jaxnet.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parent.parent
SNAPSHOT = ROOT / "tests" / "public_api.txt"
INTEROP = ("export", "flax", "onnx", "torch")  # modules that users import, as they need packages
INTERNAL = ("open_spec",)  # of these modules
# Section of a docstring -> its title in the reference. griffe knows the first ones.
TITLES = {"Args": "Args: Arguments:", "Fields": "Attributes: Fields:", "Example": "Examples:"}
CREATED = {"Params": "Parameters created", "Params and state": "Parameters and state created"}
SECTION = re.compile(
    r"^(Params and state|Params|State|Input and output|Input|Output)([ ;][^\n]*)?:$", re.M
)
# A star outside of backticks that does not begin the name of an argument, such as "*layers: ...".
STAR = re.compile(r"(`[^`]*`|^\s*\*+(?=\w+:))|\*")
WORD = re.compile(r"(?<![\[`\w])`(?:jn\.)?([A-Za-z_][\w.]*)`(?![\w\[`])")


def public_places() -> list[str]:
    """The public names in their order, such as "jaxnet.losses.dice"."""
    lines = SNAPSHOT.read_text().splitlines()
    return [re.split(r"[(\s]", line, maxsplit=1)[0] for line in lines]


@cache
def interop_places() -> list[str]:
    """The public names of the modules in `jaxnet.interop` that users import."""
    places = []
    for module in INTEROP:
        tree = ast.parse((ROOT / "jaxnet" / "interop" / f"{module}.py").read_text())
        names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        shown = [name for name in names if name[0] != "_" and name not in INTERNAL]
        places += [f"jaxnet.interop.{module}.{name}" for name in shown]
    return places


@cache
def public_names() -> dict[str, str]:
    """Each public name, without "jaxnet.", and its place in the reference; last parts as well."""
    places = public_places() + interop_places()
    short: dict[str, list[str]] = {}
    for place in places:
        short.setdefault(place.rpartition(".")[2], []).append(place)
    names = {name: found[0] for name, found in short.items() if len(found) == 1}
    return names | {place.removeprefix("jaxnet."): place for place in places}


def linked(text: str, own: str = "") -> str:
    """Markdown with public names in backticks as links, and other stars as they are."""

    def link(match: re.Match) -> str:
        place = public_names().get(match[1])
        return match[0] if place in (None, own) else f"[{match[0]}][{place}]"

    lines, code = [], False
    for line in text.splitlines():
        code = line.lstrip().startswith(">>>") or (code and bool(line.strip()))  # up to its output
        lines.append(line if code else WORD.sub(link, STAR.sub(lambda m: m[1] or r"\*", line)))
    return "\n".join(lines)


class Sections(griffe.Extension):
    """Shows the entries of a layer as text, and links public names."""

    def on_instance(self, *, obj: griffe.Object, **options: Any) -> None:
        if obj.docstring is None:
            return
        text = obj.docstring.value
        for section, title in TITLES.items():
            text = re.sub(rf"^{section}:$", title, text, flags=re.M)
        text = linked(text)
        text = SECTION.sub(lambda m: f"**{CREATED.get(m[1], m[1])}{m[2] or ''}:**\n", text)
        text = re.sub(r"^Reference:", "**Reference**:", text, flags=re.M)
        obj.docstring.value = text
