"""The table of results in README.md, and the command that reruns its rows."""

import importlib
import re
import types

import pytest

pytest.importorskip("tyro", reason="needs the extra jaxnet-toolkit[experiments]")

import tyro

from experiments import __main__ as rows
from experiments.common import CPU, Record

A = types.SimpleNamespace(
    RECORDS=(
        Record("claim", "99 ± 1%", "5", "14.2 s", options="--seeds 5", seconds=14.2),
        Record("… b", "98%", "5", "3 min per seed", options="--model mlp --seeds 5", seconds=900),
        Record("… c", "97%", "5", options="--model mlp --seeds 5"),
    )
)
B = types.SimpleNamespace(
    RECORDS=(
        Record("d", "1", "2", "2 h per seed", "a laptop", ("--seed 0", "--seed 1"), 7200),
        Record("e", "2", "1", "1 s", "a laptop", seconds=1),
    )
)
TABLE = f"""\
| claim | result | seeds | time | machine | command |
|---|---|---|---|---|---|
| claim | 99 ± 1% | 5 | 14.2 s | {CPU} | `python -m experiments.a --seeds 5` |
| … b | 98% | 5 | 3 min per seed | as above | `… --model mlp --seeds 5` |
| … c | 97% | 5 | | as above | as above |
| d | 1 | 2 | 2 h per seed | a laptop | `python -m experiments.b --seed 0`, `… --seed 1` |
| e | 2 | 1 | 1 s | as above | `…` |
"""


@pytest.fixture
def two(monkeypatch):
    """Two made-up experiments in place of the real ones."""
    monkeypatch.setattr(rows, "records", lambda name: {"a": A, "b": B}[name].RECORDS)
    monkeypatch.setattr(rows, "EXPERIMENTS", ("a", "b"))


def test_records_become_a_table(two):
    assert rows.table() == TABLE


def test_records_become_commands(two):
    assert [(str(c), c.seconds) for c in rows.commands()] == [
        ("python -m experiments.a --seeds 5", 14.2),
        ("python -m experiments.a --model mlp --seeds 5", 900),
        ("python -m experiments.b --seed 0", 7200),
        ("python -m experiments.b --seed 1", 7200),
        ("python -m experiments.b", 1),
    ]


def test_readme_shows_the_records():
    """Where this fails: python -m experiments --table."""
    text = rows.README.read_text()
    assert rows.BEGIN in text and rows.END in text
    assert rows.with_table(text) == text


def test_every_experiment_is_found():
    files = {path.stem for path in rows.README.parent.glob("*.py")}
    no_experiment = {"__main__", "common", "classify", "torchvision_nets"}
    assert set(rows.EXPERIMENTS) == (files - no_experiment) | {"speech"}
    assert set(rows.ORDER) <= set(rows.EXPERIMENTS)


@pytest.mark.parametrize("name", rows.EXPERIMENTS)
def test_records_are_complete(name):
    module = importlib.import_module(f"experiments.{name}")
    assert module.__doc__ and callable(module.run)
    for record in module.RECORDS:
        assert isinstance(record, Record) and record.claim and record.result
        assert "|" not in "".join(map(str, record))
        for options in rows.options_of(record):
            tyro.cli(module.Config, args=options.split())  # the experiment has these options


def test_every_command_says_its_time_and_most_are_short_enough_to_rerun():
    found = rows.commands()
    assert all(command.seconds > 0 for command in found)
    assert len(found) > 30 and sum(command.seconds <= 600 for command in found) > 20


def test_a_run_keeps_the_output_and_reports_failures(two, tmp_path, capsys):
    ended = rows.run(rows.Config(minutes=1, list=True, output=tmp_path))
    assert ended == []
    assert "1/2  python -m experiments.a --seeds 5  (took 14 s)" in capsys.readouterr().out
    with pytest.raises(SystemExit):  # there is no experiments/a.py
        rows.main(["--only", "a", "--minutes", "1", "--output", str(tmp_path)])
    assert re.search("failed with 1 after", capsys.readouterr().out)
    assert "No module named experiments.a" in (tmp_path / "a_--seeds_5.log").read_text()
    with pytest.raises(ValueError, match="unknown: nothing; experiments: a, b"):
        rows.run(rows.Config(only=("nothing",)))


def test_the_table_is_written_between_its_markers(two, tmp_path, monkeypatch):
    path = tmp_path / "README.md"
    path.write_text(f"above\n{rows.BEGIN}old\n{rows.END}below\n")
    monkeypatch.setattr(rows, "README", path)
    rows.run(rows.Config(table=True))
    text = path.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
