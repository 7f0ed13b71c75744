"""The set-up of a lesson in an empty environment, and the address of the project."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from colab import setup

ROOT = Path(__file__).parent.parent.parent


def finished(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("a clone") / "jaxnet"
    done = finished("git", "clone", "-q", "--depth", "1", f"file://{ROOT}", folder)
    if done.returncode:
        pytest.skip(f"needs the repository ({done.stderr.strip()})")
    return folder


@pytest.mark.long
def test_from_nowhere_from_a_wheel_and_from_a_clone(clone, tmp_path):
    """Needs a network, as the packages that jaxnet needs are installed too."""
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    assert finished(sys.executable, "-m", "venv", tmp_path / "env").returncode == 0
    wheels = tmp_path / "wheels"
    built = finished(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, clone)
    if built.returncode:
        pytest.skip(f"the wheel cannot be built ({built.stderr.strip()[-200:]})")
    lesson = tmp_path / "lesson.py"
    code = *setup.first_cells(ROOT / "colab" / "01_a.ipynb", ["viz"]), "print(jn.__file__)"
    asked = "from jaxnet.services.extras import command", "print(command('text'))"
    lesson.write_text("\n".join([*code, *asked]))
    (wheel,) = wheels.iterdir()
    there = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}
    for source in ("git+http://127.0.0.1:1/jaxnet", str(wheel), str(clone)):
        done = finished(python, lesson, env=there | {"JAXNET_SOURCE": source}, cwd=tmp_path)
        print(f"{source}\n{done.stdout}{done.stderr}")
        if source.startswith("git+"):
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1  # no traceback
            assert "could not install jaxnet-toolkit[viz] @ git+http" in done.stderr
            assert "Clone jaxnet or upload its wheel, write the path" in done.stderr
        else:
            assert "; size colab" in done.stdout
            assert str(tmp_path / "env") in done.stdout
            assert f'"jaxnet-toolkit[text] @ {Path(source).as_uri()}"' in done.stdout
        finished(python, "-m", "pip", "uninstall", "-q", "-y", "jaxnet-toolkit")


@pytest.mark.slow
def test_one_command_writes_another_address(clone):
    new = "https://github.com/someone/a-fork"
    environment = os.environ | {"PYTHONPATH": str(clone)}
    done = finished(sys.executable, "-m", "colab.setup", new, cwd=clone, env=environment)
    assert done.returncode == 0, done.stderr
    old = r"(github\.com|google\.com/github)/jaxnet/[j]axnet"  # is not found in this file
    assert not finished("git", "grep", "-lE", old, cwd=clone).stdout
    assert finished("git", "grep", "-lE", old, cwd=ROOT).stdout
    for path in sorted((clone / "colab").glob("*.ipynb")):
        book = json.loads(path.read_text())
        assert book["metadata"]["jaxnet"]["sources"] == setup.sources_hash(book)
        assert f'SOURCE = "git+{new}"' in "".join(book["cells"][1]["source"])
    shutil.rmtree(clone)
