"""The pages of results, written from the records."""

import re
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from experiments.records import CELL, LEADS, TOPICS, Column, Record

HERE = Path(__file__).parent
FOLDER = HERE / "results"
WRITTEN = "<!-- Written by `python -m experiments --table` from the records. -->"
NEXT = """---

Next: [all findings](../README.md#findings), or [run an experiment](../README.md#run-an-experiment)
yourself."""
FAILED = "Not supported"
Findings = list[tuple[str, Record]]
"""Name of the experiment, and one of its records."""


def command(module: str, options: str) -> str:
    return f"python -m experiments.{module} {options}".rstrip()


def anchor(title: str) -> str:
    """Return the anchor of a heading, which GitHub and the site make in the same way.

    Example:
      >>> anchor("Skips help, by LeNet-5's rule")
      'skips-help-by-lenet-5s-rule'
    """
    return re.sub(r"[ ]", "-", re.sub(r"[^\w -]", "", title.lower()))


def between(text: str, begin: str, end: str, written: str) -> str:
    """Return a text whose part between two markers is replaced.

    Example:
      >>> between("a <b> old <e> c", "<b>", "<e>", " new ")
      'a <b> new <e> c'
    """
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}{written}{end}{after}"


def pages(findings: Findings) -> dict[Path, str]:
    """Return the text of each page of results: one per topic that has findings."""
    found = {}
    for topic in TOPICS:
        chosen = [(name, record) for name, record in findings if record.topic == topic]
        chosen.sort(key=lambda pair: pair[1].verdict == FAILED)
        if chosen:
            found[FOLDER / f"{topic}.md"] = _topic(topic, chosen)
    return found


def _topic(topic: str, findings: Findings) -> str:
    names = "\n".join(
        f"- [{record.title}](#{anchor(record.title)}) ({record.verdict.lower()})"
        for _, record in findings
    )
    parts = [
        WRITTEN,
        f"# {TOPICS[topic]}",
        f"This page shows {LEADS[topic]} ([how to read the figures]"
        "(../README.md#how-to-read-the-results)).",
    ]
    parts += [names, *(finding(name, record) for name, record in findings), NEXT]
    return "\n\n".join(parts) + "\n"


def finding(name: str, record: Record, pictures: str = "../pictures", root: str = "../..") -> str:
    """Return a finding in Markdown: verdict, table, pictures, and how it was measured.

    Args:
      name: Name of the experiment.
      record: Record of the finding.
      pictures: Folder of the pictures, seen from the page.
      root: Folder of the repository, seen from the page.
    """
    parts = [f"## {record.title}"]
    lead = f"**{record.verdict}.**"
    if record.claim:
        lead = f"**Claim, {record.verdict.lower()}:** {record.claim}."
    parts += [f"{lead} {record.sentence}"]
    parts += [table(record.columns, record.rows, record.across, record.baseline)]
    shown = [
        f"![{picture.caption}]({pictures}/{picture.file})\n\n*{picture.caption}.*"
        for picture in record.pictures
    ]
    parts += shown[:1]
    parts += [facts(record.note)] if record.note else []
    parts += [folded("More pictures", "\n\n".join(shown[1:]))] if shown[1:] else []
    for more in record.more:
        parts += [folded(more.title, table(more.columns, more.rows, more.across))]
    parts += (
        [folded("How the options were chosen", facts(record.history))] if record.history else []
    )
    lines = [f"- {runs(record)}, {record.machine}, {record.versions}"]
    for given in record.commands:
        time = given.time or (f"{given.seconds:g} s" if given.seconds else "")
        lines += [f"- `{command(name, given.options)}`" + (f": {time}" if time else "")]
    lines += [f"- {', '.join(_links(name, record, root))}"]
    return "\n\n".join([*parts, "How it was measured:", "\n".join(lines)])


