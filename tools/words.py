"""Counts the words of the pages.

    python -m tools.words

prints the words of each page, and of all pages together. A word has a letter or a digit. Blocks of
code do not count, nor do HTML tags.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("guide", "experiments", "colab")
LEFT_OUT = re.compile(r"^ *```.*?^ *```[^\n]*$|</?[a-z][^>\n]*>", re.MULTILINE | re.DOTALL)


def count(text: str) -> int:
    """The words of a page.

    >>> count('A **bold** word, `code()`. <img src="a.png" alt="Two words"> | --- | 1.5 |')
    5
    """
    return sum(bool(re.search(r"\w", word)) for word in LEFT_OUT.sub("", text).split())


def pages() -> list[Path]:
    """The pages at the top of the project and in the folders that have pages."""
    found = [
        *ROOT.glob("*.md"),
        *(page for name in FOLDERS for page in (ROOT / name).rglob("*.md")),
    ]
    return sorted(page for page in found if "runs" not in page.relative_to(ROOT).parts)


def main() -> None:
    counts = {
        page.relative_to(ROOT).as_posix(): count(page.read_text(encoding="utf-8"))
        for page in pages()
    }
    for name, words in counts.items():
        print(f"{name:36} {words:6,}")
    print(f"{'all':36} {sum(counts.values()):6,}")


if __name__ == "__main__":
    main()
