"""The pages of results, written from the records."""

import re
from collections import Counter
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
LONG = 16  # rows of a table; a longer one is folded
SHOWN = 3  # findings of a topic whose pictures the index shows
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
    parts = [
        WRITTEN,
        f"# {TOPICS[topic]}",
        f"{LEADS[topic]} ([how to read the figures](../README.md#how-to-read-the-results)).",
    ]
    if thumbnails := gallery(findings):
        parts.append(thumbnails)
    parts += [*(finding(name, record) for name, record in findings), NEXT]
    return "\n\n".join(parts) + "\n"


def gallery(findings: Findings, page: str = "", pictures: str = "../pictures") -> str:
    """Return the first picture of each finding with its key figure, as a link; "" without pictures.

    Args:
      findings: Findings.
      page: Page of the findings; by default they are on the same page.
      pictures: Folder of the pictures, seen from the page.
    """
    return "\n".join(
        f'<a href="{page}#{anchor(record.title)}"><img src="{pictures}/{record.pictures[0].file}" '
        f'height="120" alt="{record.pictures[0].caption}" title="{record.key}"></a>'
        for _, record in findings
        if record.pictures
    )


def finding(name: str, record: Record, pictures: str = "../pictures", root: str = "../..") -> str:
    """Return a finding in Markdown: verdict, table, pictures, and how it was measured.

    Args:
      name: Name of the experiment.
      record: Record of the finding.
      pictures: Folder of the pictures, seen from the page.
      root: Folder of the repository, seen from the page.
    """
    lead = f"**{record.verdict}.**"
    if record.claim:
        lead = f"**{record.verdict}:** *{record.claim}.*"
    figures = table(record.columns, record.rows, record.across, record.baseline)
    if len(record.rows) > LONG:
        figures = folded(f"{len(record.rows)} rows", figures)
    shown = [f"![{picture.caption}]({pictures}/{picture.file})" for picture in record.pictures]
    parts = [f"## {record.title}", f"{lead} {record.sentence} {record.caveat}".rstrip()]
    parts += [] if record.drawn else [figures]
    parts += shown[:1]
    parts += [folded("More pictures", "\n\n".join(shown[1:]))] if shown[1:] else []
    return "\n\n".join([*parts, measured(name, record, root)])


def measured(name: str, record: Record, root: str) -> str:
    """Return one line of Markdown: runs, commands with their times, and links.

    The machine and the versions come after the runs if they are not those of most records.
    """
    unusual = (record.machine, record.versions) != (Record.machine, Record.versions)
    parts = [f"{runs(record)}, {record.machine}, {record.versions}" if unusual else runs(record)]
    for given in record.commands:
        time = given.time or (f"{given.seconds:g} s" if given.seconds else "")
        parts += [f"`{command(name, given.options)}`" + (f" ({time})" if time else "")]
    return "; ".join([*parts, ", ".join(_links(name, record, root))]) + "."


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
    """Return the table of topics with their findings, and a gallery, in Markdown."""
    rows, thumbnails = [], []
    for topic, heading in TOPICS.items():
        chosen = [pair for pair in findings if pair[1].topic == topic]
        if not chosen:
            continue
        verdicts = Counter(record.verdict.lower() for _, record in chosen)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        rows += [(f"[{heading}](results/{topic}.md)", LEADS[topic], counts)]
        thumbnails += [gallery(chosen[:SHOWN], f"results/{topic}.md", "pictures")]
    return (
        "\n\n".join(
            [
                "\n".join(filter(None, thumbnails)),
                table(("topic", "what it shows", "findings"), tuple(rows)),
            ]
        )
        + "\n"
    )
