"""Runs again what gave the rows of README.md that take under ten minutes: `python -m experiments`.

The table there is the list: a row's command and its time. What each run prints goes to a file of
its own, beside those of earlier times; a line tells how it ended and how long it took.
"""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

README = Path(__file__).with_name("README.md")


@dataclass(frozen=True)
class Config:
    """Regenerates all rows of the table that do not take too long."""

    minutes: float = 10
    """rows that took longer are left out"""
    only: tuple[str, ...] = ()
    """names of experiments; none for all"""
    list: bool = False
    """say what would run, and run nothing"""
    output: Path = Path("runs/all")
    """folder of what the runs print"""


class Command(NamedTuple):
    """A command of the table.

    Fields:
      module: name of the experiment.
      options: that follow it.
      seconds: it took, as the table says.
    """

    module: str
    options: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        return " ".join(["python -m", f"experiments.{self.module}", *self.options])


def commands(table: str) -> list[Command]:
    """Those of a table in Markdown, in order, each once.

    In the column "command", `…` stands for the experiment of the row above. The time is that of the
    row where the command stands: "4 min 23 s of CPU", times the seeds for "6 min of CPU a seed".
    """
    found: dict[tuple[str, tuple[str, ...]], Command] = {}
    module = ""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if len(cells) != 6 or not line.startswith("|"):
            continue
        seeds, took, given = cells[2], cells[3], re.findall(r"`([^`]*)`", cells[5])
        for text in given:
            words = [word for word in text.split() if "=" not in word]
            if words[0] == "…":
                options = tuple(words[1:])
            else:
                module, options = words[2].removeprefix("experiments."), tuple(words[3:])
            seconds = _seconds(took)
            if "a seed" in took and len(given) == 1:
                seconds *= int(re.findall(r"\d+", seeds)[0])
            found.setdefault((module, options), Command(module, options, seconds))
    return list(found.values())


def _seconds(text: str) -> float:
    """In words like "4 min 23 s of CPU"; 0 where the row says nothing."""
    parts = re.findall(r"([\d.]+) (h|min|s)\b", text)
    return sum(float(number) * {"h": 3600, "min": 60, "s": 1}[unit] for number, unit in parts)


def run(config: Config) -> list[tuple[Command, int]]:
    """Runs the commands one after another, and gives each with its exit status."""
    chosen = [
        command
        for command in commands(README.read_text())
        if command.seconds <= 60 * config.minutes
        and (not config.only or command.module in config.only)
    ]
    if not chosen:
        raise ValueError(f"no row of {README} is of {', '.join(config.only)} and short enough")
    ended = []
    for number, command in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)}  {command}  (took {command.seconds:.0f} s)", flush=True)
        if not config.list:
            ended.append((command, _run(command, config.output)))
    return ended


def _run(command: Command, folder: Path) -> int:
    name = "_".join([command.module, *command.options]).replace("/", "_").replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    start = time.perf_counter()
    words = [sys.executable, "-m", f"experiments.{command.module}", *command.options]
    with log.open("w") as file:
        status = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT)
    seconds = time.perf_counter() - start
    how = "done" if status.returncode == 0 else f"failed with {status.returncode}"
    print(f"    {how} after {seconds:.0f} s, {log}", flush=True)
    return status.returncode


def main(arguments: Sequence[str] | None = None) -> None:
    import tyro

    ended = run(tyro.cli(Config, args=arguments))
    if any(status for _, status in ended):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
