"""What is read is not run: an audit of all readers of files, of usual files and of strange ones."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Arguments of public functions that are paths, and the functions with these that only write.
PATHS = r"\((?:file|folder|path|source)\b"
WRITERS = {"save", "pretrained.save", "pretrained.save_adapter"}


def audited(folder, *names):
    for package in ("PIL", "gguf", "jinja2", "tensorflow_datasets", "tokenizers", "flatbuffers"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "tests.readers", str(folder), *names]
    environment = {name: value for name, value in os.environ.items() if name != "TFDS_DATA_DIR"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_readers_do_only_what_they_may(tmp_path):
    found = audited(tmp_path)
    assert len(found) > 400
    assert {case: seen for case, seen in found.items() if seen} == {}


@pytest.mark.long
def test_the_audit_sees_what_is_run(tmp_path):
    found = audited(tmp_path, "tfds.load", "planted")
    ran = f"exec {tmp_path}/modules/module_of_a_stranger.py"
    for case in ("class", "class after a space", "class after lines"):
        assert ran in found[f"tfds.load, {case} as pictures/1.0.0/features.json"]
    assert ran in found["tfds.load, class as pictures/1.0.0/dataset_info.json"]
    (eps,) = (seen for case, seen in found.items() if "EPS in" in case)
    assert "subprocess.Popen" in eps


def test_every_public_reader_is_audited():
    public = (ROOT / "tests/public_api.txt").read_text()
    audit = (ROOT / "tests/readers.py").read_text()
    for name in re.findall(rf"^jaxnet\.([\w.]+){PATHS}", public, re.MULTILINE):
        short = name.removeprefix("data.").removeprefix("training.")
        assert name in WRITERS or f'"{short}": Reader(' in audit, name
