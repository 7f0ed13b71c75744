"""The home page: what jaxnet is, two nets that compute in it, then the README.

Below each net are the lines that trained it.
"""

import inspect
import re
from pathlib import Path
from textwrap import indent

from experiments import browser_digits, browser_letters, common

LESSONS = {
    browser_digits: ("reads digits", "06_convolution_by_hand_to_lenet5"),
    browser_letters: ("writes plays", "16_transformers_and_a_small_gpt"),
}
SITE = re.compile(r"\[Site\]\(.*?\n\n", re.S)  # links to the site, which are in its menu
INSTALL = re.compile(r"^## Install\n\n(```sh\npip install .*?```)$", re.S | re.M)
BREAK_IT = (
    "**[Break it](break_it.md):** "
    "[make the perceptron fail](break_it.md#perceptron), "
    "[cut a hole into LeNet](break_it.md#filters) or [show the GPT the future](break_it.md#mask)."
)


def write_home(pages: Path, repository: str) -> None:
    """Writes the scripts of the nets, and puts them below the first sentence of the README."""
    readme = pages / "README.md"
    title, rest = readme.read_text(encoding="utf-8").split("\n\n", 1)
    first, rest = re.split(r"(?<=\w\)\.)\s", rest, maxsplit=1)
    (install,) = INSTALL.findall(rest)
    owner, name = repository.rstrip("/").split("/")[-2:]
    colab = f"https://colab.research.google.com/github/{owner}/{name}/blob/main/colab"
    install = install.replace("```sh", "```{ .sh .wrapped }", 1)  # a phone shows all of it
    parts = [title, first, install, browser_digits.write_board(pages).rstrip(), BREAK_IT]
    for program, (what, lesson) in LESSONS.items():
        lines = "\n\n".join(map(inspect.getsource, (program.learn, common.moments)))
        name = program.__name__.replace(".", "/")
        parts += [
            f'??? example "The {len(lines.splitlines())} lines of Python that trained what {what}"',
            indent(f"```python\n{lines}```", "    "),
            f"    [Train it in Colab]({colab}/{lesson}.ipynb) ·"
            f" [whole program]({repository}/blob/main/{name}.py)",
        ]
    parts.append(SITE.sub("", rest, count=1))
    readme.write_text("\n\n".join(parts), encoding="utf-8")
