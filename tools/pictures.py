"""Makes the pictures of the guide by the programs next to them.

    python -m tools.pictures guide/inspection.md

runs each program of a page that saves one of the page's pictures, and writes them to
`guide/pictures`. Without a page it makes all pictures. Look at them before you commit them.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.pages import ROOT, Block, blocks, run, sections, start

FOLDER = ROOT / "guide" / "pictures"
COLORS = 256  # of a file; plots and pixel images need no more


def programs(page: Path) -> list[list[Block]]:
    """The programs of a page: one per section after a common beginning, or the whole page.

    A page that says that its blocks run in order is one program.
    """
    if "blocks run in order" in page.read_text(encoding="utf-8"):
        return [blocks(page)]
    return [start(page) + found for name, found in sections(page).items() if name]


def shown(page: Path) -> set[str]:
    """The names of the pictures of a page that `guide/pictures` has."""
    return set(
        re.findall(r"!\[[^]]+\]\((?:\.\./)?pictures/([\w.]+)\)", page.read_text(encoding="utf-8"))
    )


def reduced(source: Path, target: Path) -> None:
    """Writes a picture with few colors, which makes the file small."""
    from PIL import Image

    image = Image.open(source, formats=["PNG"]).convert("RGB")
    few = image.quantize(COLORS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(target, optimize=True)


def make(page: Path) -> list[Path]:
    """Writes the pictures of a page, and returns their paths."""
    made = []
    for program in programs(page):
        code = "\n".join(block.code for block in program)
        wanted = {name for name in shown(page) if f'"{name}"' in code}
        if not wanted:
            continue
        start, here = time.perf_counter(), Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                names = {"__name__": "guide"}
                for block in program:
                    run(block._replace(form="sample" if block.shown else None), names)
            finally:
                os.chdir(here)
            for name in sorted(wanted):
                reduced(Path(folder, name), FOLDER / name)
                made.append(FOLDER / name)
                size = (FOLDER / name).stat().st_size / 1000
                print(f"{name}: {size:.0f} kB, {time.perf_counter() - start:.0f} s", flush=True)
    return made


if __name__ == "__main__":
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    for page in pages or sorted((ROOT / "guide").rglob("*.md")):
        make(page)
