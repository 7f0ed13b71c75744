"""The tables and the figure of a run, from its rows."""

import json
import math
import os
import platform
import shlex
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.measure import ACCELERATED, PEERS, Row, bootstrap

PACKAGES = ("jax", "jaxlib", "optax", "flax", "equinox", "dm-haiku", "keras", "torch")
LIBRARIES = ("linen", "nnx", "equinox", "haiku", "keras")  # the peers on JAX


@dataclass(frozen=True)
class Target:
    """The smallest acceptable ratio peer / ours.

    Fields:
      workload: Name of the workload in the table.
      against: Label of the fastest of `peers`, or of the programs of one name.
      ratio: Ratio of medians.
    """

    workload: str
    against: str
    ratio: float
    peers: tuple[str, ...]
    program: str | None = None


def _targets(workload: str, jax: float, torch: float) -> tuple[Target, ...]:
    return (
        Target(workload, "best on JAX", jax, LIBRARIES),
        Target(workload, "best PyTorch", torch, ("torch",)),
    )


# For a CPU of two cores.
TARGETS = (
    Target("dense 20x64 forward", "by hand", 1 / 1.1, ("hand",)),
    Target("MLP 3x64", "by hand", 1.0, ("hand",)),
    Target("MLP 3x64", "NNX nnx.jit", 3.0, ("nnx",), "NNX nnx.jit"),
    Target("MLP 3x64", "best PyTorch", 3.0, ("torch",)),
    *_targets("MLP", 1.0, 1.5),
    *_targets("LeNet", 1.3, 1.0),
    *_targets("LeNet, 12 steps", 4.0, 1.0),
    *_targets("ResNet-20", 1.05, 0.6),
    *_targets("ResNet-20, 2 steps", 20.0, 1.0),
    *_targets("LSTM", 1.15, 0.9),
    Target("ResNet-20: first step, cold", "best on JAX", 1.2, LIBRARIES),
    Target("ResNet-20: first step, cold", "PyTorch compiled", 1.0, ("torch",), "PyTorch compiled"),
    Target("ResNet-20: init, cold", "best Linen", 2.0, ("linen",)),
)
IMPORT_LIMIT = 0.15  # seconds of `import jaxnet` after jax and optax


@dataclass(frozen=True)
class Line:
    """A row with its ratio to ours."""

    row: Row
    middle: float
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    verdict: str = ""

    @property
    def accelerated(self) -> bool:
        """Whether the program has our kernels, so that it is not the library's own."""
        return ACCELERATED in self.row.program


def compare(rows: list[Row]) -> list[Line]:
    """Return the rows of one workload, ours first, with their ratios.

    won: the whole interval is above 1. lost: it is below 1. even: it contains 1.
    """
    ours, lines = rows[0], []
    for row in rows:
        if not row.samples:
            lines.append(Line(row, math.nan, verdict="no value"))
            continue
        middle = float(np.median(row.samples))
        if row is ours or not ours.samples:
            lines.append(Line(row, middle))
            continue
        ratio, low, high = bootstrap(row.samples, ours.samples)
        verdict = "won" if low > 1 else "lost" if high < 1 else "even"
        lines.append(Line(row, middle, ratio, low, high, verdict))
    return lines


