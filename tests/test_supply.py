"""What users install: its licenses, its known faults, and wheels that can be built again."""

import email
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tools import supply


def about(text):
    return email.message_from_string(text)


@pytest.mark.parametrize(("text", "words"), [
    pytest.param("License-Expression: MIT\nLicense: BSD", "MIT", id="an expression comes first"),
    pytest.param(
        "Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: BSD License\n"
        "Classifier: Typing :: Typed\nLicense: a file", "BSD License", id="then classifiers",
    ),
    pytest.param("License: Apache 2.0\n of 2004", "Apache 2.0", id="then the first line"),
    pytest.param("Classifier: License :: OSI Approved", "unknown", id="too little"),
    pytest.param("Name: a", "unknown", id="none"),
])  # fmt: skip
def test_the_license_of_a_package(text, words):
    assert supply.license_of(about(text)) == words


@pytest.mark.parametrize(("words", "wrong"), [
    ("MIT", False), ("MPL-2.0 AND MIT", False), ("BSD License", False), ("Apache-2.0", False),
    ("GPL-3.0-or-later", True), ("AGPL-3.0-only", True), ("LGPL-2.1-or-later", True),
    ("GNU General Public License v3 (GPLv3)", True), ("MIT AND gpl-2.0-only", True),
    ("GNU Lesser General Public License v2 or later (LGPLv2+)", True),
    ("unknown", True), ("not installed here", True),
])  # fmt: skip
def test_copyleft_and_unknown_licenses_of_the_core_are_wrong(words, wrong):
    assert bool(supply.wrong_in_core([("fine", "MIT"), ("a", words)])) == wrong


@pytest.mark.slow
def test_no_package_of_the_core_is_copyleft(capsys):
    assert supply.main(["licenses"]) == 0
    table = capsys.readouterr().out
    for name in ("jax", "jaxlib", "numpy", "optax", "safetensors", "tqdm"):
        assert re.search(rf"^{name} +\S.* core$", table, re.M), table
    assert re.search(r"^matplotlib .*viz", table, re.M), table


def test_packages_of_extras_are_found_with_what_they_need(monkeypatch):
    extras = {"a": ["numpy"], "b": ["own[a]", "absent>=1", "other; sys_platform == 'nowhere'"]}
    monkeypatch.setattr(supply, "project", lambda: {"optional-dependencies": extras})
    found = supply.installed_for(["own[b]", "optax"], "own")
    assert {"numpy", "absent", "optax", "jax", "jaxlib"} <= set(found)
    assert found["absent"] == "not installed here"
    assert "other" not in found


def program(folder, said, code):
    path = folder / "pip-audit"
    path.write_text(f"#!{sys.executable}\nprint({said!r})\nraise SystemExit({code})\n", "utf-8")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="writes a program of Unix")
@pytest.mark.parametrize(("said", "code", "wrong", "printed"), [
    ("No known vulnerabilities found", 0, [], "No known"),
    ("Found 1 known vulnerability in 1 package", 1, ["audit: packages have known faults"], "Found"),
    ("a could not be audited\nNo known", 0, [], "audit: nothing is known of 1 packages"),
    ("ConnectionError", 1, [], "audit: the service of pip-audit did not answer"),
])  # fmt: skip
def test_what_pip_audit_says(said, code, wrong, printed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: program(tmp_path, said, code))
    assert supply.audit() == wrong
    assert printed in capsys.readouterr().out


def test_without_pip_audit_nothing_is_claimed(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert supply.audit() == []
    assert "nothing was asked" in capsys.readouterr().out


def archive(path, mode=0o644, time=(2026, 1, 1, 0, 0, 0), data=b"a", name="a.py"):
    with zipfile.ZipFile(path, "w") as file:
        entry = zipfile.ZipInfo(name, time)
        entry.external_attr = mode << 16
        file.writestr(entry, data)
    return path


@pytest.mark.parametrize(("change", "words"), [
    ({}, []),
    ({"mode": 0o755}, ["wheels: a.py has another external_attr"]),
    ({"time": (2026, 1, 1, 0, 0, 2)}, ["wheels: a.py has another date_time"]),
    ({"data": b"b"}, ["wheels: a.py has other contents"]),
])  # fmt: skip
def test_how_wheels_differ(change, words, tmp_path):
    first, second = archive(tmp_path / "1"), archive(tmp_path / "2", **change)
    assert list(supply.differences(first, second)) == words


def test_other_files_are_a_difference(tmp_path):
    first, second = archive(tmp_path / "1"), archive(tmp_path / "2", name="b.py")
    (words,) = supply.differences(first, second)
    assert "a.py" in words and "b.py" in words


@pytest.mark.long
def test_a_wheel_is_the_same_from_another_place_at_another_time(capsys):
    beside = shutil.which("uv", path=str(Path(sys.executable).parent))
    if shutil.which("uv") is None and beside is None:
        pytest.skip("needs uv, which .ci/run installs")
    assert supply.wheels() == []
    assert "is the same twice" in capsys.readouterr().out
