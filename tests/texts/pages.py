"""Rules for what we write: docstrings, spelling, subjects of commits, links, numbers.

A paragraph, list item or table that links to a page of results, to the page on performance or to an
experiment states results. Each decimal number and percentage in it must occur in these records,
and so must each number in the cells of a table. On a page, a table without links has those of its
section. This holds for pages, docstrings and lessons.
"""

import inspect
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest

from experiments import __main__ as experiments
from experiments.benchmarks import figures
from experiments.pages import anchor
from experiments.records import CELL, Record, unknown
from tests.pages import BLOCK
from tests.test_api import PARTS, members
from tests.texts.form import ROOT, Text, different, files, forbid, library, rule, text_of

ROOMS = ("jaxnet", "guide", "colab", "experiments", "docs", "tools")


@cache
def texts() -> list[Text]:
    kinds = (f"{room}/**/*.{kind}" for room in ROOMS for kind in ("py", "md", "ipynb"))
    return files("*.md", *kinds)


def guide() -> list[Text]:
    return files("guide/**/*.md")


@cache
def public() -> list[Text]:
    """The docstring of each public name, and what a function returns."""
    found = []
    for part in PARTS:
        for name, value in filter(lambda item: callable(item[1]), members(part).items()):
            made = inspect.getdoc(value) or ""
            if not isinstance(value, type):
                kind = inspect.signature(value).return_annotation
                made += f"\n-> {getattr(kind, '__name__', kind)}"
            found.append(Text(Path(part) / name, made))
    return found


def with_examples() -> list[Text]:
    rooms = [".", "inspect", "losses", "penalties", "metrics"]
    return [t for t in public() if "\n-> " in t.text and str(t.path.parent) in rooms]


@rule(
    public,
    "",
    "Returns x.\n-> x",
    "The mean.\n-> x",
    "log p.\n-> x",
    "Giving x.\n-> x",
    "Compute x\n-> x",
    fine=("Pass x.\n-> x", "Compute x.\n-> x", "The x."),
)
def docstrings_begin_with_an_imperative(text):
    """The first line of a function says what it does, as in "Return the mean"."""
    first, *_ = f"{text.text}\n".splitlines()
    imperative = r"(?!(?:The|A|An|This|One|Its|As)\b|[a-z-]|\w+s\b(?<!ss)|\w+(?:ed|ing)\b).*[.:]"
    right = re.fullmatch(imperative, first) if "\n-> " in text.text else first
    return [] if right else [first]


@rule(
    public,
    "Sum x.\n-> Array",
    "Make x.\n-> Layer",
    fine=("Set x.\n-> None", "Sum.\n\nReturns:\n  x\n-> Array"),
)
def docstrings_say_what_is_returned(text):
    kinds = re.findall(r"^-> (?!(?:None|_empty)$).*", text.text, re.M)
    return [] if re.search(r"^(Returns|Yields):$", text.text, re.M) else kinds


@rule(with_examples, "Sum x.\n-> x")
def public_functions_have_an_example(text):
    return [] if ">>>" in text.text else ["no example"]


ENTRY = r"( *)(\*{0,2}\w[\w.]*(?:, \*{0,2}\w[\w.]*)*): (.*)"


def entries(docstring: str) -> Iterator[tuple[str, str, str]]:
    """The section, name and text of each entry; a text is its first line."""
    section, depth = "", 0
    for line in docstring.splitlines():
        if head := re.fullmatch(r"( *)(Args|Fields|Raises|[A-Z][\w ;,]*):", line):
            section, depth = head[2], len(head[1]) + 2
        elif (entry := re.match(ENTRY, line)) and len(entry[1]) == depth:
            yield section, entry[2], entry[3]
        elif line.strip() and len(line) - len(line.lstrip()) < depth:
            section, depth = "", -1


