"""Looks at what users install: known faults, licenses, and whether a wheel can be built again.

    python -m tools.supply                      # all three
    python -m tools.supply licenses             # or some: audit, licenses, wheels

`audit` asks pip-audit whether the packages of this environment have known faults; it needs the
program (pip install pip-audit) and its service. `licenses` prints the licenses of all packages that
the core and each extra install, and fails for a copyleft license in the core, or for none. `wheels`
builds two wheels from two copies of the tree at different paths and times, and compares them byte
for byte; it needs uv. The exit code is 1 if anything fails. A check that cannot run says so.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import jaxnet as jn

ROOT = Path(__file__).parent.parent
CORE = "core"
# Licenses that ask for the source of a program that contains the package. The license of Mozilla,
# which tqdm has, asks for changes of its own files alone.
COPYLEFT = re.compile(
    r"\b(A?GPL|LGPL|EUPL|CC-BY-SA|CECILL|GNU (Affero|General|Lesser|Library))", re.I
)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def installed_for(requirements: list[str], own: str) -> dict[str, str]:
    """Returns the license of each package that requirements need, by its name.

    Args:
      requirements: Lines of pyproject.toml.
      own: Name of the project, whose extras name each other.
    """
    found: dict[str, str] = {}
    extras = project()["optional-dependencies"]
    left = [(Requirement(line), "") for line in requirements]
    seen = set()
    while left:
        needed, extra = left.pop()
        if needed.marker is not None and not needed.marker.evaluate({"extra": extra}):
            continue
        name = canonical(needed.name)
        if (name, *sorted(needed.extras), extra) in seen:
            continue
        seen.add((name, *sorted(needed.extras), extra))
        if name == own:
            left += [(Requirement(line), "") for each in needed.extras for line in extras[each]]
            continue
        try:
            found[name] = license_of(metadata.metadata(name))
        except metadata.PackageNotFoundError:
            found[name] = "not installed here"
            continue
        lines = metadata.requires(name) or []
        left += [(Requirement(line), each) for line in lines for each in ("", *needed.extras)]
    return found


def canonical(name: str) -> str:
    """Returns the name of a package as indexes compare it.

    >>> canonical("Absl_Py")
    'absl-py'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def license_of(about: metadata.PackageMetadata) -> str:
    """Returns the license that the metadata of a package name, in a few words."""
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License")]
    named = [line.rpartition(" :: ")[2] for line in classifiers]
    if named := [name for name in named if name != "OSI Approved"]:
        return ", ".join(named)
    lines = (about.get("License") or "").strip().splitlines()
    return lines[0][:60] if lines else "unknown"


def licenses() -> list[str]:
    """Prints a table of licenses; returns what is wrong in the core."""
    about = project()
    groups = {CORE: about["dependencies"]} | about["optional-dependencies"]
    rows: dict[tuple[str, str], list[str]] = {}
    for group, requirements in groups.items():
        for name, words in installed_for(requirements, about["name"]).items():
            rows.setdefault((name, words), []).append(group)
    listed = []
    for (name, words), where in sorted(rows.items()):
        listed.append((name, words, CORE if CORE in where else ", ".join(where)))
    listed.sort(key=lambda row: row[2] != CORE)
    print(jn.Table("Licenses", ("package", "license", "installed by"), listed, width=120))
    return wrong_in_core([row[:2] for row in listed if row[2] == CORE])


def wrong_in_core(found: list[tuple[str, str]]) -> list[str]:
    """Returns what is wrong with the licenses of packages of the core.

    >>> wrong_in_core([("a", "MIT"), ("b", "GPL-3.0-or-later"), ("c", "unknown")])
    ['b: GPL-3.0-or-later is copyleft', 'c: unknown']
    """
    wrong = [f"{name}: {words} is copyleft" for name, words in found if COPYLEFT.search(words)]
    return wrong + [
        f"{name}: {words}" for name, words in found if words.startswith(("unknown", "not "))
    ]


def audit() -> list[str]:
    """Asks pip-audit for known faults of the packages that are installed; returns what is wrong."""
    program = shutil.which("pip-audit")
    if program is None:
        print("audit: pip-audit is not installed, so nothing was asked")
        return []
    command = [program, "--progress-spinner=off", "--desc=off"]
    done = subprocess.run(
        [*command, "--path", sysconfig.get_path("purelib")], capture_output=True, text=True
    )
    print(done.stdout, done.stderr, sep="")
    if skipped := done.stdout.count("could not be audited"):
        print(f"audit: nothing is known of {skipped} packages, which the service did not have")
    if done.returncode and "vulnerabilit" not in done.stdout + done.stderr:
        print("audit: the service of pip-audit did not answer, so nothing is known")
        return []
    return ["audit: packages have known faults"] if done.returncode else []


def tracked() -> list[str]:
    """Returns the files of the project, with those that git does not know yet."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def copied(folder: Path, seconds: int) -> Path:
    """Copies the project to a folder, with files that were changed at another time."""
    for name in tracked():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        os.utime(target, (seconds, seconds))
    return folder


def built(tree: Path, uv: str) -> Path:
    """Builds a wheel from a copy of the project, at the time of the newest commit."""
    command = ["git", "log", "-1", "--format=%ct"]
    time = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    out = tree.with_name(f"{tree.name}-wheel")
    subprocess.run(
        [
            uv,
            "build",
            "--quiet",
            "--wheel",
            "--build-constraints",
            ".ci/build.txt",
            "--out-dir",
            out,
        ],
        cwd=tree,
        env=os.environ | {"SOURCE_DATE_EPOCH": time.strip()},
        check=True,
    )
    (wheel,) = out.glob("*.whl")
    return wheel


def wheels() -> list[str]:
    """Builds two wheels from copies of the tree; returns how they differ."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        print("wheels: uv is not installed, so nothing was built")
        return []
    with tempfile.TemporaryDirectory() as folder:
        short = copied(Path(folder, "a"), 1_000_000_000)
        long = copied(Path(folder, "another", "place", "of", "the", "tree"), 1_700_000_000)
        first, second = built(short, uv), built(long, uv)
        found = list(differences(first, second))
        if not found:
            print(f"wheels: {first.name} is the same twice, {first.stat().st_size:,} bytes")
        return found


def differences(first: Path, second: Path) -> Iterator[str]:
    """Yields how two wheels differ; nothing if they have the same bytes."""
    if first.read_bytes() == second.read_bytes():
        return
    with zipfile.ZipFile(first) as a, zipfile.ZipFile(second) as b:
        names = [[entry.filename for entry in archive.infolist()] for archive in (a, b)]
        if names[0] != names[1]:
            yield f"wheels: other files, or another order: {set(names[0]) ^ set(names[1])}"
            return
        for one, other in zip(a.infolist(), b.infolist(), strict=True):
            if a.read(one) != b.read(other):
                yield f"wheels: {one.filename} has other contents"
            for what in ("date_time", "external_attr", "create_system", "compress_type", "extra"):
                if getattr(one, what) != getattr(other, what):
                    yield f"wheels: {one.filename} has another {what}"


CHECKS = {"audit": audit, "licenses": licenses, "wheels": wheels}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.supply", description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    wanted = parser.parse_args(arguments).checks or list(CHECKS)
    if unknown := set(wanted) - set(CHECKS):
        parser.error(f"unknown {', '.join(sorted(unknown))}; choose from {', '.join(CHECKS)}")
    wrong = [fault for name in wanted for fault in CHECKS[name]()]
    for fault in wrong:
        print(fault, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
