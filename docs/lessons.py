"""The lessons as pages: the notebooks, with the outputs that they have."""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
GROUPS: dict[str, tuple[int, ...]] = {
    "Foundations": (1, 2, 3),
    "Unsupervised learning": (4, 5),
    "Vision": (6, 7, 8, 9, 10),
    "Sequences": (11, 12, 13),
    "The library": (14, 15),
    "Transformers": (16, 17, 18),
    "Generative models": (19, 20, 21),
    "Further topics": (22, 23, 24),
}
"""Title in the menu -> numbers of its lessons. Others follow under "More"."""
DOWNLOADS = "notebooks"  # a folder of the notebooks themselves
LESSONS = sorted((ROOT / "colab").glob("[0-9]*.ipynb"))
# A cell before the subject begins: the size, the installation, or nothing but imports.
SETUP = re.compile(r'^SIZE = "|"JAXNET_SIZE"|\A(?:(?:#|import |from |    |\)).*\n?|\n)+\Z', re.M)
# The table of lessons in colab/README.md, and its rows.
ROW = re.compile(
    r"^\|[^|]*\| *\[(?P<title>[^]]+)\]\((?P<file>\w+\.ipynb)\) *\|(?P<subject>[^|]*)", re.M
)
TABLE = re.compile(r"^\|.*\n\|[-:| ]+\|\n(?:\|.*\.ipynb.*\n)+", re.M)
COLUMNS = re.compile(r"\S {2,}\S|\|")
NUMBERS = re.compile(r"(?<=\blesson )\d+|(?<=\blessons )\d+(?:(?:, | and |, and | to )\d+)*")


def number(path: Path) -> int:
    return int(path.stem[:2])


def groups() -> dict[str, list[Path]]:
    """Title of a group -> its lessons, in the order of the menu."""
    by_number = {number(path): path for path in LESSONS}
    found = {
        title: [by_number.pop(n) for n in numbers if n in by_number]
        for title, numbers in GROUPS.items()
    }
    return found | ({"More": list(by_number.values())} if by_number else {})


def write_lessons(pages: Path, repository: str) -> set[Path]:
    """Writes a page for each notebook, next to its pictures; returns the pages."""
    folder = pages / "colab"
    (folder / DOWNLOADS).mkdir(parents=True, exist_ok=True)
    written = set()
    for path in LESSONS:
        target = folder / f"{path.stem}.md"
        target.write_text(page(path, folder, repository), encoding="utf-8")
        shutil.copy(path, folder / DOWNLOADS)
        written.add(target)
    return written


def write_index(pages: Path) -> None:
    """Shows the lessons of the page of all lessons by group, each with its cover."""
    index = pages / "colab" / "README.md"
    text = index.read_text(encoding="utf-8")
    rows = {match["file"]: match for match in ROW.finditer(text)}
    table = TABLE.search(text)
    if table is None:
        return
    lines = []
    for title, paths in groups().items():
        lines += [f"## {title}", "", '<div class="gallery" markdown>', ""]
        for path in (path for path in paths if path.name in rows):
            lines += card(path, rows[path.name], pages / "colab")
        lines += ["</div>", ""]
    index.write_text(
        text[: table.start()] + "\n".join(lines) + text[table.end() :], encoding="utf-8"
    )


def card(path: Path, row: re.Match, folder: Path) -> list[str]:
    """A lesson of the index, in Markdown."""
    book = json.loads(path.read_text(encoding="utf-8"))
    first = "".join(book["cells"][0]["source"])
    fields = re.findall(r"\*(?:Prerequisites|Time):\*.+?(?=\*[\w ]+:\*|\n\n|\Z)", first, re.S)
    note = linked_lessons(" ".join(" ".join(fields).split()))
    pictures = sorted(folder.glob(f"{path.stem}_{cover(book)}*.png"))
    title = f"[{number(path)}. {row['title']}]({path.name})"
    caption = f"**{title}** <span markdown>{row['subject'].strip()}</span>"
    caption += f"<span markdown>{note}</span>"
    return figure(pictures[0].name if pictures else "", row["title"], path.name, caption)


def cover(book: dict[str, Any]) -> str:
    """A pattern of the pictures of the cell that a notebook names as its cover; by default of all.

    >>> cover({"cells": [{"id": "a"}, {"id": "b"}], "metadata": {"jaxnet": {"cover": "b"}}})
    '001_'
    """
    name = book["metadata"].get("jaxnet", {}).get("cover")
    if name is None:
        return "[0-9]"
    places = {cell["id"]: f"{i:03}_" for i, cell in enumerate(book["cells"])}
    return places[name]


def figure(picture: str, alt: str, target: str, caption: str) -> list[str]:
    """A picture that is a link, with a caption, in Markdown."""
    image = f"![{alt}]({picture}){{ loading=lazy }}" if picture else ""
    return [
        "<figure markdown>",
        f"[{image}]({target})",
        f"<figcaption markdown>{caption}</figcaption>",
        "</figure>",
        "",
    ]


