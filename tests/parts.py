"""The option `--part`: a part of the tests with a mark, another one for each commit.

"fast" stands for the tests that are neither slow nor long.

    pytest -m slow --part slow=1/4 --since main

For one commit, each test is in one of the four parts, so that all parts together are all tests.
With `--since`, all tests run in rooms where a file has changed since that commit.
"""

import hashlib
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PART = "run part K of the N parts of the tests with a mark, such as slow=1/4"
SINCE = "run all tests of rooms where a file differs from this commit, whatever their part"
left_out: list[str] = []  # ids, by the process that prints the summary


def pytest_addoption(parser):
    parser.addoption("--part", action="append", default=[], metavar="MARK=K/N", help=PART)
    parser.addoption("--since", metavar="COMMIT", help=SINCE)


def parts_of(config) -> dict[str, tuple[int, int]]:
    """Mark -> (K, N), as given on the command line."""
    marks = {line.partition(":")[0].partition("(")[0] for line in config.getini("markers")}
    marks.add("fast")
    found = {}
    for text in config.getoption("part"):
        mark, _, numbers = text.partition("=")
        k, _, n = numbers.partition("/")
        if mark not in marks or not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
            wanted = "MARK=K/N with 1 <= K <= N and a mark of pyproject.toml, such as slow=1/4"
            raise pytest.UsageError(f"--part: expected {wanted}, got {text}")
        found[mark] = int(k), int(n)
    return found


def part_of(test: str, n: int, commit: str) -> int:
    """The part that a test is in for a commit, from 1 to n."""
    return int(hashlib.sha256(f"{commit} {test}".encode()).hexdigest(), 16) % n + 1


def git(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)


def touched(since: str | None) -> set[str]:
    """The rooms with a file that differs from a commit."""
    if since is None:
        return set()
    done = git("diff", "--name-only", since)
    if done.returncode:
        raise pytest.UsageError(f"--since: expected a commit, got {since!r}: {done.stderr}")
    return {room(path) for path in done.stdout.splitlines()}


def room(path: str) -> str:
    """The room of a file or of a test: "layers" of jaxnet/layers/dense.py, "guide" of its tests."""
    first, *rest = Path(path.partition("::")[0]).parts
    if first not in ("jaxnet", "tests") or not rest:
        return first
    return Path(rest[0]).stem.removeprefix("test_")


@pytest.hookimpl(trylast=True)  # after marks are added, and after -m and -k
def pytest_collection_modifyitems(config, items):
    if not (parts := parts_of(config)):
        return
    commit = git("rev-parse", "HEAD").stdout.strip()  # empty outside of a checkout
    whole = touched(config.getoption("since"))
    kept = []
    out = []
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        marks |= set() if marks & {"slow", "long"} else {"fast"}
        own = [parts[mark] for mark in parts if mark in marks]
        inside = all(part_of(item.nodeid, n, commit) == k for k, n in own)
        (kept if inside or room(item.nodeid) in whole else out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=out)
    left_out[:] = [item.nodeid for item in out]
    if hasattr(config, "workeroutput"):  # a worker of pytest-xdist, of which each collects all
        config.workeroutput["left_out"] = left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    left_out[:] = getattr(node, "workeroutput", {}).get("left_out", left_out)


def pytest_terminal_summary(terminalreporter, config):
    if parts := config.getoption("part"):
        rooms = Counter(map(room, left_out))
        told = ", ".join(f"{name} {count}" for name, count in sorted(rooms.items())) or "none"
        terminalreporter.write_line(f"LEFT OUT by --part {' '.join(parts)}: {told}")
