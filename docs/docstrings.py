"""Docstrings as the reference shows them: sections of a layer, and links between public names.

An extension of griffe, which reads the docstrings without importing jaxnet.
"""

import ast
import os
import re
from collections.abc import Container
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parent.parent
SNAPSHOT = ROOT / "tests" / "public_api.txt"
# Modules that users import, or reach by name, and what each has for them; None is all of it.
MODULES = {
    "interop.export": None,
    "interop.flax": None,
    "interop.onnx": None,
    "interop.torch": None,
    "data.tfds": ("load", "source"),
}
INTERNAL = ("open_spec",)  # of these modules
IMPORTED = tuple(f"jaxnet.{module}." for module in MODULES if module.startswith("interop."))
# Section of a docstring -> its title in the reference. griffe knows the first ones.
TITLES = {"Args": "Args: Arguments:", "Fields": "Attributes: Fields:", "Example": "Examples:"}
CREATED = {"Params": "Parameters created", "Params and state": "Parameters and state created"}
SECTION = re.compile(
    r"^(Params and state|Params|State|Input and output|Inputs|Input|Output)([ ;][^\n]*)?:$", re.M
)
# A star outside of backticks that does not begin the name of an argument, such as "*layers: ...".
STAR = re.compile(r"(`[^`]*(?:`|$)|^\s*\*+(?=\w+:))|\*")
# Not the first column of a list, "- `memory`: ...", which is a name of this docstring.
WORD = re.compile(r"(?<![\[`\w])(?<!^- )`(?:jn\.)?([A-Za-z_][\w.]*)`(?![\w\[`])")
HEAD = re.compile(r"^[A-Z][\w ;]*:$")  # of a section of a docstring
# griffe takes what is before a colon for the type, and removes its parentheses.
RETURNS = re.compile(r"^(Returns|Yields):\n(\s+)", re.M)
# A row of a list in two columns, such as "  lengths   Integers (batch,)", or its next line.
ROW = re.compile(r"( {2,})(\S(?:.*?\S)?) {2,}(\S.*)")
ARGUMENTS = re.compile(r"(Args|Arguments|Fields|Attributes|Returns|Yields|Raises)\b.*:$")
PROMPT = re.compile(r"^( *(?:>>>|\.\.\.) ?)(.*)$")


def public_places() -> list[str]:
    """The public names in their order, such as "jaxnet.losses.dice"."""
    lines = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    return [re.split(r"[(\s]", line, maxsplit=1)[0] for line in lines]


