"""Counts the words of the pages and compares them with their budgets.

    python -m tools.words

prints each page with its words and its budget, and fails if one has more. What does not fit is cut,
not moved. A word has a letter or a digit. Blocks of code do not count, nor do HTML tags.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ALL = 35_500  # of all pages together
LEFT_OUT = re.compile(r"^ *```.*?^ *```[^\n]*$|</?[a-z][^>\n]*>", re.MULTILINE | re.DOTALL)
BUDGETS = {
    "README.md": 540,
    "CHANGELOG.md": 320,
    "CONTRIBUTING.md": 1_440,
    "SECURITY.md": 440,
    "colab/README.md": 1_300,
    "colab/topics.md": 780,
    "experiments/README.md": 590,
    "experiments/performance.md": 1_870,
    "experiments/results": 8_250,  # a folder: all of its pages
    "guide/README.md": 400,
    "guide/architecture.md": 620,
    "guide/cheat_sheet.md": 40,
    "guide/checkpoints.md": 840,
    "guide/compare.md": 490,
    "guide/data.md": 980,
    "guide/data_frames.md": 200,
    "guide/deployment.md": 840,
    "guide/evaluation.md": 480,
    "guide/faq.md": 600,
    "guide/fine_tuning.md": 530,
    "guide/getting_started.md": 650,
    "guide/glossary.md": 710,
    "guide/inspection.md": 730,
    "guide/key_ideas.md": 810,
    "guide/losses.md": 550,
    "guide/migrating": 2_780,
    "guide/models.md": 1_000,
    "guide/optimizers.md": 530,
    "guide/own_boxes.md": 480,
    "guide/own_images.md": 420,
    "guide/own_text.md": 210,
    "guide/programs.md": 550,
    "guide/research.md": 330,
    "guide/scaling.md": 1_200,
    "guide/sequences.md": 990,
    "guide/training.md": 820,
    "guide/troubleshooting.md": 2_230,
}


def count(text: str) -> int:
    """The words of a page.

    >>> count('A **bold** word, `code()`. <img src="a.png" alt="Two words"> | --- | 1.5 |')
    5
    """
    return sum(bool(re.search(r"\w", word)) for word in LEFT_OUT.sub("", text).split())


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