@rule(
    library,
    '"""Return x.\n\nArgs:\n  x: the input.\n"""',
    '"""F.\n\nRaises:\n  E: for x.\n"""',
    fine=('"""F.\n\nArgs:\n  x: x @ y.\n  y: Of it.\n\nThen\n  z: z.\n"""',),
)
def entries_of_docstrings_have_one_form(text):
    for docstring in text.docstrings:
        for section, name, said in entries(docstring):
            small = section in ("Args", "Fields") and re.match(r"[a-z]\w+\b(?! [=@<>])[^_(]", said)
            raised = section != "Raises" or re.match(r"(?:If|As|In|When|With|At) ", said)
            yield from [f"{name}: {said}"] if small or not raised else []


BRITISH = (
    r"(?i:neighbour|colour|behaviour|favour|centre|cheque|(?<!Sequence )labell"
    r"|\b(?:modell|travell)(?:ing|ed)\b"
    r"|\b(?:grey|(?:optim|normal|initial|general|regular|recogn|minim|maxim)is(?:e|es|ed|ing))\b)"
)
forbid("spelling_is_american", BRITISH, texts, "a gray colour", "its neighbours", "optimised")
FIRST = "49adf34"  # the commit after which subjects are tested


def log() -> str:
    command = ["git", "log", "--no-merges", "--format=%s", f"{FIRST}..HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return pytest.skip("this is not a clone with the history") if done.returncode else done.stdout


@rule(
    lambda: [Text(Path("git log"), log)],
    "Adds a layer",
    "add a layer",
    "data: adds a layer",
    "Add a layer.",
    f"Add {'a' * 70}",
    fine=("Add a layer", "data: add it", "Pass it on"),
)
def subjects_complete_if_applied_this_commit_will(log):
    right = r"(?!.{73})(?:[A-Z]|[a-z_]+: [a-z])[a-z-]*(?:[a-rt-z]|ss) (?!.*\.$).*"
    return [line for line in log.text.splitlines() if not re.fullmatch(right, line)]


@cache
def findings() -> list[tuple[str, Record]]:
    return experiments.findings()


@cache
def measured() -> list[Record]:
    return [record for _, record in figures.findings()]


def linked(text: str) -> list[Record]:
    """The records that a text links to."""
    found = []
    for topic, place in re.findall(r"\bresults/(\w+)\.md(?:#([\w-]+))?", text):
        found += [r for _, r in findings() if r.topic == topic and place in ("", anchor(r.title))]
    pages = r"\bperformance\.md(?:#([\w-]+))?|\bexperiments[./]benchmarks\b"
    for place in re.findall(pages, text):
        found += [record for record in measured() if place in ("", anchor(record.title))]
    names = set(re.findall(r"\bexperiments[./](\w+)", text))
    return found + [record for name, record in findings() if name in names]


def wrong_figures(text: str, *, page: bool = True) -> list[str]:
    """Numbers that the records of a text lack; on a page, deviations without a link to records."""
    problems = []
    fence = r"^( *)(```+).*?^\1\2 *$"
    for section in re.split(r"^(?=#+ )", re.sub(fence, "", text, flags=re.M | re.S), flags=re.M):
        for block in re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )", section):
            table = block.lstrip().startswith("|")
            records = linked(block) or (linked(section) if table and page else [])
            sources = [record.text for record in records]
            prose = re.sub(r"\]\([^)]*\)|`[^`]*`", " ", block)
            if sources:
                cells = [c.strip(" *") for c in prose.split("|")] if table else []
                numbers = "\n".join(cell for cell in cells if CELL.fullmatch(cell))
                problems += unknown(prose, sources) + unknown(numbers, sources, whole=True)
            elif page and "±" in prose:
                problems.append(f"no link to records: {' '.join(prose.split())}")
    return problems


SPEED = "[Speed](experiments/performance.md): below.\n\n| LeNet | "
CAMVID = "[FCN](experiments/results/segmentation.md) has "


