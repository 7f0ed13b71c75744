"""The figures of the page on performance, and the command that takes over a new run.

    python -m experiments.benchmarks.figures --run runs/benchmarks/cpu.json

replaces the rows of the run's workloads in `figures.json`, draws the pictures again and writes the
page. Rows measured with other versions are removed. Without `--run` it draws and writes only. If a
sentence in `figures.json` has a number that is no longer in its table, the command raises an error;
edit the sentence and run it again.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import pages
from experiments.benchmarks import report
from experiments.benchmarks.measure import ACCELERATED, REUSED, Row, bootstrap
from experiments.benchmarks.report import Line
from experiments.records import CELL, Column, Command, Picture, Record

FILE = Path(__file__).with_name("figures.json")
PAGE = pages.HERE / "performance.md"
GUIDE = pages.HERE.parent / "guide/accelerate.md"  # has the table of `jn.accelerate`, too
BEGIN = "<!-- Written by `python -m experiments --table` from benchmarks/figures.json. -->\n"
END = "<!-- End of the written part. -->\n"
LABELS = {
    "cpu": {
        "LeNet": "LeNet, batch 128",
        "ResNet-20": "ResNet-20, batch 64",
        "ResNet-18, 224x224": "ResNet-18, 224×224, batch 8",
        "ResNet-50, 224x224": "ResNet-50, 224×224, batch 8",
        "ResNet-20, bfloat16": "ResNet-20, bfloat16, batch 64",
        "MobileNet V2, 224x224": "MobileNet V2, 224×224, batch 8",
        "U-Net, 128x128": "U-Net, 128×128, batch 8",
        "LSTM": "LSTM, 100 steps, hidden 256, batch 32",
        "GRU": "GRU, 100 steps, hidden 256, batch 32",
        "transformer block": "transformer block, 8 × 128 × 256",
        "transformer block, 512 steps": "transformer block, 1 × 512 × 512",
        "transformer block, 2,048 steps": "transformer block, 1 × 2,048 × 512",
        "transformer block, 8,192 steps": "transformer block, 1 × 8,192 × 512",
        "64 LeNets": "64 LeNets, batch 32 each",
        "MLP, large": "MLP 1,024-2,048-2,048-10, batch 512",
        "MLP, bfloat16": "MLP 1,024-2,048-2,048-10, bfloat16, batch 512",
        "MLP": "MLP 784-512-512-10, batch 128",
        "MLP 3x64": "MLP 3×64, batch 32",
    },
    "accelerate": {
        "LeNet": "LeNet, batch 128",
        "LeNet, 12 steps": "LeNet, batch 128, 12 steps in a scan",
        "ResNet-20": "ResNet-20, batch 64",
        "ResNet-20, 2 steps": "ResNet-20, batch 64, 2 steps in a scan",
        "ResNet-18, 224x224": "ResNet-18, 224×224, batch 8",
        "ResNet-20, bfloat16": "ResNet-20, bfloat16, batch 64",
        "MobileNet V2, 224x224": "MobileNet V2, 224×224, batch 8",
        "U-Net, 128x128": "U-Net, 128×128, batch 8",
        "64 LeNets": "64 LeNets, batch 32 each",
        "LSTM": "LSTM, 100 steps, hidden 256, batch 32",
        "GRU": "GRU, 100 steps, hidden 256, batch 32",
        "transformer block": "transformer block, 8 × 128 × 256",
        "MLP, bfloat16": "MLP 1,024-2,048-2,048-10, bfloat16, batch 512",
        "MLP": "MLP 784-512-512-10, batch 128",
        "MLP 3x64": "MLP 3×64, batch 32",
    },
    "start-up": {
        "ResNet-20: first step, cold": "ResNet-20, batch 64",
        "transformer block: first step, cold": "transformer block, 8 × 128 × 256",
    },
    "gpu": {
        "LeNet": "LeNet, batch 1,024",
        "LSTM": "LSTM, 100 steps, hidden 1,024, batch 128",
        "transformer block, bfloat16": "transformer block, bfloat16, 16 × 512 × 1,024",
        "64 LeNets": "64 LeNets, batch 32 each",
        "ResNet-50, bfloat16": "ResNet-50, bfloat16, batch 128",
        "GPT-2, 124M, bfloat16": "GPT-2, 124M, bfloat16, 8 × 1,024 tokens",
        "MLP": "MLP 784-4,096-4,096-10, batch 4,096",
        "MLP 3x64": "MLP 3×64, batch 32",
    },
}
"""Section of the file -> name of a workload -> label of its row."""
NAMES = {"jax": "jax", "flax": "Flax", "equinox": "Equinox", "torch": "PyTorch"}


def findings(path: Path = FILE) -> pages.Findings:
    """Return the benchmark and the record of each table of the page."""
    found = []
    for content in json.loads(path.read_text(encoding="utf-8")).values():
        module = content.pop("module")
        content |= {
            "columns": tuple(c if isinstance(c, str) else Column(*c) for c in content["columns"]),
            "rows": tuple(tuple(row) for row in content["rows"]),
            "commands": tuple(Command(*command) for command in content["commands"]),
            "pictures": tuple(Picture(*picture) for picture in content.get("pictures", ())),
        }
        found.append((module, Record(**content)))
    return found


def with_findings(text: str) -> str:
    """Return the text of the page with its written part replaced."""
    parts = [pages.finding(name, record, "pictures", "..") for name, record in findings()]
    return pages.between(text, BEGIN, END, "\n" + "\n\n".join(parts) + "\n\n")


def with_table(text: str) -> str:
    """Return the text of the guide on `jn.accelerate` with its table replaced."""
    sections = json.loads(FILE.read_text(encoding="utf-8"))
    record = findings()[list(sections).index("accelerate")][1]
    table = pages.table(record.columns, record.rows)
    about = f"Two cores, {record.machine.partition(' of ')[2]}, {record.versions}."
    return pages.between(text, BEGIN, END, f"\n{table}\n\n{about}\n\n")


def write() -> None:
    """Write the page of performance and the table of the guide."""
    PAGE.write_text(with_findings(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    GUIDE.write_text(with_table(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")


def take(run: Path, path: Path = FILE, only: tuple[str, ...] = ()) -> None:
    """Put the rows of a run into the file of figures.

    Args:
      run: JSON written by `experiments.benchmarks`, its `gpu` or its `accelerated`.
      path: File of figures.
      only: Sections to change; by default all of which the run has rows.
    """
    rows, about = report.read(run)
    contents = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(
        f"{name} {about['versions'][key]}"
        for key, name in NAMES.items()
        if key in about["versions"]
    )
    for section, found in sections(rows, about).items():
        if only and section not in only:
            continue
        content, labels = contents[section], list(LABELS.get(section, {}).values())
        known = content["rows"] if content["versions"] == versions else []
        words = 1 if labels else 2  # issues are known by their number and a description
        merged = {tuple(row[:words]): row for row in [*known, *found]}
        ordered = list(merged.values())
        if labels:
            ordered.sort(key=lambda row: labels.index(row[0]))
        content["rows"] = [row[: len(content["columns"])] for row in ordered]
        content["versions"] = versions
        if arguments := about.get("arguments"):
            content["commands"] = [[arguments, 0, ""]]
        which = "fresh_rounds" if section == "start-up" else "rounds"
        content["seeds"] = int(about["config"][which])
    path.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def sections(rows: list[Row], about: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Return section -> the rows of a run for its table, if there are any."""
    if "section" in about:
        linked = [[issue_link(issue), *cells] for issue, *cells in issue_rows(rows)]
        return {about["section"]: linked} if linked else {}
    row_by = {"cpu": every_peer, "accelerate": accelerated, "start-up": every_peer}
    row_by = row_by if about["backend"] == "cpu" else {"gpu": row_of}
    found = {}
    for section, row_from in row_by.items():
        labels = LABELS[section]
        several = [
            row_from(labels[workload], lines)
            for workload, lines in report.groups(rows).items()
            if workload in labels and lines[0].row.samples
        ]
        if several := [row for row in several if any(row[1:])]:
            found[section] = several
    return found


