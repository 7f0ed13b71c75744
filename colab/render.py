"""Renders notebooks with their outputs as HTML, and their pictures as PNG files.

    python -m colab.render --size tiny
    python -m colab.render --only 02 05 --keep
    python -m colab.render --only 21 --size full --keep

Writes runs/notebooks/SIZE/NAME.html, and NAME_01.png, NAME_02.png, ... beside it. With --keep, the
outputs also go into the notebooks themselves, with smaller pictures, so that they can be read
without running them; a test fails for a notebook that was changed since. With --size full, --keep
leaves the outputs of size colab, and puts pictures of the long run into the text that shows them:
![](attachment:NAME.png) is the picture of the cell whose id is NAME.
"""

import base64
import copy
import hashlib
import io
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "colab"
ATTACHED = re.compile(r"\]\(attachment:([\w-]+)\.png\)")  # in Markdown, by the id of a cell


@dataclass(frozen=True)
class Config:
    """Runs notebooks, each in a new kernel, and writes their outputs."""

    size: Literal["tiny", "colab", "full"] = "colab"
    """size of the data and of the training runs"""
    only: tuple[str, ...] = ()
    """beginnings of names, such as 02 05; all notebooks by default"""
    output: Path = Path("runs/notebooks")
    """folder of the pages, with one folder per size"""
    keep: bool = False
    """write the outputs into the notebooks too"""


def render(path: Path, folder: Path, size: str, keep: bool = False) -> list[Path]:
    """Runs one notebook and returns the files written, the page first.

    Args:
      path: of the notebook.
      folder: of the page and the pictures.
      size: "tiny", "colab" or "full".
      keep: whether to write the outputs into the notebook too; of size "full" only the pictures
        that its text shows.

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
        outputs = [o for o in cell.get("outputs", []) if "text" not in o or _keep_text(o)]
        cell.outputs = joined(outputs)
    page = folder / f"{path.stem}.html"
    page.write_text(HTMLExporter().from_notebook_node(book)[0], encoding="utf-8")
    shown = [output.get("data", {}) for cell in book.cells for output in cell.outputs]
    pictures = [data["image/png"] for data in shown if "image/png" in data]
    files = [page]
    for number, picture in enumerate(pictures, 1):
        files.append(folder / f"{path.stem}_{number:02d}.png")
        files[-1].write_bytes(base64.b64decode(picture))
    if keep and size == "full":
        keep_pictures(path, book)
    elif keep:
        keep_outputs(path, book)
    return files


def keep_outputs(path: Path, run: Any) -> None:
    """Writes the outputs of a notebook that ran into its file, and the hash of what ran.

    Raises:
      ValueError: for an output that names a folder of this machine.
    """
    book = json.loads(path.read_text(encoding="utf-8"))
    for cell, done in zip(book["cells"], run.cells, strict=True):
        if cell["cell_type"] == "code":
            cell["execution_count"] = done.execution_count
            cell["outputs"] = [small(json.loads(json.dumps(output))) for output in done.outputs]
    folders = str(ROOT), str(Path.home()), os.environ.get("TFDS_DATA_DIR", "")
    if found := [folder for folder in folders if folder and folder in json.dumps(book)]:
        raise ValueError(f"{path.name}: an output names {found[0]}, a folder of this machine")
    book["metadata"].setdefault("jaxnet", {})["sources"] = sources_hash(book)
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def keep_pictures(path: Path, run: Any) -> None:
    """Attaches pictures of a run to the text of a notebook that shows them.

    Raises:
      ValueError: if the text shows the picture of a cell that drew none.
    """
    book = json.loads(path.read_text(encoding="utf-8"))
    drawn = {
        cell["id"]: small(json.loads(json.dumps(output)))["data"]["image/png"]
        for cell in run.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    }
    for cell in book["cells"]:
        for name in ATTACHED.findall("".join(cell["source"])):
            if name not in drawn:
                raise ValueError(
                    f"{path.name}: {cell['id']} shows {name}, a cell without a picture"
                )
            cell.setdefault("attachments", {})[f"{name}.png"] = {"image/png": drawn[name]}
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def sources_hash(book: dict[str, Any]) -> str:
    """A hash of the code of a notebook, to tell whether its outputs are those of its code."""
    code = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256("\n\n".join(code).encode()).hexdigest()[:16]


def joined(outputs: list[Any]) -> list[Any]:
    """The outputs of a cell, where texts that follow each other are one text.

    A cell that prints a table while it computes sends each row by itself, and its page would
    show as many blocks.

    >>> rows = [{"output_type": "stream", "name": "stdout", "text": f"{i}\\n"} for i in range(2)]
    >>> joined(rows)[0]["text"].splitlines()
    ['0', '1']
    """
    found: list[Any] = []
    for output in outputs:
        last = found[-1] if found else {}
        if "text" in output and last.get("name") == output["name"]:
            found[-1] = copy.copy(last)
            found[-1]["text"] = "".join(last["text"]) + "".join(output["text"])
        else:
            found.append(output)
    return found


def small(output: dict[str, Any]) -> dict[str, Any]:
    """The output with its picture in a palette, where that is shorter."""
    from PIL import Image

    data = output.get("data", {})
    if "image/png" in data:
        picture, file = base64.b64decode(data["image/png"]), io.BytesIO()
        # Of Pillow's methods the one that keeps rare colors, such as those of thin boxes.
        rgb = Image.open(io.BytesIO(picture), formats=["PNG"]).convert("RGB")
        rgb.quantize(256, Image.Quantize.MAXCOVERAGE).save(file, "PNG", optimize=True)
        shorter = min(picture, file.getvalue(), key=len)
        data["image/png"] = base64.b64encode(shorter).decode()
    return output


def _keep_text(output: Any) -> bool:
    """Removes progress bars from a printed text; False if nothing else was printed."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output["text"])  # bars below bars move the cursor
    lines = [line for line in re.split("[\r\n]", text) if "%|" not in line]
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
            files += render(path, config.output / config.size, config.size, config.keep)
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
