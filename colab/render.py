"""Renders notebooks with their outputs as HTML, and their pictures as PNG files.

    python -m colab.render --size tiny
    python -m colab.render --size colab --only 02 05

Writes runs/notebooks/SIZE/NAME.html, and NAME_01.png, NAME_02.png, ... beside it. The notebooks
are not changed: they stay without outputs.
"""

import base64
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "colab"


@dataclass(frozen=True)
class Config:
    """Runs notebooks, each in a new kernel, and writes their outputs."""

    size: Literal["tiny", "colab", "full"] = "colab"
    """size of the data and of the training runs"""
    only: tuple[str, ...] = ()
    """beginnings of names, such as 02 05; all notebooks by default"""
    output: Path = Path("runs/notebooks")
    """folder of the pages, with one folder per size"""


def render(path: Path, folder: Path, size: str) -> list[Path]:
    """Runs one notebook and returns the files written, the page first.

    Raises:
      ImportError: if the packages that run notebooks are not installed.
      nbclient.exceptions.CellExecutionError: if a cell raises.
    """
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbconvert import HTMLExporter
    except ImportError as error:
        raise ImportError(
            f"colab.render: needs nbclient, nbconvert and ipykernel ({error}); "
            'in a checkout, pip install -e ".[notebooks]"'
        ) from error
    book = nbformat.read(path, as_version=4)
    environment = os.environ | {"JAXNET_SIZE": size, "PYTHONPATH": str(ROOT)}
    # The kernel starts in the checkout, so that it imports this jaxnet.
    client = NotebookClient(book, timeout=None, resources={"metadata": {"path": str(ROOT)}})
    client.execute(env=environment)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{path.stem}*"):
        old.unlink()
    for cell in book.cells:
        cell.outputs = [o for o in cell.get("outputs", []) if "text" not in o or _keep_text(o)]
    page = folder / f"{path.stem}.html"
    page.write_text(HTMLExporter().from_notebook_node(book)[0])
    shown = [output.get("data", {}) for cell in book.cells for output in cell.outputs]
    pictures = [data["image/png"] for data in shown if "image/png" in data]
    files = [page]
    for number, picture in enumerate(pictures, 1):
        files.append(folder / f"{path.stem}_{number:02d}.png")
        files[-1].write_bytes(base64.b64decode(picture))
    return files


def _keep_text(output: Any) -> bool:
    """Removes progress bars from a printed text; False if nothing else was printed."""
    lines = [line for line in re.split("[\r\n]", output["text"]) if "%|" not in line]
    output["text"] = "\n".join(lines)
    return bool(output["text"].strip())


def run(config: Config) -> list[Path]:
    """Renders the notebooks one after another, in the order of their numbers.

    A notebook that fails does not stop the others.

    Raises:
      RuntimeError: at the end, for the notebooks that failed.
    """
    chosen = [
        path
        for path in sorted(NOTEBOOKS.glob("*.ipynb"))
        if not config.only or path.name.startswith(config.only)
    ]
    if not chosen:
        raise ValueError(f"only: no notebook in colab/ begins with {' or '.join(config.only)}")
    files, failed = [], {}
    for path in chosen:
        start = time.perf_counter()
        try:
            files += render(path, config.output / config.size, config.size)
        except ImportError:  # no notebook can run
            raise
        except Exception as error:
            lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
            failed[path.name] = lines[-1] if lines else type(error).__name__
        done = f"failed: {failed[path.name]}" if path.name in failed else files[-1]
        print(f"{path.stem}  {time.perf_counter() - start:.0f} s  {done}", flush=True)
    if failed:
        words = "".join(f"\n  {name}: {line}" for name, line in failed.items())
        raise RuntimeError(f"{len(failed)} of {len(chosen)} notebooks failed:{words}")
    return files


if __name__ == "__main__":
    import sys

    import tyro

    try:
        run(tyro.cli(Config))
    except RuntimeError as error:
        sys.exit(str(error))  # with status 1