def page(path: Path, folder: Path, repository: str) -> str:
    """A notebook in Markdown; its pictures go to the folder."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first, setup = "".join(cells.pop(0)["source"]), []
    while cells and cells[0]["cell_type"] == "code" and SETUP.search("".join(cells[0]["source"])):
        setup.append(code(cells.pop(0) | {"metadata": {}}, f"{path.stem}_setup", folder))
    title, _, rest = first.partition("\n")
    colab = repository.replace("https://github.com", "https://colab.research.google.com/github")
    buttons = [
        f"[Open in Colab]({colab}/blob/main/colab/{path.name}){{ .md-button .md-button--primary }}",
        f"[Download notebook]({DOWNLOADS}/{path.name}){{ .md-button download }}",
    ]
    # The site has its own links to Colab and to the lessons before and after.
    rest = "\n\n".join(p for p in rest.strip().split("\n\n") if "colab.research" not in p)
    parts = [title, " ".join(buttons), linked_lessons(rest)]
    if setup:
        text = "\n\n".join(setup).replace("\n", "\n    ")
        parts += [f'??? note "Set up: size, installation, imports"\n\n    {text}']
    for i, cell in enumerate(cells, start=1 + len(setup)):
        if cell["cell_type"] == "code":
            parts.append(code(cell, f"{path.stem}_{i:03}", folder))
        else:
            text = with_pictures(cell, path.stem, folder)
            parts.append(unfolded(text) if "<details>" in text else text)
    return "\n\n".join(parts) + "\n"


def with_pictures(cell: dict[str, Any], name: str, folder: Path) -> str:
    """The text of a cell; its attached pictures become files that begin with the name."""
    text = "".join(cell["source"])
    for attached, data in cell.get("attachments", {}).items():
        file = f"{name}_{attached}"
        (folder / file).write_bytes(base64.b64decode(data["image/png"]))
        text = text.replace(f"](attachment:{attached})", f"]({file}){{ loading=lazy }}")
    return text


def unfolded(text: str) -> str:
    """A cell whose details Python-Markdown renders, as notebooks do.

    It needs four spaces below the number of an item, and text before a block of code.
    """
    lines, inside, code = [], False, False
    for line in text.replace("<details>", "<details markdown>").splitlines():
        item = re.match(r"(\d+\.) +(.*)", line)
        inside = bool(item) or (inside and line[:3].strip() == "")
        fence = (item[2] if item else line.strip()).startswith("```")
        if item and not code:
            lines += ["", f"{item[1]} {'&nbsp;' if fence else item[2]}"]
        if inside and fence and not code:
            lines.append("")
        if not inside:
            lines.append(line)
        elif fence or not item:
            lines.append(f"    {item[2] if item else line[3:]}".rstrip())
        code ^= fence
        if inside and fence and not code:
            lines.append("")
    return "\n".join(lines)


def linked_lessons(text: str) -> str:
    """Links the numbers in "lessons 3, 5 and 12"."""
    names = {str(number(path)): path.name for path in LESSONS}

    def links(match: re.Match) -> str:
        return re.sub(
            r"\d+", lambda m: f"[{m[0]}]({names[m[0]]})" if m[0] in names else m[0], match[0]
        )

    return NUMBERS.sub(links, text)


def code(cell: dict[str, Any], name: str, folder: Path) -> str:
    """A cell with its outputs: text, and pictures in files that begin with the name.

    The source of a cell that a notebook folds is folded here too.
    """
    parts = [fenced("".join(cell["source"]), "python")]
    if cell.get("metadata", {}).get("jupyter", {}).get("source_hidden"):
        inside = parts[0].replace("\n", "\n    ")
        parts = [f'??? note "Code of this cell"\n\n    {inside}']
    for i, output in enumerate(cell["outputs"]):
        data = output.get("data", {})
        if "image/png" in data:
            file = f"{name}_{i}.png"
            (folder / file).write_bytes(base64.b64decode("".join(data["image/png"])))
            parts.append(f"![Output of the cell above]({file}){{ .output loading=lazy }}")
        else:
            text = "".join(output.get("text", data.get("text/plain", ""))).rstrip("\n")
            parts.append(fenced(text, output_kind(text)))
    return "\n\n".join(parts)


def output_kind(text: str) -> str:
    """The classes of a block with an output; only one without columns is wrapped.

    >>> output_kind("loss 0.1"), output_kind("a  b")
    ('{ .text .output .no-copy .wrapped }', '{ .text .output .no-copy }')
    """
    wrapped = "" if COLUMNS.search(text) else " .wrapped"
    return f"{{ .text .output .no-copy{wrapped} }}"


def fenced(text: str, kind: str) -> str:
    ticks = "````" if "```" in text else "```"
    return f"{ticks}{kind}\n{text}\n{ticks}"
