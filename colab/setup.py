"""Writes the first two cells of all notebooks, and the project's address wherever it is named.

The cell `check`, which tells students whether an exercise is right, is written here too.

    python -m colab.setup
    python -m colab.setup https://github.com/me/my-fork

The address is that of pyproject.toml; with an argument, it is replaced in all files first. The
notebooks keep their outputs, since these cells do not change what a lesson shows.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from colab.render import NOTEBOOKS, ROOT, sources_hash

MODULES = {  # a module of each extra: if it is there, so is the extra
    "data": "tensorflow_datasets", "viz": "matplotlib", "text": "sacrebleu", "speech": "librosa",
    "runs": "grain", "pretrained": "gguf",
}  # fmt: skip
FIRST = '''\
# "tiny" takes seconds, "colab" minutes on a free machine, "full" what the experiments take.
SIZE = "colab"
# Where jaxnet is installed from: an address, or the path of a folder or of a wheel.
SOURCE = "git+ADDRESS"'''
SETUP = """\
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which
ASKS
SIZE, SOURCE = os.environ.get("JAXNET_SIZE", SIZE), os.environ.get("JAXNET_SOURCE", SOURCE)
needs = NEEDS
extras = [extra for extra, module in needs.items() if not find_spec(module)]
if not find_spec("jax"):
    tpu = any(map(os.path.exists, ("/dev/accel0", "/dev/vfio/0")))
    extras += ["cuda12"] if which("nvidia-smi") else ["tpu"] if tpu else []
if extras or not find_spec("jaxnet"):
    place = SOURCE if "://" in SOURCE else Path(SOURCE).absolute().as_uri()
    need = f"NAME[{','.join(extras)}] @ {place}"
    pip = [sys.executable, "-m", "pip", "install", "-q", need]
    if subprocess.run(pip, capture_output=True).returncode:
        raise SystemExit(
            f"pip could not install {need}. Clone jaxnet or upload its wheel, write the path "
            "of the folder or of the wheel into SOURCE above, and run the cells again."
        )
try:
    import jaxnet as jn

    machine = jn.inspect.machine()
except (ImportError, AttributeError) as error:
    raise SystemExit(
        f"This jaxnet is not the one of this lesson ({error}). PyPI's jaxnet is another "
        "project: run pip uninstall -y jaxnet, restart, and run the cells again."
    ) from None
print(f"{machine}; size {SIZE}")"""
# The lesson on several devices asks for them, which is possible only before JAX starts.
SEVERAL = "24"
ASKS = """
# Eight devices on this CPU. JAX reads both when it starts.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_force_host_platform_device_count=8"
)
"""
CHECK = '''\
# `check` says whether the line that you wrote is right. Nothing to change here.
def check(got, right, slips=None):
    """Print what is wrong with an answer; `slips` has the answers of frequent mistakes."""
    if any(part is ... for part in (got if isinstance(got, list) else [got])):
        return print("Write the line that is marked, in place of the dots, and run the cell again.")
    got, right = np.asarray(got, float), np.asarray(right, float)
    for said, answer in {"Right.": right, **(slips or {})}.items():
        if np.shape(answer) == got.shape and np.allclose(got, answer, rtol=1e-3, atol=1e-3):
            return print(said if said == "Right." else f"Not yet: {said}")
    if got.shape != right.shape:
        return print(f"Not yet: expected numbers of shape {right.shape}, got {got.shape}.")
    place = np.unravel_index(np.abs(got - right).argmax(), got.shape)
    print(f"Not yet: expected {right[place]:.4g}, got {got[place]:.4g}.")'''


def project() -> dict:
    """Return the table of the project."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def first_cells(path: Path, extras: list[str]) -> tuple[str, str]:
    """Return the sources of the first two cells of a notebook that needs these extras."""
    needs = ", ".join(f'"{extra}": "{MODULES[extra]}"' for extra in extras)
    setup = SETUP.replace("NAME", project()["name"]).replace("NEEDS", f"{{{needs}}}")
    setup = setup.replace("ASKS\n", (ASKS if path.name.startswith(SEVERAL) else "") + "\n", 1)
    return FIRST.replace("ADDRESS", project()["urls"]["Repository"]), setup


def own_extras(path: Path) -> list[str]:
    """Return the extras that a notebook names in its second cell."""
    book = json.loads(path.read_text(encoding="utf-8"))
    setup = [cell for cell in book["cells"] if cell["cell_type"] == "code"][1]
    (needs,) = re.findall(r"^needs = \{(.*)\}$", "".join(setup["source"]), re.MULTILINE)
    return re.findall(r'"(\w+)": ', needs)


def write(path: Path, extras: list[str]) -> None:
    """Write the first two cells of a notebook."""
    book = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    for cell, source in zip(code, first_cells(path, extras), strict=False):
        cell["source"] = source.splitlines(keepends=True)
    for cell in code:
        if cell["id"] == "check":
            cell["source"] = CHECK.splitlines(keepends=True)
    book["metadata"].setdefault("jaxnet", {})["sources"] = sources_hash(book)
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def replace_address(old: str, new: str) -> None:
    """Replace the address in all files of the repository, and in the links to Colab."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    links = "colab.research.google.com/github/"
    short = [f"{links}{address.removeprefix('https://github.com/')}/" for address in (old, new)]
    for name in listed.stdout.decode().split("\0")[:-1]:
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        changed = re.sub(rf"{re.escape(old)}(?![\w-])", new, text).replace(short[0], short[1])
        if changed != text:
            (ROOT / name).write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        replace_address(project()["urls"]["Repository"], sys.argv[1].rstrip("/"))
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        write(notebook, own_extras(notebook))
