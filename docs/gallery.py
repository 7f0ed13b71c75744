"""The gallery: each picture of the experiments with its finding, result, source and lesson."""

import re
from pathlib import Path
from typing import NamedTuple

from docs.lessons import figure, number
from docs.navigation import ordered
from experiments.pages import anchor

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
        source, lesson = SOURCE.search(part), LESSON.search(part)
        for alt, name in PICTURE.findall(part):
            cards.append(
                Card(
                    name,
                    " ".join(alt.split()),
                    heading[1],
                    f"{path.relative_to(folder).as_posix()}#{anchor(heading[1])}",
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


def shape(card: Card) -> list[str]:
    """The figure of a card, in Markdown."""
    links = [
        f"[{text}]({link})"
        for text, link in (
            ("result", card.result), ("source", card.source),
            (f"lesson {lesson_number(card.lesson)}", card.lesson))
        if link
    ]  # fmt: skip
    return figure(
        f"pictures/{card.picture}",
        card.alt.replace("`", ""),
        f"pictures/{card.picture}",
        f"**{card.alt}**<br>{card.claim} <span markdown>{' · '.join(links)}</span>",
    )


def lesson_number(link: str) -> str:
    return str(number(Path(link))) if link else ""
