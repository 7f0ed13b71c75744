"""The gallery: each picture of the experiments with its finding, result, source and lesson."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

from docs.lessons import LESSONS, number
from docs.navigation import ordered

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"
HEADING = re.compile(r"^#{2,3} (.+)$", re.M)
PICTURE = re.compile(r"!\[([^\]]*)\]\(\s*[^)\s]*pictures/([^)\s]+)")
SOURCE = re.compile(r"\[source\]\(([^)\s]+)\)")
LESSON = re.compile(r"\]\(([^)\s]*colab/\d\d_\w+)\.(?:ipynb|md)\)")


class Card(NamedTuple):
    """A picture with the claim that it shows; the links are seen from `experiments/`, or ""."""

    picture: str
    alt: str
    claim: str
    result: str
    source: str
    lesson: str


def write_gallery(pages: Path) -> None:
    """Writes a page with a card for each picture, grouped by the pages of results."""
    folder = pages / "experiments"
    groups: dict[str, list[Card]] = {}
    shown = set()
    for path in ordered([*folder.rglob("*.md")]):
        title = re.search(r"^# (.+)$", path.read_text(), re.M)
        cards = [card for card in found(path, folder) if card.picture not in shown]
        if cards and title:
            groups[title[1]] = cards
            shown |= {card.picture for card in cards}
    names = {path.name for path in (folder / "pictures").iterdir()}
    others = [described(name) for name in sorted(names - shown)]
    if others:
        groups["Other experiments" if groups else "Experiments"] = others
    lines = ["# Gallery", "", "The pictures of the experiments. Select one to enlarge it.", ""]
    for title, cards in groups.items():
        lines += [f"## {title}", "", '<div class="gallery" markdown>', ""]
        lines += [line for card in cards for line in shape(card)] + ["</div>", ""]
    (folder / "gallery.md").write_text("\n".join(lines))


def found(path: Path, folder: Path) -> list[Card]:
    """The pictures of a page of results, each with the finding that it stands under."""
    text = path.read_text()
    starts = [*HEADING.finditer(text)]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    cards = []
    for heading, end in zip(starts, ends, strict=True):
        part = text[heading.start() : end]
        anchor = re.sub(r"[ ]", "-", re.sub(r"[^\w -]", "", heading[1].lower()))
        source, lesson = SOURCE.search(part), LESSON.search(part)
        for alt, name in PICTURE.findall(part):
            cards.append(
                Card(
                    name,
                    " ".join(alt.split()),
                    heading[1],
                    f"{path.relative_to(folder).as_posix()}#{anchor}",
                    seen(path, source[1], folder) if source else "",
                    seen(path, f"{lesson[1]}.ipynb", folder) if lesson else "",
                )
            )
    return cards


def seen(path: Path, link: str, folder: Path) -> str:
    """A link of a page, as seen from the folder."""
    if "://" in link:
        return link
    target = (path.parent / link).resolve().relative_to(folder.resolve().parent)
    return f"../{target.as_posix()}"


def described(picture: str) -> Card:
    """A picture without a finding: the claim of the experiment whose name it begins with."""
    paths = {p.stem: p for p in EXPERIMENTS.glob("*.py") if not p.name.startswith("_")}
    paths |= {p.parent.name: p for p in EXPERIMENTS.glob("*/__init__.py")}
    fits = [name for name in paths if picture.startswith(name)]
    if not fits:
        title = Path(picture).stem.replace("_", " ").capitalize()
        return Card(picture, title, title, "", "", "")
    name = max(fits, key=len)
    parts = (ast.get_docstring(ast.parse(paths[name].read_text())) or name).split("\n\n")
    claim = next((part for part in parts if part.startswith("Claim")), parts[0])
    claim = re.split(r"[;.] ", re.sub(r"^Claims?: ", "", " ".join(claim.split())))[0].rstrip(".")
    claim = claim[:1].upper() + claim[1:]
    mentions = re.compile(rf"experiments[./]{name}\b")
    lessons = [path for path in LESSONS if mentions.search(path.read_text())]
    lesson = f"../colab/{lessons[0].name}" if lessons else ""
    source = f"../{paths[name].relative_to(ROOT).as_posix()}"
    return Card(picture, claim, claim, "README.md", source, lesson)


def shape(card: Card) -> list[str]:
    """The figure of a card, in Markdown."""
    links = [
        f"[{text}]({link})"
        for text, link in (
            ("result", card.result), ("source", card.source),
            (f"lesson {lesson_number(card.lesson)}", card.lesson))
        if link
    ]  # fmt: skip
    image = f"![{card.alt.replace('`', '')}](pictures/{card.picture}){{ loading=lazy }}"
    return [
        "<figure markdown>",
        f"[{image}](pictures/{card.picture})",
        f"<figcaption markdown>{card.claim} <span markdown>{' · '.join(links)}</span></figcaption>",
        "</figure>",
        "",
    ]


def lesson_number(link: str) -> str:
    return str(number(Path(link))) if link else ""
