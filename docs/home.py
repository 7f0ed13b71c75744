"""The home page: a board to draw a digit on, the lines that trained its net, then the README."""

import inspect
import re
from pathlib import Path
from textwrap import indent

from experiments import browser_digits

LESSON = "06_convolution_by_hand_to_lenet5"
SITE = re.compile(r"\[Site\]\(.*?\n\n", re.S)  # links to the site, which are in its menu


def write_home(pages: Path, repository: str) -> None:
    """Writes the scripts of the board, and puts it below the title of the README."""
    readme = pages / "README.md"
    title, rest = readme.read_text().split("\n\n", 1)
    owner, name = repository.rstrip("/").split("/")[-2:]
    colab = f"https://colab.research.google.com/github/{owner}/{name}/blob/main/colab"
    lines = inspect.getsource(browser_digits.learn)
    parts = [
        title,
        browser_digits.write_board(pages).rstrip(),
        f'??? example "The {len(lines.splitlines())} lines of Python that trained it"',
        indent(f"```python\n{lines}```", "    "),
        f"    [Train LeNet-5 in Colab]({colab}/{LESSON}.ipynb) ·"
        f" [whole program]({repository}/blob/main/experiments/browser_digits.py)",
        SITE.sub("", rest, count=1),
    ]
    readme.write_text("\n\n".join(parts))
