"""Rules for the project's own files: its address, extras, versions and workflows."""

import re
import shlex
import tomllib
from typing import Any

import pytest

from tests.texts.form import ROOT, Text, different, files, rule, text_of

PROJECT = tomllib.loads(text_of(ROOT / "pyproject.toml").text)["project"]
NAME, ADDRESS = PROJECT["name"], PROJECT["urls"]["Repository"]
EXTRAS = PROJECT["optional-dependencies"]
# Extras for work on jaxnet itself.
OWN = set("all experiments full lint notebooks parity peers site start test".split())


def addressed() -> list[Text]:
    rooms = [f"{room}/**/*" for room in ("colab", "docs", "guide", "jaxnet", "experiments")]
    found = files("CITATION.cff", "*.md", ".github/workflows/*.yml", *rooms)
    return [t for t in found if t.path.suffix in {".cff", ".md", ".py", ".yml", ".ipynb"}]


@rule(
    addressed,
    "https://github.com/another/jaxnet",
    "no address",
    Text(ROOT / "colab" / "01.ipynb", f"{ADDRESS}/a {ADDRESS} https://github.com/a/b"),
    Text(ROOT / "colab" / "01.ipynb", f"{ADDRESS}/a {ADDRESS}/blob/main/nothing.md"),
)
def one_address(text):
    lesson = text.path.suffix == ".ipynb"
    name = r"[\w.-]+" if lesson else r"jaxnet\b"
    found = re.findall(rf"https?://github\.com/[\w.-]+/{name}", text.text)
    least = 2 if lesson else text.path in (ROOT / "README.md", ROOT / "CITATION.cff")
    yield from set(found) - {ADDRESS}
    yield from different((len(found) >= least, True))
    linked = re.findall(rf"{re.escape(ADDRESS)}/blob/main/([\w./-]+)", text.text) if lesson else []
    yield from (file for file in linked if not (ROOT / file).is_file())


@rule(
    "README.md guide/getting_started.md",
    (r"\[data,viz\]", "[data]"),
    (r"experiments\.digits", "experiments.mnist"),
    (r"\[start\b", "[begin"),
)
def pages_install_what_their_example_needs(text):
    command = f'\npip install "{NAME}[data,viz] @ git+{ADDRESS}"\n'
    lines = re.findall(r"^pip install -e .*$", text.text, re.M)  # another program reads them
    yield from {e for line in lines for e in re.findall(r"\w+", line.split('"')[1])} - {*EXTRAS}
    yield from [] if command in text.text else [command]
    if text.path.name == "README.md":
        ends = [" && python -m experiments.digits", " && pytest"]
        found = [line.partition('" ')[2] for line in lines]
        yield from different((found, [end[1:] for end in ends]))


@rule("guide/getting_started.md", (r"\| `speech` \|", "| `talk` |"), ("librosa", ""))
def the_guide_lists_the_extras_with_their_packages(text):
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", text.text, re.M)
    rows = {extra: words for extras, words in rows for extra in re.findall(r"\w+", extras)}
    yield from rows.keys() ^ (EXTRAS.keys() - OWN)
    for extra in rows.keys() & EXTRAS:
        named = {name.lower() for name in re.findall(r"[\w-]+", rows[extra])}
        needed = {re.split(r"[>\[=]", need)[0].lower() for need in EXTRAS[extra]}
        yield from (named & needed) ^ (needed - {"array_record", "importlib_resources"})


def parsed(text: Text) -> dict:
    return pytest.importorskip("yaml", reason="reads workflows").safe_load(text.text)


TESTS = ".github/workflows/tests.yml"


@rule(TESTS, (r'python: "3.11"', 'python: "3.10"'))
def the_metadata_name_the_versions_that_are_tested(text):
    cases = parsed(text)["jobs"]["tests"]["strategy"]["matrix"]["include"]
    named = set(re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])))
    yield from {case["python"] for case in cases} - named
    yield from {"Typing :: Typed"} - {*PROJECT["classifiers"]}
    yield from different((PROJECT["requires-python"], f">={min(named)}"))


