"""Reruns the experiments that take under ten minutes: `python -m experiments`.

The records in the experiments' files say which commands there are and how long each took. The
output of every run goes to a log file. `--list` only names the commands; `--table` writes the pages
of results and the index in README.md from the records.
"""

import importlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from experiments import pages
from experiments.benchmarks import figures
from experiments.records import Record

README = Path(__file__).with_name("README.md")
BEGIN = "<!-- Written by `python -m experiments --table` from the records. -->\n"
END = "<!-- End of the written part. -->\n"
ORDER = (  # on the pages; an experiment that is not named here comes last
    "digits", "mnist", "seconds_to_accuracy", "invariance", "cifar10", "cifar10_record", "camvid",
    "bccd", "volumes", "faces", "recommender", "finetune",
    "adaptation", "self_supervised", "inside", "time_series", "speech",
    "forecast", "moving_digits", "hmm", "shakespeare", "ngrams", "moe", "state_space", "translate",
    "flow_matching", "ppo", "perceptron", "universal", "optimizers",
    "backpropagation", "autoencoder", "edges", "rbm", "dbn", "features", "greedy", "sweep",
    "compressed_sensing", "scaling", "feeding", "torchvision_logits", "browser_digits",
)  # fmt: skip


def _found() -> tuple[str, ...]:
    """Return the files and folders here that have records, in the order of the pages."""
    here = README.parent
    files = {path.stem: path for path in here.glob("*.py")}
    files |= {path.parent.name: path for path in here.glob("*/__init__.py")}
    has_records = re.compile(r"^RECORDS\b", re.MULTILINE)
    names = sorted(
        name for name, path in files.items() if has_records.search(path.read_text(encoding="utf-8"))
    )
    return tuple(sorted(names, key=lambda name: (*ORDER, name).index(name)))


EXPERIMENTS = _found()


@dataclass(frozen=True)
class Config:
    """Reruns every command of the records that takes less than ten minutes."""

    minutes: float = 10
    """leave out commands that took longer"""
    only: tuple[str, ...] = ()
    """names of experiments; by default all"""
    list: bool = False
    """print the commands and run nothing"""
    table: bool = False
    """write the pages of results from the records and run nothing"""
    output: Path = Path("runs/all")
    """folder of the log files"""


class Command(NamedTuple):
    """A command that gave figures of a record.

    Fields:
      module: Name of the experiment.
      options: Options of the command.
      seconds: Duration in seconds.
    """

    module: str
    options: str
    seconds: float

    def __str__(self) -> str:
        return pages.command(self.module, self.options)


def records(module: str) -> tuple[Record, ...]:
    """Return the records of an experiment."""
    return importlib.import_module(f"experiments.{module}").RECORDS


def findings() -> pages.Findings:
    """Return the name of the experiment and the record of each finding, in order."""
    return [(name, record) for name in EXPERIMENTS for record in records(name)]


def commands() -> list[Command]:
    """Return the commands of all records, in order, each once."""
    found: dict[tuple[str, str], Command] = {}
    for module, record in findings():
        for options, seconds, _ in record.commands:
            found.setdefault((module, options), Command(module, options, seconds))
    return list(found.values())


def with_index(text: str) -> str:
    """Return the text of README.md with a new index of the records between its markers."""
    return pages.between(text, BEGIN, END, f"\n{pages.index(findings())}\n")


def write() -> None:
    """Write the pages of results and the index, and delete pages without findings."""
    texts = pages.pages(findings())
    for path in pages.FOLDER.glob("*.md"):
        if path not in texts:
            path.unlink()
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    README.write_text(with_index(README.read_text(encoding="utf-8")), encoding="utf-8")
    figures.write()


def run(config: Config) -> list[tuple[Command, int]]:
    """Run the commands one after another, and yield each with its exit status."""
    if config.table:
        write()
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
    """Run a command with its output in a log file, and return the exit status."""
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
