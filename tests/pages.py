"""The Python blocks of a Markdown page, and their output.

`python -m tests.pages README.md` prints the blocks, to run them elsewhere.
"""

import doctest
import io
import re
import sys
import traceback
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
# A block of Python, and the block after it, if any: its output, where "..." stands for anything.
# In a block of `output`, unlike in one of `text`, the decimals may differ too. A block of `sample`,
# such as a generated text, is not compared.
BLOCK = re.compile(r"(?sm)^```python\n(.*?)^```\n(?:\n?```(text|output|sample)\n(.*?)^```\n)?")
DECIMAL = re.compile(r"\d+\.\d+|\d+(?= s\b)")  # or whole seconds
# A note that JAX adds to every exception.
FILTERED = re.compile(r"^-+\nFor simplicity, JAX has removed .*\n", re.MULTILINE)
# Sections that all others of a page need, and what other pages need of them.
SHARED = ("The same network in jaxnet", "Start from this block")
STARTS = dict.fromkeys(("losses", "optimizers", "evaluation", "data", "checkpoints"), "training")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A block of Python.

    Fields:
      where: page and line, for messages.
      code: the Python.
      form: "text", "output", "sample", or None without an output on the page.
      shown: the output on the page; None without one.
    """

    where: str
    code: str
    form: str | None
    shown: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks of Python in a page, in order."""
    text = page.read_text()
    return [
        Block(f"{page.name}:{text.count(chr(10), 0, found.start()) + 1}", *found.groups())
        for found in BLOCK.finditer(text)
    ]


def sections(page: Path) -> dict[str, list[Block]]:
    """Heading of the second level -> its blocks; "" has the blocks before the first heading.

    It also has those of a section that all others need.
    """
    lines, found = page.read_text().splitlines(), {}
    starts = {i + 1: line[3:] for i, line in enumerate(lines) if line.startswith("## ")}
    starts = {i: "" if heading in SHARED else heading for i, heading in starts.items()}
    for block in blocks(page):
        line = int(block.where.split(":")[1])
        heading = max((start for start in starts if start < line), default=0)
        found.setdefault(starts.get(heading, ""), []).append(block)
    return found


def start(page: Path) -> list[Block]:
    """The blocks that every section of a page needs, which may stand on another page."""
    shared = "README" if page.parent.name == "migrating" else STARTS.get(page.stem, page.stem)
    return sections(page).get("", []) or sections(page.with_name(f"{shared}.md")).get("", [])


def run(block: Block, names: dict) -> None:
    """Runs a block, and compares its output with the output on the page, if any.

    A page may show warnings and an error as well: the last lines that Python would print of them.
    """
    code = compile("\n" * int(block.where.split(":")[1]) + block.code, block.where, "exec")
    if block.shown is None:
        with redirect_stdout(io.StringIO()):
            exec(code, names)  # our own text
        return
    out = io.StringIO()
    with redirect_stdout(out), warnings.catch_warnings(action="always"):
        # As Python does: a deprecation is shown to the code that it concerns, here the section.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("always", category=DeprecationWarning, module="guide")
        warnings.showwarning = lambda message, category, *_, **__: print(
            f"{category.__name__}: {message}"
        )
        try:
            exec(code, names)
        except ImportError:  # no page shows one: the section needs a package
            raise
        except Exception as error:
            print("".join(traceback.format_exception_only(error)))
    printed = FILTERED.sub("", out.getvalue())
    shown = block.shown if block.form != "sample" else "..."
    found = printed
    if block.form == "output":
        shown = DECIMAL.sub("0.0", shown)
        found = DECIMAL.sub("0.0", found)
    equal = doctest.OutputChecker().check_output(shown, found, FLAGS)
    assert equal, f"{block.where} shows\n{block.shown}\nand prints\n{printed}"


if __name__ == "__main__":
    print("\n".join(block.code for page in sys.argv[1:] for block in blocks(Path(page))))
