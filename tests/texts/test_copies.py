"""What the repository contains we wrote: no file bears another's notice or repeats a package.

`--compared` also checks packages that are not installed everywhere, such as torch.
"""

import importlib.metadata
import itertools
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from tests.texts.form import ROOT, Text, at, text_of
from tests.texts.project import EXTRAS, PROJECT

TOOLS = {"pyright", "ruff"}  # programs that read our files
COPIED = 20  # neighboring lines that say something
SAYS_SOMETHING = 12  # characters: not such as `return x` or `"""`
CODE = set(".c .cc .cpp .css .h .hpp .html .js .md .py .pyi .rst".split())
PICTURES = set(".gif .npz .png .safetensors".split())
NOTICE = re.compile(
    r"copyright\s*(?:\(c\)|©|&copy;)?\s*\d{4}|(?:\(c\)|©|&copy;)\s*\d{4}|SPDX-FileCopyrightText"
    r"|all rights reserved|permission is hereby granted|redistribution and use in source",
    re.IGNORECASE,
)


def packages() -> list[str]:
    """The packages that pyproject.toml names."""
    needs = [*PROJECT["dependencies"], *itertools.chain(*EXTRAS.values()), "jaxlib"]
    return sorted({re.match(r"[\w-]+", need)[0] for need in needs} - TOOLS - {PROJECT["name"]})


@cache
def ours() -> list[Text]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is not a clone")
    paths = [ROOT / name for name in done.stdout.splitlines()]
    return [text_of(path) for path in paths if path.suffix not in PICTURES and path.is_file()]


def theirs(package: str) -> list[Path]:
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    return [Path(file.locate()) for file in files if file.suffix in CODE]


def lines_of(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if len(line) >= SAYS_SOMETHING]


@cache
def our_lines() -> set[str]:
    return {line for text in ours() for line in lines_of(text.text)}


def runs(lines: list[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(lines[i : i + COPIED]) for i in range(len(lines) - COPIED + 1))


@cache
def our_runs() -> dict[tuple[str, ...], Text]:
    return {run: text for text in ours() for run in runs(lines_of(text.text))}


def notices(text: Text) -> list[str]:
    free = text.path in (ROOT / "LICENSE", Path(__file__))  # this file plants some
    return [] if free else NOTICE.findall(text.text)


def copies(path: Path) -> set[Text]:
    """Our files that have twenty neighboring lines of this file."""
    if not path.exists():
        return set()
    lines = lines_of(path.read_text(encoding="utf-8", errors="replace"))
    known = bytes(map(our_lines().__contains__, lines))
    if b"\1" * COPIED not in known:
        return set()
    return {our_runs()[run] for run in runs(lines) if run in our_runs()}


def test_no_file_bears_anothers_copyright():
    assert {text: found for text in ours() if (found := notices(text))} == {}


@pytest.mark.parametrize("planted", [
    "/* Copyright 2023 The OpenXLA Authors.", "Copyright (c) 2020-2022 A. Person <a@b.org>",
    "// © 2024 A. Person", "# SPDX-FileCopyrightText: A. Person", "All rights reserved.",
    "Permission is hereby granted, free of charge, to any person obtaining a copy",
])  # fmt: skip
def test_a_notice_is_found(planted):
    assert notices(at("docs/a.js", f"/*\n{planted}\n*/"))
    assert not notices(at("docs/a.js", "Who holds the copyright is said in LICENSE."))


@pytest.mark.fast_cases("jax", "jaxlib", "mkdocs-material")
@pytest.mark.parametrize("package", packages())
def test_no_file_repeats_twenty_lines_of_a_package(package):
    assert {path: found for path in theirs(package) if (found := copies(path))} == {}


@pytest.mark.slow
def test_twenty_lines_of_ours_are_found_in_a_package(tmp_path):
    mine = next(text for text in ours() if text.path.name == "form.py")
    lines = lines_of(mine.text)[30:]
    copy = tmp_path / "copy.py"
    copy.write_text("\n\n".join(["their own first line", *lines[:COPIED], "and the last one"]))
    assert copies(copy) == {mine}
    copy.write_text("\n".join([*lines[: COPIED - 1], "another line", *lines[COPIED:25]]))
    assert copies(copy) == set()
