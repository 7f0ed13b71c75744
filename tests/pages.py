"""The Python in texts: what stands in a page, and what it prints when it is run."""

import doctest
import io
import re
import traceback
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
# A block of Python, and the block of text behind it where there is one: what it prints.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n?```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
# JAX's own note on an exception, the same on all of them.
FILTERED = re.compile(r"^-+\nFor simplicity, JAX has removed .*\n", re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Block(NamedTuple):
    """A block of Python.

    Fields:
      where: page and line, for messages.
      code: what is run.
      shown: what the page says that it prints; None where it says nothing.
    """

    where: str
    code: str
    shown: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks of Python in a page, in order."""
    text = page.read_text()
    return [
        Block(f"{page.name}:{text.count(chr(10), 0, found.start()) + 1}", *found.groups())
        for found in BLOCK.finditer(text)
    ]


def sections(page: Path) -> dict[str, list[Block]]:
    """Heading -> blocks; "" is what stands before the first heading of the second level."""
    lines, found = page.read_text().splitlines(), {}
    starts = {i + 1: line[3:] for i, line in enumerate(lines) if line.startswith("## ")}
    for block in blocks(page):
        line = int(block.where.split(":")[1])
        heading = max((start for start in starts if start < line), default=0)
        found.setdefault(starts.get(heading, ""), []).append(block)
    return found


def run(block: Block, names: dict) -> None:
    """Runs a block, and compares what it prints where the page shows it.

    A page may show a warning and an error too: the last lines that Python would print of them.
    """
    code = compile("\n" * int(block.where.split(":")[1]) + block.code, block.where, "exec")
    if block.shown is None:
        with redirect_stdout(io.StringIO()):
            exec(code, names)  # our own text
        return
    out = io.StringIO()
    with redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, *_, **__: print(
            f"{category.__name__}: {message}"
        )
        try:
            exec(code, names)
        except Exception as error:
            print("".join(traceback.format_exception_only(error)))
    printed = FILTERED.sub("", out.getvalue())
    right = doctest.OutputChecker().check_output(block.shown, printed, FLAGS)
    assert right, f"{block.where} shows\n{block.shown}\nand prints\n{printed}"