@rule(
    ".ci/colab.txt",
    (r"numpy==2\.", "numpy==1."),
    (r"numpy==2\.", "numpy==9."),
    ("jax==", "jacks=="),
)
def colab_keeps_its_versions(text):
    """What it has is allowed, and nothing lower, since nothing lower is tested."""
    colab = dict(line.split("==") for line in text.text.splitlines() if line[:1] != "#")
    extras = (EXTRAS[name] for name in EXTRAS.keys() - {"parity", "peers"})
    wanted = [*PROJECT["dependencies"], *(need for extra in extras for need in extra)]
    lowest = dict(re.findall(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", "\n".join(wanted)))
    kept = lowest.keys() & colab.keys()
    yield from {"jax", "numpy", "matplotlib", "flax", "scikit-learn"} - kept
    for name in kept:
        have, need = ([*map(int, f"{v}.0".split("."))][:3] for v in (colab[name], lowest[name]))
        yield from different((have >= need, True), (have[:2], need[:2]))


@rule(
    "CITATION.cff",
    ("The jaxnet developers", "A. Person"),
    (r"$", "\nversion: 1"),
    ("repository-code: .*", ""),
    ("Apache", "MIT"),
)
def the_citation_names_no_person(text):
    citation = parsed(text)
    return different(
        (citation["authors"], [{"name": "The jaxnet developers"}]),
        (citation.get("repository-code"), ADDRESS),
        (citation["license"], PROJECT["license"]),
        ("version" in citation, False),  # pyproject.toml has it
    )


def commands(job: dict) -> list[list[str]]:
    lines = [line for step in job["steps"] for line in step.get("run", "").splitlines()]
    return [shlex.split(line) for line in lines]


def packages(extras: str) -> set[str]:
    """The packages of extras, and of the extras that they name."""
    found = set()
    for need in [need for extra in extras.split(",") for need in EXTRAS[extra]]:
        own = need.startswith(NAME)
        found |= packages(need.split("[")[1][:-1]) if own else {re.split(r"[<>=\[]", need)[0]}
    return found


def runs(command: list[str], installed: set[str]) -> Any:
    """Whether what a command runs is there; what it installs is added."""
    tool, *rest = command
    if "-e" in rest:
        installed |= packages(re.fullmatch(r"\.\[([\w,]+)\]", rest[rest.index("-e") + 1])[1])
        return True
    if tool == "bash":
        return (ROOT / rest[0]).is_file()
    if tool == "python":
        module = ROOT / rest[1].replace(".", "/")
        files = module / "__main__.py", module.with_suffix(".py")
        return rest[0] == "-m" and any(path.is_file() for path in files)
    return tool in installed


@rule(
    ".github/workflows/*.yml",
    ("contents: read", "contents: write"),
    (r"@[0-9a-f]{40}  # v[\d.]+", "@v4"),
    ("run: ", "name: "),
    ("run: .*", "run: rm -r x"),
    ("run: .*", "run: python -m nothing"),
    (r"$", "# secrets.x"),
)
def workflows_run_what_there_is(text):
    about = parsed(text)
    yield from different((about["permissions"], {"contents": "read"}))  # jobs that publish ask more
    yield from re.findall(r"secrets\.", text.text)
    pinned = r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+"  # a tag can be moved
    yield from (a for a in re.findall(r"uses: (.*)", text.text) if not re.fullmatch(pinned, a))
    for job in about["jobs"].values():
        yield from (step for step in job["steps"] if ("run" in step) == ("uses" in step))
        installed = {"pip", "uv", "test"}
        yield from (command for command in commands(job) if not runs(command, installed))


@rule(TESTS, ("ruff check", "ruff help"))
def the_workflow_checks_what_ci_checks(text):
    there = {shlex.join(line) for job in parsed(text)["jobs"].values() for line in commands(job)}
    ci = text_of(ROOT / ".ci" / "run").text
    checks = re.findall(r"^ *((?:bash|ruff|pyright|pytest)\b.*)$", ci, re.M)
    # Parts are CI's alone, and so is -k.
    lines = [[word for word in shlex.split(check) if "[@]" not in word] for check in checks]
    everywhere = {shlex.join(line) for line in lines if "-k" not in line}
    return everywhere - there if len(everywhere) >= 6 else everywhere