def issue_rows(rows: list[Row]) -> list[list[str]]:
    """Return a row for each two programs that have samples, of which the second is accelerated.

    Its cells are the issue, a description, both times, and how many times as fast the second is.
    """
    found = []
    for plain, second in zip(rows[::2], rows[1::2], strict=True):
        if plain.samples:
            times = [digits(float(np.median(one.samples))) for one in (plain, second)]
            ratio, low, high = map(digits, bootstrap(plain.samples, second.samples))
            found.append([plain.workload, plain.peer, *times, f"{ratio} ({low} to {high})"])
    return found


def issue_link(issue: str) -> str:
    """Return a link to an issue.

    Example:
      >>> issue_link("jax-ml/jax#12868")
      '[jax-ml/jax#12868](https://github.com/jax-ml/jax/issues/12868)'
    """
    repository, _, number = issue.partition("#")
    return f"[{issue}](https://github.com/{repository}/issues/{number})"


def every_peer(label: str, lines: list[Line]) -> list[str]:
    """Return a row of the table of all libraries: jaxnet's time and the ratio of each to it.

    PyTorch has two columns, by default and with freed memory kept.
    """
    torch = [x for x in lines if x.row.peer == "torch"]
    kept = [x for x in torch if REUSED in x.row.program]
    peers = [[x for x in lines if x.row.peer == name] for name in report.LIBRARIES]
    return [
        label,
        digits(lines[0].middle),
        *(ratio(fastest(found)) for found in (*peers, [x for x in torch if x not in kept], kept)),
    ]


def row_of(label: str, lines: list[Line]) -> list[str]:
    """Return a row of the table: jaxnet's time, the best of both kinds of peers, and the ratios."""
    kinds = ("hand", *report.LIBRARIES), ("torch",)
    best = [fastest([x for x in lines[1:] if x.row.peer in peers]) for peers in kinds]
    times = [digits(one.middle) if one else "" for one in (lines[0], *best)]
    programs = "; ".join(one.row.program for one in best if one)
    return [label, *times, *map(ratio, best), programs]


