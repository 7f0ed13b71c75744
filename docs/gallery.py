"""The gallery: a card for each finding of the experiments, with its picture and its links."""

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
# What one would show a friend comes first, then the pages in their order, and speed comes last.
FIRST = (
    "camvid_overlays.png", "bccd_boxes.png", "flow_matching.png", "edges_filters.png",
    "moving_digits_videos.png", "inside_photos.png", "translate_attention.png",
    "perceptron_line.gif", "autoencoder_manifold.png", "inside_attributions.png",
    "mnist_mistakes.png", "hmm_letters.png", "browser_digits.png", "rbm_samples_pcd.png",
    "features_dictionaries.png", "compressed_sensing_digits.png", "speech_alignment.png",
)  # fmt: skip


class Card(NamedTuple):
    """A picture with the claim that it shows; the links are seen from `experiments/`, or ""."""

    picture: str
    alt: str
    claim: str
    result: str
    source: str
    lesson: str


def write_gallery(pages: Path) -> None:
    """Writes a page with a card for each finding that has a picture."""
    folder = pages / "experiments"
    cards = [card for path in ordered([*folder.rglob("*.md")]) for card in found(path, folder)]
    lines = ["# Gallery", "", "Findings of the experiments. Select a picture to enlarge it.", ""]
    lines += ['<div class="gallery" markdown>', ""]
    lines += [line for card in sorted(cards, key=rank) for line in shape(card)] + ["</div>", ""]
    (folder / "gallery.md").write_text("\n".join(lines), encoding="utf-8")


def rank(card: Card) -> int:
    """The place of a card in the gallery."""
    if card.picture in FIRST:
        return FIRST.index(card.picture)
    return len(FIRST) + card.result.startswith("performance")


def found(path: Path, folder: Path) -> list[Card]:
    """The findings of a page that have pictures, each with one of them."""
    text = path.read_text(encoding="utf-8")
    starts = [*HEADING.finditer(text)]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    cards = []
    for heading, end in zip(starts, ends, strict=True):
        part = text[heading.start() : end]
        source, lesson = SOURCE.search(part), LESSON.search(part)
        if pictures := PICTURE.findall(part):
            alt, name = next((pair for pair in pictures if pair[1] in FIRST), pictures[0])
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
            ("result", card.result),
            ("source", card.source),
            (f"lesson {lesson_number(card.lesson)}", card.lesson),
        )
        if link
    ]
    return figure(
        f"pictures/{card.picture}",
        card.alt.replace("`", ""),
        f"pictures/{card.picture}",
        f"**{card.alt}**<br>{card.claim} <span markdown>{' · '.join(links)}</span>",
    )


def lesson_number(link: str) -> str:
    return str(number(Path(link))) if link else ""