@cache
def module_places() -> list[str]:
    """The public names of the modules that users import or reach by name."""
    places = []
    for module, chosen in MODULES.items():
        tree = ast.parse(
            (ROOT / "jaxnet" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
        )
        names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        shown = [name for name in names if name[0] != "_" and name not in INTERNAL]
        places += [f"jaxnet.{module}.{name}" for name in chosen or shown]
    return places


@cache
def places_by_last_part() -> dict[str, list[str]]:
    """The last part of each public name, and the names that end with it."""
    short: dict[str, list[str]] = {}
    for place in public_places() + module_places():
        short.setdefault(place.rpartition(".")[2], []).append(place)
    return short


@cache
def public_names() -> dict[str, str]:
    """The ways to write each public name, without "jaxnet.", and its place in the reference."""
    names = {name: found[0] for name, found in places_by_last_part().items() if len(found) == 1}
    names.pop("source", None)  # the name of many an argument
    places = public_places() + module_places()
    names |= {".".join(place.split(".")[-2:]): place for place in places}  # "tfds.load"
    return names | {place.removeprefix("jaxnet."): place for place in places}


def linked(text: str, own: str = "", others: dict[str, str | None] | None = None) -> str:
    """Markdown with public names in backticks as links, and other stars as they are.

    Args:
      text: Docstring.
      own: Public name that stays as it is.
      others: Names that mean something else here: their places, or None.
    """
    names = public_names() | (others or {})

    def link(match: re.Match) -> str:
        place = names.get(match[1])
        return match[0] if place in (None, own) else f"[{match[0]}][{place}]"

    lines, example, block, section, before = [], False, False, False, ""
    opened = ""  # the backtick of a piece of code that goes on in the next line
    for line in text.splitlines():
        if line[:1].strip():
            section = bool(HEAD.match(line))
        # An example goes up to its output, a block of code up to the next text.
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        deep = line.startswith("    ") and not section
        block = deep and (block or not before.strip()) or (block and not line.strip())
        code = example or block
        if not code:
            shown = WORD.sub(link, STAR.sub(lambda m: m[1] or r"\*", opened + line))
            opened, line = "`" * ((opened + line).count("`") % 2), shown.removeprefix(opened)
        lines.append(line)
        before = line
    return "\n".join(lines)


def qualified(text: str, path: str, known: Container[str]) -> str:
    """Examples that write public names as users do: `jn.fit` where the module says `fit`.

    Names of modules that users import themselves stay.

    Args:
      text: Docstring.
      path: Path of the object, which decides between two public names.
      known: Names of the module that the docstring is in.
    """
    lines = text.splitlines()
    prompts = [(i, match) for i, line in enumerate(lines) if (match := PROMPT.match(line))]
    try:
        tree = ast.parse("\n".join(match[2] for _, match in prompts))
    except SyntaxError:
        return text
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    bound |= {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in sorted(names, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        if node.id not in known or node.id in bound or node.id not in places_by_last_part():
            continue
        public = nearest(node.id, path)
        if not public.startswith(IMPORTED):
            i, match = prompts[node.lineno - 1]
            code = lines[i].removeprefix(match[1]).encode()
            name = public.replace("jaxnet", "jn", 1).encode()
            code = code[: node.col_offset] + name + code[node.end_col_offset :]
            lines[i] = match[1] + code.decode()
    return "\n".join(lines)


def lists(text: str) -> str:
    """A docstring whose lists in two columns, and entries ending in ";", are lists in Markdown.

    >>> print(lists("One of:\\n  x       An array\\n          of floats.\\n  (x, n)  The same."))
    One of:
    <BLANKLINE>
    - `x`: An array of floats.
    - `(x, n)`: The same.
    """
    shown: list[str] = []
    indent = column = -1  # of the list that the line before belongs to
    example, arguments, entries, ended = False, False, False, True
    for line in text.splitlines():
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        row, depth = ROW.fullmatch(line), len(line) - len(line.lstrip())
        if line[:1].strip():
            arguments = bool(ARGUMENTS.match(line))
        if not (example or arguments) and row and depth != column and indent in (-1, depth):
            if indent < 0:
                shown.append("")
            indent, column = depth, row.start(3)
            shown.append(f"- {quoted(row[2])}: {row[3]}")
        elif indent >= 0 and depth > indent and line.strip():
            shown[-1] += f" {line.strip()}"
        elif entries and line.strip() and not line[0].strip():
            if ended:
                shown.append("- ")
            shown[-1] += f" {line.strip().removesuffix(';')}".lstrip("" if not ended else " ")
            ended = line.endswith(";")
        else:
            if indent >= 0 and line.strip():
                shown.append("")
            indent = column = -1
            shown.append(line)
        if SECTION.fullmatch(line):
            entries, ended = has_entries(text, line), True
            shown += [""] * entries
        elif not line.strip() or depth == 0:
            entries = False
    return "\n".join(shown)


def has_entries(text: str, head: str) -> bool:
    """Whether the lines of a section of a layer are entries, each of which ends in ";"."""
    part = text.split(f"{head}\n", 1)[1].split("\n\n")[0]
    return bool(re.search(r";$", part, re.M)) and not re.search(r"^  \S.*\S {2,}\S", part, re.M)


def quoted(term: str) -> str:
    """A term as code, unless it has backticks."""
    return term if "`" in term else f"`{term}`"


def nearest(name: str, path: str) -> str:
    """The public name with this last part that has most of its beginning in common with a path."""
    places = places_by_last_part()[name]
    return max(places, key=lambda place: len(os.path.commonprefix([place, path])))


class Sections(griffe.Extension):
    """Shows the entries of a layer as text, links public names, and writes them in full."""

    def on_package(self, *, pkg: griffe.Module, **options: Any) -> None:
        self._show(pkg)

    def _show(self, obj: griffe.Object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value, obj)
        for member in obj.members.values():
            if isinstance(member, griffe.Object):  # and no alias
                self._show(member)


def shown(text: str, obj: griffe.Object) -> str:
    """The docstring of an object, for the reference."""
    text = lists(qualified(text, obj.path, obj.module.members))
    for section, title in TITLES.items():
        text = re.sub(rf"^{section}:$", title, text, flags=re.M)
    text = linked(text, others=own_names(obj))
    text = SECTION.sub(lambda m: f"**{CREATED.get(m[1], m[1])}{m[2] or ''}:**\n", text)
    text = re.sub(r"^Reference:", "**Reference**:", text, flags=re.M)
    return RETURNS.sub(r"\1:\n\2: ", text)


def methods(cls: griffe.Object) -> list[str]:
    """The public methods of a class, in order."""
    found = [name for name, value in cls.members.items() if value.is_function]
    return [name for name in found if name[0] != "_" and cls.members[name].docstring]


def own_names(obj: griffe.Object) -> dict[str, str | None]:
    """The names of methods, which have an entry, and of arguments, which are not linked."""
    found: dict[str, str | None] = {}
    cls = obj if obj.is_class else obj.parent
    if cls is not None and cls.is_class and cls.name in places_by_last_part():
        public = nearest(cls.name, cls.path)
        found = {name: f"{public}.{name}" for name in methods(cls)}
    both = obj, cls
    return found | {p.name: None for o in both for p in getattr(o, "parameters", ())}