def groups(rows: list[Row]) -> dict[str, list[Line]]:
    """Return workload -> its lines, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.workload, []).append(row)
    return {name: compare(several) for name, several in found.items()}


def judge(lines: list[Line], targets: tuple[Target, ...] = TARGETS) -> dict[int, str]:
    """Return the index of a line -> verdict of the target whose fastest program it is."""
    found: dict[int, str] = {}
    for target in targets:
        matching = [
            (line.middle, i)
            for i, line in enumerate(lines)
            if line.row.workload == target.workload
            and line.row.peer in target.peers
            and target.program in (None, line.row.program)
            and math.isfinite(line.ratio)
            and not line.accelerated
        ]
        if matching:
            _, i = min(matching)
            word = "met" if lines[i].ratio >= target.ratio else "missed"
            found[i] = f"{target.against} ≥ {target.ratio:.3g}: {word}"
    for i, line in enumerate(lines):
        if line.row.workload.startswith("import") and line.row.program == "jaxnet":
            word = "met" if line.middle < IMPORT_LIMIT else "missed"
            found[i] = f"< {IMPORT_LIMIT} s: {word}"
    return found


HEAD = ("workload", "program", "median", "peer / ours", "95% interval", "verdict", "target", "load")


def table(rows: list[Row], title: str, wanted: tuple[Target, ...] = TARGETS) -> str:
    """Return all rows, aligned, with notes on programs without samples below."""
    cells: list[tuple[str, ...]] = [HEAD]
    notes: dict[tuple[str, str], list[str]] = {}  # notes shared by several programs, once
    for name, lines in groups(rows).items():
        targets = judge(lines, wanted)
        for i, line in enumerate(lines):
            row = line.row
            before, after = row.load
            ratio = interval = ""
            if math.isfinite(line.ratio):
                ratio, interval = f"{line.ratio:.3g}", f"{line.low:.3g} to {line.high:.3g}"
            cells.append(
                (
                    "" if i else name,
                    row.program,
                    f"{line.middle:.4g} {row.unit}" if row.samples else "–",
                    ratio,
                    interval,
                    line.verdict,
                    targets.get(i, ""),
                    "" if i else f"{before:.1f}, {after:.1f}",
                )
            )
            if row.note:
                notes.setdefault((name, row.note), []).append(row.program)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def text(row: tuple[str, ...]) -> str:
        right = (2, 3)
        padded = [
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [title, text(cells[0]), rule]
    for row in cells[1:]:
        if row[0] and len(lines) > 3:
            lines.append("")
        lines.append(text(row))
    lines.append(rule)
    lines += [f"{name}, {', '.join(who)}: {note}" for (name, note), who in notes.items()]
    return "\n".join(lines)


def plot(rows: list[Row], title: str) -> Any:
    """Plot ratios of each workload on a logarithmic axis: the fastest program of each peer."""
    from jaxnet.viz.style import COLORS, new_figure

    shown = {
        name: [line for line in lines if math.isfinite(line.ratio) and not line.accelerated]
        for name, lines in groups(rows).items()
    }
    shown = {name: lines for name, lines in shown.items() if lines}
    figure = new_figure(9, 1.6 + 0.5 * len(shown))
    axes = figure.add_subplot()
    labels = ("by hand", "Linen", "NNX", "Equinox", "Haiku", "Keras", "PyTorch")
    colors: dict[str, str] = dict(zip(PEERS[1:], COLORS, strict=True))
    names: dict[str, str] = dict(zip(PEERS[1:], labels, strict=True))
    axes.axvline(1, color="0.4", linewidth=1, zorder=0)
    seen = set()
    for place, lines in enumerate(shown.values()):
        axes.axhspan(place - 0.38, place + 0.38, color="0.95", zorder=-1)
        best: dict[str, Line] = {}
        for line in lines:
            if line.row.peer not in best or line.middle < best[line.row.peer].middle:
                best[line.row.peer] = line
        for peer, line in best.items():
            label = names.get(peer)
            # Stacked, so that no point covers another.
            y = place + (0.09 * (PEERS.index(peer) - 4) if peer in PEERS else 0)
            axes.plot(
                [line.low, line.high], [y, y], color=colors.get(peer, "0.3"), linewidth=2, zorder=1
            )
            axes.plot(
                line.ratio,
                y,
                "o",
                color=colors.get(peer, "0.3"),
                markersize=5,
                label=None if label in seen else label,
            )
            seen.add(label)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), list(shown))
    axes.invert_yaxis()
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    low, high = axes.get_xlim()
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= t <= high]
    axes.set_xticks(ticks)
    axes.minorticks_off()
    axes.set_xlabel("peer / ours: above 1, jaxnet is faster (or smaller)")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    return figure


def show(rows: list[Row], about: dict, out: Path) -> None:
    title = (
        f"jaxnet and other libraries on {about['backend']} ({about['device']}, "
        f"{about['cores']} cores), jax {about['versions']['jax']}, {about['begun'][:10]}"
    )
    text = table(rows, title, TARGETS if about["backend"] == "cpu" else ())
    print(f"\r\033[K{text}" if sys.stdout.isatty() else text)
    from jaxnet.viz import save as save_picture

    out.mkdir(parents=True, exist_ok=True)
    (out / f"{about['backend']}.txt").write_text(text + "\n", encoding="utf-8")
    if len({row.peer for row in rows if row.samples}) > 1:
        file = out / f"{about['backend']}.png"
        print(f"\n{save_picture(plot(rows, title), file, dpi=120)}")


def describe(device: tuple[str, str, str], config: Any) -> dict[str, Any]:
    """Return machine, versions and options of a run; device: backend, kind, version of JAX."""
    return {
        "backend": device[0],
        "device": device[1],
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {"jax": device[2]} | versions(),
        "begun": datetime.now().isoformat(timespec="seconds"),
        "config": {name: str(value) for name, value in asdict(config).items()},
        "arguments": shlex.join(sys.argv[1:]),
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def save(rows: list[Row], about: dict[str, Any], path: Path) -> None:
    """Write all samples as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "rows": [row._asdict() for row in rows]}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read(path: Path) -> tuple[list[Row], dict[str, Any]]:
    """Return rows and description written by `save`."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = [Row(**row | {"load": tuple(row["load"])}) for row in content["rows"]]
    return rows, content["about"]
