"""Reruns the experiments that take under ten minutes: `python -m experiments`.

The records in the experiments' files say which commands there are and how long each took. The
output of every run goes to a log file. `--list` only names the commands; `--table` writes the
records into README.md.
"""

import importlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from experiments.common import Record

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- written by python -m experiments --table -->\n", "<!-- end of the table -->\n"
HEAD = """\
| claim | result | seeds | time | machine | command |
|---|---|---|---|---|---|
"""
ORDER = (  # of the table; an experiment that is not named here comes last
    "digits", "mnist", "seconds_to_accuracy", "invariance", "cifar10", "cifar10_record", "camvid",
    "bccd", "finetune", "adaptation", "self_supervised", "inside", "time_series", "speech",
    "forecast", "moving_digits", "hmm", "shakespeare", "moe", "state_space", "translate",
    "perceptron", "universal", "optimizers",
    "backpropagation", "autoencoder", "edges", "rbm", "dbn", "features", "greedy", "sweep",
    "compressed_sensing", "scaling", "feeding", "torchvision_logits", "browser_digits",
)  # fmt: skip


def _found() -> tuple[str, ...]:
    """The files and folders here that have records, in the order of the table."""
    here = README.parent
    files = {
        path.stem: path for path in here.glob("*.py") if path.stem not in ("__main__", "common")
    }
    files |= {path.parent.name: path for path in here.glob("*/__init__.py")}
    names = sorted(name for name, path in files.items() if "RECORDS" in path.read_text())
    return tuple(sorted(names, key=lambda name: (*ORDER, name).index(name)))


EXPERIMENTS = _found()


@dataclass(frozen=True)
class Config:
    """Reruns every command of the table that takes less than ten minutes."""

    minutes: float = 10
    """leave out commands that took longer"""
    only: tuple[str, ...] = ()
    """names of experiments; none for all"""
    list: bool = False
    """print the commands and run nothing"""
    table: bool = False
    """write the records into README.md and run nothing"""
    output: Path = Path("runs/all")
    """folder of the log files"""


class Command(NamedTuple):
    """A command that gave rows of the table.

    Fields:
      module: name of the experiment.
      options: that follow it.
      seconds: it took.
    """

    module: str
    options: str
    seconds: float

    def __str__(self) -> str:
        return f"python -m experiments.{self.module} {self.options}".rstrip()


def records(module: str) -> tuple[Record, ...]:
    """The records of an experiment."""
    return importlib.import_module(f"experiments.{module}").RECORDS


def options_of(record: Record) -> tuple[str, ...]:
    """The options of each command that gave a record."""
    return (record.options,) if isinstance(record.options, str) else record.options


def commands() -> list[Command]:
    """The commands of all records, in order, each once."""
    found: dict[tuple[str, str], Command] = {}
    for module in EXPERIMENTS:
        for record in records(module):
            for options in options_of(record):
                found.setdefault((module, options), Command(module, options, record.seconds))
    return list(found.values())


def table() -> str:
    """All records as a table in Markdown.

    A machine or command equal to that of the row above reads "as above"; `…` is the command
    of the row above without its options.
    """
    lines, machine = [], None
    for module in EXPERIMENTS:
        start, options = str(Command(module, "", 0)), None
        for record in records(module):
            given = []
            for text in options_of(record):
                given.append(f"`{start} {text}`".replace(" `", "`"))
                start = "…"
            cells = (
                record.claim, record.result, record.seeds, record.time,
                "as above" if record.machine == machine else record.machine,
                "as above" if record.options == options else ", ".join(given),
            )  # fmt: skip
            lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n")
            machine, options = record.machine, record.options
    return HEAD + "".join(lines)


def with_table(text: str) -> str:
    """The text of README.md with the table between its markers replaced by the records."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + table() + "\n" + END + after


def run(config: Config) -> list[tuple[Command, int]]:
    """Runs the commands one after another; gives each with its exit status."""
    if config.table:
        README.write_text(with_table(README.read_text()))
        return []
    if unknown := set(config.only) - set(EXPERIMENTS):
        raise ValueError(f"unknown: {', '.join(unknown)}; experiments: {', '.join(EXPERIMENTS)}")
    chosen = [
        command
        for command in commands()
        if command.seconds <= 60 * config.minutes and command.module in (config.only or EXPERIMENTS)
    ]
    ended = []
    for number, command in enumerate(chosen, 1):
        print(f"{number}/{len(chosen)}  {command}  (took {command.seconds:.0f} s)", flush=True)
        if not config.list:
            ended.append((command, rerun(command, config.output)))
    return ended


def rerun(command: Command, folder: Path) -> int:
    """Runs a command with its output in a log file; returns the exit status."""
    log = folder / ("_".join([command.module, *command.options.split()]) + ".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", f"experiments.{command.module}", *shlex.split(command.options)]
    start = time.perf_counter()
    with log.open("w") as file:
        status = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT).returncode
    how = f"failed with {status}" if status else "done"
    print(f"    {how} after {time.perf_counter() - start:.0f} s, {log}", flush=True)
    return status


def main(arguments: Sequence[str] | None = None) -> None:
    import tyro

    if any(status for _, status in run(tyro.cli(Config, args=arguments))):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