def accelerated(label: str, lines: list[Line]) -> list[str]:
    """Return a row of the table of `jn.accelerate`: plain time / accelerated time."""
    samples = {line.row.program: line.row.samples for line in lines}
    cells: dict[str, str] = dict.fromkeys(report.LIBRARIES, "")
    for line in lines:
        plain = samples.get(line.row.program.replace(ACCELERATED, ""))
        if line.accelerated and line.row.samples and plain:
            cells[line.row.peer] = interval(*bootstrap(plain, line.row.samples))
    return [label, *cells.values()]


def fastest(lines: list[Line]) -> Line | None:
    """Return the fastest program that ran, of those that the libraries offer."""
    known = [line for line in lines if line.row.samples and not line.accelerated]
    return min(known, key=lambda line: line.middle, default=None)


def ratio(line: Line | None) -> str:
    """Return the ratio of a program's time to jaxnet's, with its interval."""
    return interval(line.ratio, line.low, line.high) if line else ""


def interval(middle: float, low: float, high: float) -> str:
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def digits(value: float) -> str:
    """Return three significant digits, zeros at the end included.

    Example:
      >>> digits(14.02), digits(4.0), digits(1234.0)
      ('14.0', '4.00', '1,230')
    """
    return f"{float(f'{value:.3g}'):,.{max(0, 2 - int(f'{value:e}'.partition('e')[2]))}f}"


def draw(folder: Path = pages.HERE / "pictures") -> list[Path]:
    """Draw the picture of each record that has a picture."""
    from jaxnet.viz import save

    paths = []
    for module, record in findings():
        plot = plot_rates if module.endswith("generation") else plot_ratios
        for picture in record.pictures:
            paths.append(save(plot(record), folder / picture.file, dpi=120))
    return paths


def plot_ratios(record: Record) -> Any:
    """Plot the time of the other libraries divided by jaxnet's, with intervals, on a log axis."""
    from jaxnet.viz.style import COLORS, new_figure

    columns = [c if isinstance(c, str) else c.name for c in record.columns]
    cells = [i for i in range(len(columns)) if any(" to " in row[i] for row in record.rows)]
    figure = new_figure(8, 1.3 + (0.33 + 0.05 * len(cells)) * len(record.rows))
    axes = figure.add_subplot()
    axes.axvline(1, color="0.4", linewidth=1, zorder=0)
    for number, cell in enumerate(cells):
        shift = 0.7 * ((number + 0.5) / len(cells) - 0.5)
        label: str | None = columns[cell].partition("'s time")[0]
        kept = "memory kept" in columns[cell]
        color = "0.6" if kept else "0.1" if "PyTorch" in columns[cell] else COLORS[1 + number]
        for place, row in enumerate(record.rows):
            if CELL.fullmatch(row[cell]):
                middle, low, high = map(float, re.findall(r"[\d.]+", row[cell]))
                y = place + shift
                axes.plot([low, high], [y, y], color=color, linewidth=2)
                axes.plot(middle, y, "o", color=color, markersize=5, label=label)
                label = None
    axes.set_xscale("log")
    axes.set_yticks(range(len(record.rows)), [row[0] for row in record.rows])
    axes.set_ylim(len(record.rows) - 0.5, -0.5)
    low, high = axes.get_xlim()
    ticks = (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100)
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_xlabel(
        "time of the other library / jaxnet's, logarithmic\n(above 1, jaxnet is faster)"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def plot_rates(record: Record) -> Any:
    """Plot a bar per library and row; higher is better."""
    from jaxnet.viz.style import COLORS, new_figure

    figure = new_figure(6, 0.8 + 0.5 * len(record.rows))
    axes = figure.add_subplot()
    for i, column in enumerate(record.columns[1:4]):
        cells = {place: row[1 + i] for place, row in enumerate(record.rows) if row[1 + i]}
        values = [float(pages.number(cell)) for cell in cells.values()]
        places = [place + 0.27 * (i - 1) for place in cells]
        name = column.name.partition(" (")[0] if isinstance(column, Column) else column
        bars = axes.barh(places, values, 0.25, color=COLORS[i], label=name)
        axes.bar_label(bars, list(cells.values()), padding=3)
    axes.set_yticks(range(len(record.rows)), [row[0] for row in record.rows])
    axes.invert_yaxis()
    axes.set_ylabel(str(record.columns[0]))
    axes.set_xlabel("tokens per second")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.legend(loc="outside right center", frameon=False)
    return figure


@dataclass(frozen=True)
class Config:
    """Takes over a run of the benchmarks, draws the pictures and writes the page."""

    run: Path | None = None
    """JSON file written by a run; without it, only draw and write"""
    only: tuple[str, ...] = ()
    """sections of the file of figures to change, e.g. accelerate; by default all of the run"""


def run(config: Config) -> None:
    if config.run is not None:
        take(config.run, only=config.only)
    print(*draw(), sep="\n")
    write()


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