def facts(text: str) -> str:
    """Return the lines of a text as a list, or its sentences if it is one line of more than two.

    Example:
      >>> print(facts("Two runs. The first took 3.5 s. Both used NumPy."))
      - Two runs.
      - The first took 3.5 s.
      - Both used NumPy.
      >>> print(facts("We made two runs. The first took 3.5 s.\\nBoth used NumPy."))
      - We made two runs. The first took 3.5 s.
      - Both used NumPy.
    """
    if "\n" in text:
        return "\n".join(f"- {line}" for line in text.splitlines())
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z`*(])", text)
    return "\n".join(f"- {one}" for one in sentences) if len(sentences) > 2 else text


def folded(title: str, text: str) -> str:
    return f"<details markdown>\n<summary>{title}</summary>\n\n{text}\n\n</details>"


def runs(record: Record) -> str:
    if record.seeds == 1:
        return "One run"
    return f"{record.seeds} {record.repeated}s"


def _links(name: str, record: Record, root: str) -> Iterable[str]:
    path = HERE.joinpath(*name.split("."))
    inside = f"{path.relative_to(HERE.parent).as_posix()}"
    yield f"[source]({root}/{inside}/)" if path.is_dir() else f"[source]({root}/{inside}.py)"
    if record.lesson:
        (path,) = (HERE.parent / "colab").glob(f"{record.lesson:02}_*.ipynb")
        yield f"[lesson {record.lesson}]({root}/colab/{path.name})"


def table(
    columns: tuple[str | Column, ...],
    rows: tuple[tuple[str, ...], ...],
    across: bool = False,
    baseline: str = "",
) -> str:
    """Return a table in Markdown, with the best number of each column, or of each row, in bold.

    If all numbers are equal, none is bold.
    """
    heads = [c if isinstance(c, Column) else Column(c) for c in columns]
    cells = [list(row) for row in rows]
    places = [(i, j) for i in range(len(cells)) for j in range(len(heads)) if heads[j].better]
    for line in range(len(cells) if across else len(heads)):
        group = [place for place in places if place[0 if across else 1] == line]
        values = {(i, j): number(rows[i][j]) for i, j in group if CELL.fullmatch(rows[i][j])}
        if len(set(values.values())) > 1:
            best = max if heads[group[0][1]].better == "higher" else min
            for i, j in values:
                if values[i, j] == best(values.values()):
                    cells[i][j] = f"**{cells[i][j]}**"
    for row in cells:
        if baseline and row[0] == baseline:
            row[0] += " (baseline)"
    words = [any(row[j] and not CELL.fullmatch(row[j]) for row in rows) for j in range(len(heads))]
    rule = ["---" if j == 0 or words[j] else "---:" for j in range(len(heads))]
    lines = [[head.name for head in heads], rule, *cells]
    return "\n".join(
        "|" + "|".join(f" {cell} " if cell else " " for cell in x) + "|" for x in lines
    )


def number(cell: str) -> Decimal:
    """Return the number of a cell, without its spread."""
    return Decimal(re.split(" [±(]", cell)[0].replace(",", "").replace("−", "-"))


def index(findings: Findings) -> str:
    """Return the tables of findings by topic, and of the claims that failed, in Markdown."""
    parts = []
    for topic, heading in TOPICS.items():
        chosen = [record for _, record in findings if record.topic == topic]
        if chosen:
            chosen.sort(key=lambda record: record.verdict == FAILED)
            parts += [f"### [{heading}](results/{topic}.md)", _summary(chosen)]
    failed = [record for _, record in findings if record.verdict == FAILED]
    if failed:
        rows = tuple((_link(record), record.claim, record.key) for record in failed)
        parts += ["### Claims that failed", table(("finding", "claim", "key figure"), rows)]
    return "\n\n".join(parts) + "\n"


def _summary(records: list[Record]) -> str:
    rows = tuple((_link(record), record.key, record.verdict.lower()) for record in records)
    return table(("finding", "key figure", "verdict"), rows)


def _link(record: Record) -> str:
    return f"[{record.title}](results/{record.topic}.md#{anchor(record.title)})"