@rule(
    "README.md experiments/performance.md guide/**/*.md",
    f"{CAMVID}0.417 ± 0.012.",
    f"{CAMVID}76.1%.",
    f"{SPEED}**4.0637** |",
    f"{SPEED}18,937 |",
    "`python -m experiments.forecast` gives 0.74 ppm.",
    "It has 0.1 ± 0.2.",
    f"- {CAMVID}0.42.\n- A rate of 0.7.\n1. {CAMVID}0.492.",
    fine=(
        f"{CAMVID}0.417 ± 0.002, or 0.42, and 76.6%.",
        f"{SPEED}**6.43** | 73.9 |",
        f"- {CAMVID}0.42.\n- A rate of 0.7.\n`python -m experiments.forecast` gives 0.70.",
        "```\nloss 0.1 ± 0.2\n```\nA rate of 0.1.",
    ),
)
def pages_state_the_figures_of_the_records(text):
    return wrong_figures(text.text)


@rule(library, f'"""{CAMVID}0.492."""')
def docstrings_state_the_figures_of_the_records(text):
    found = text.docstrings if "experiments" in text.text else []
    return [fault for doc in found for fault in wrong_figures(doc, page=False)]


def experimental() -> list[Text]:
    files_of = (f"experiments/{name}.py experiments/{name}/__init__.py" for name, _ in findings())
    return files(*" ".join(dict.fromkeys(files_of)).split())


@rule(experimental, '"""It has 0.1 ± 0.2."""', '"""It has 3.123%."""')
def docstrings_of_experiments_leave_the_figures_to_the_records(text):
    name = text.path.parent.stem if text.path.stem == "__init__" else text.path.stem
    own = [record.text for other, record in findings() if other == name]
    prose = re.sub(r"^    .*[=(].*$", "", text.docstrings[0], flags=re.M)  # without its code
    return re.findall(r"\d ?± ?\d|\+-", text.docstrings[0]) + unknown(prose, own)


@cache
def drawn() -> list[Text]:
    """For each picture of a finding, the versions of its record, and those that made it."""
    image = pytest.importorskip("PIL.Image", reason="needs the extra jaxnet-toolkit[data]")
    found, folder = [], ROOT / "experiments" / "pictures"
    for _, record in findings():
        for path in [folder / picture.file for picture in record.pictures]:
            if path.suffix == ".png":  # a GIF has no such text
                with image.open(path) as png:
                    made = png.info.get("Software", "")
                found.append(Text(path, f"{record.versions}\n{made}"))
    return found


@rule(drawn, "jax 0.12.0.1, Flax 0.12\njax 0.11")
def pictures_were_made_by_the_versions_of_their_records(text):
    versions, made = text.text.split("\n", 1)
    return [made] if re.findall(r"^jax [\d.]*\d", versions)[0] not in made else []


@rule(
    guide,
    "```python\nprint(x == y)\n```\n\n```text\nTrue\n```\n",
    "```python\nprint(sorted(x))\n```\n\n```text\n[1]\n```\n",
)
def outputs_are_results(text):
    """What a reader came for: a check that prints True or sorted names is a test."""
    for code, _, shown in BLOCK.findall(text.text):
        said = re.search(r"\b(True|False)$", shown, re.M)
        yield from [code] if shown and (said or re.search(r"print\(.*\bsorted\(", code)) else []


def pictures_of(text: Text) -> list[tuple[int, str]]:
    """Where a page of the guide shows which of its pictures."""
    found = re.finditer(r"!\[[^]]+\]\((?:\.\./)?pictures/([\w.]+)\)", text.text)
    return [(match.start(), match[1]) for match in found]


@rule(guide, '```python\nsave("a.png")\n```\n![B](pictures/b.png)')
def pictures_are_made_by_the_blocks_before_them(text):
    """`python -m tools.pictures` makes them again."""
    for place, name in pictures_of(text):
        if f'"{name}"' not in text.text[:place].rpartition("```python\n")[2]:
            yield name


