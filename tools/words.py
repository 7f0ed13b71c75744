"""Counts the words of the pages and compares them with their budgets.

    python -m tools.words

prints each page with its words and its budget, and fails if one has more. What does not fit is cut,
not moved. A word has a letter or a digit; code counts, HTML tags do not.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALL = 45_000  # of all pages together
TAG = re.compile(r"</?[a-z][^>\n]*>")
BUDGETS = {
    "README.md": 700,
    "CHANGELOG.md": 300,
    "CONTRIBUTING.md": 1_550,
    "SECURITY.md": 400,
    "colab/README.md": 1_020,
    "experiments/README.md": 700,
    "experiments/performance.md": 1_700,
    "experiments/results": 7_700,  # a folder: all of its pages
    "guide/README.md": 450,
    "guide/architecture.md": 700,
    "guide/cheat_sheet.md": 400,
    "guide/checkpoints.md": 1_050,
    "guide/compare.md": 600,
    "guide/data.md": 1_550,
    "guide/data_frames.md": 600,
    "guide/deployment.md": 1_400,
    "guide/evaluation.md": 1_000,
    "guide/faq.md": 700,
    "guide/fine_tuning.md": 850,
    "guide/getting_started.md": 1_100,
    "guide/glossary.md": 750,
    "guide/inspection.md": 1_050,
    "guide/key_ideas.md": 1_000,
    "guide/losses.md": 1_000,
    "guide/migrating": 3_900,
    "guide/models.md": 1_800,
    "guide/optimizers.md": 910,
    "guide/own_boxes.md": 750,
    "guide/own_images.md": 800,
    "guide/programs.md": 1_700,
    "guide/research.md": 800,
    "guide/scaling.md": 1_700,
    "guide/sequences.md": 1_720,
    "guide/training.md": 1_500,
    "guide/troubleshooting.md": 3_300,
}


def count(text: str) -> int:
    """The words of a page.

    >>> count('A **bold** word, `code()`. <img src="a.png" alt="Two words"> | --- | 1.5 |')
    5
    """
    return sum(bool(re.search(r"\w", word)) for word in TAG.sub("", text).split())


def counted(name: str) -> int:
    """The words of a page or of all pages of a folder."""
    path = ROOT / name
    pages = path.rglob("*.md") if path.is_dir() else [path]
    return sum(count(page.read_text()) for page in pages)


def unlisted() -> list[str]:
    """The pages without a budget."""
    folders = ("guide", "experiments", "colab")
    pages = [*ROOT.glob("*.md"), *(p for name in folders for p in (ROOT / name).rglob("*.md"))]
    names = (page.relative_to(ROOT).as_posix() for page in pages if "runs" not in page.parts)
    return [n for n in names if not any(n == b or n.startswith(f"{b}/") for b in BUDGETS)]


def main() -> int:
    found = {name: counted(name) for name in BUDGETS}
    for name, words in found.items():
        print(f"{name:28} {words:6,} of {BUDGETS[name]:6,}{'  !' * (words > BUDGETS[name])}")
    total = sum(found.values())
    print(f"{'all':28} {total:6,} of {ALL:6,}{'  !' * (total > ALL)}")
    over = [name for name, words in found.items() if words > BUDGETS[name]]
    return bool(over or total > ALL or unlisted())


if __name__ == "__main__":
    sys.exit(main())