@rule(
    lambda: [Text(ROOT / "guide", "\n".join(page.text for page in guide()))],
    "![A](pictures/a.png)",
    (r"!\[[^]]+\]\(pictures/.*?\)", r""),
)
def each_picture_of_the_guide_is_shown_once_and_is_small(text):
    shown = [name for _, name in pictures_of(text)]
    there = {path.name: path.stat().st_size for path in (ROOT / "guide" / "pictures").iterdir()}
    yield from set(shown) ^ set(there) if len(shown) >= 25 else shown
    yield from [name for name, size in there.items() if not 500 < size < 60_000]
    yield from [name for name in there if shown.count(name) > 1]


@cache
def anchors(text: Text) -> set[str]:
    """The headings as GitHub links to them."""
    heads = re.findall(r"^#+ (.*)$", text.prose, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def missing(path: Path, place: str) -> list[str]:
    there = path.exists() and (not place or place in anchors(text_of(path.resolve())))
    return [] if there else [f"{path}#{place}"]


@rule(
    "README.md guide/**/*.md",
    "[a](nowhere.md)",
    "[a](guide/data.md#nowhere)",
    "no link",
    '<img src="nowhere.png">',
)
def links_exist(text):
    links = r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)|<img src=\"([^\"]+)"
    found = re.findall(links, text.prose)
    yield from [] if found else ["none"]
    for path, place, image in [link for link in found if not link[0].startswith("http")]:
        path = path or image
        yield from missing(text.path.parent / path if path else text.path, place)


@rule(texts, "guide/nowhere.md", "guide/data.md#nowhere")
def links_to_the_guide_exist(text):
    for path, place in re.findall(r"guide/([a-z_/]+\.md)(?:#([\w-]+))?", text.text):
        yield from missing(ROOT / "guide" / path, place)


def listed() -> list[Text]:
    """What the index and the page on migrating link to."""
    indexes = files("guide/README.md", "guide/migrating/README.md")
    links = [(t.path.parent, re.findall(r"\]\(([a-z_/A-Z]+\.md)\)", t.text)) for t in indexes]
    return [Text(ROOT, "\n".join(repr(Text(here / p)) for here, paths in links for p in paths))]


@rule(listed, ("guide/data.md", "guide/nowhere.md"))
def the_index_names_every_page(text):
    return {repr(page) for page in guide()} - {*text.text.splitlines(), "guide/README.md"}


@rule(
    "README.md guide/**/*.md jaxnet/**/*.py colab/*.ipynb",
    "jn.nothing",
    "jn.data.nothing()",
    "optax.nothing",
    "from jaxnet.data import mnist, nothing",
)
def names_exist(text):
    """In the solutions of a lesson too, which no cell runs."""
    found = re.findall(r"(?<!/)\b(jn|optax)((?:\.[a-zA-Z]\w*)+)", text.text)
    for module, names in re.findall(r"\bfrom jaxnet([\w.]*) import ([\w, ]+)", text.text):
        imported = [name.split() for name in names.split(",")]
        found += [("jn", f"{module}.{name[0]}") for name in imported if name]
    for module, name in set(found):
        needs = re.match(r"\.interop\.(flax|haiku|torch)\.", name)
        if needs and find_spec(needs[1]) is None:
            continue
        try:
            resolve_name({"jn": "jaxnet"}.get(module, module) + name)
        except (AttributeError, ModuleNotFoundError):
            yield module + name


@rule("README.md", (r"<img ", ""), '<img src="a.png">' * 3)
def the_readme_has_three_pictures_and_links(text):
    links = len(re.findall(r"\]\((?!http)[^)#]", text.text))
    return different((text.text.count('<img src="'), 3), (links > 10, True))


@rule("colab/*.ipynb", (r'"# ', f'"{CAMVID}0.492. '))
def lessons_state_the_figures_of_the_records(text):
    return [fault for cell in text.sources("markdown") for fault in wrong_figures(cell, page=False)]
