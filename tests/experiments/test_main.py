"""The table of results, and the command that runs its rows again."""

import importlib
import re

import pytest

pytest.importorskip("tyro", reason="needs the extra jaxnet-toolkit[experiments]")

import tyro

from experiments import __main__ as rows

TABLE = """
| claim | result | seeds | time | machine | command |
|---|---|---|---|---|---|
| a | 1 | 5 | 14.2 s | 2 cores | `python -m experiments.digits --seeds 5` |
| … b | 2 | 3 | 6 min of CPU a seed | as above | `… --seeds 5 --model mlp` |
| c | 3 | 2 | 4 min 23 s of CPU | as above | `TFDS_DATA_DIR=… python -m experiments.rbm` |
| … d | 3 | 2 | | as above | as above |
| e | 3 | 2 | 2 h a seed | as above | `python -m experiments.bccd --seed 0`, `… --seed 1` |
"""


def test_rows_become_commands():
    found = rows.commands(TABLE)
    assert [(str(command), command.seconds) for command in found] == [
        ("python -m experiments.digits --seeds 5", pytest.approx(14.2)),
        ("python -m experiments.digits --seeds 5 --model mlp", 18 * 60),
        ("python -m experiments.rbm", 4 * 60 + 23),
        ("python -m experiments.bccd --seed 0", 7200),
        ("python -m experiments.bccd --seed 1", 7200),
    ]


def test_every_command_of_the_table_is_one_that_its_experiment_takes():
    found = rows.commands(rows.README.read_text())
    assert len(found) > 30 and sum(command.seconds <= 600 for command in found) > 20
    for command in found:
        module = importlib.import_module(f"experiments.{command.module}")
        tyro.cli(module.Config, args=list(command.options))
        assert command.seconds > 0, f"no time: {command}"


def test_every_experiment_has_a_row():
    modules = {command.module for command in rows.commands(rows.README.read_text())}
    folder = rows.README.parent
    records = {path.stem for path in folder.glob("*.py") if "\nCommand:" in path.read_text()}
    assert records - modules == set()


def test_a_run_keeps_what_was_printed_and_tells_of_failures(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "all"
    folder.mkdir()
    (tmp_path / "table.md").write_text(TABLE)
    monkeypatch.setattr(rows, "README", tmp_path / "table.md")
    ended = rows.run(rows.Config(only=("digits",), minutes=1, list=True, output=folder))
    assert ended == [] and "1/1  python -m experiments.digits --seeds 5" in capsys.readouterr().out
    (tmp_path / "table.md").write_text(TABLE.replace("digits --seeds 5`", "digits --sed 5`"))
    with pytest.raises(SystemExit):
        rows.main(["--only", "digits", "--minutes", "1", "--output", str(folder)])
    assert re.search("failed with [12] after", capsys.readouterr().out)
    assert "--sed" in (folder / "digits_--sed_5.log").read_text()
    with pytest.raises(ValueError, match="no row of .* is of nothing"):
        rows.run(rows.Config(only=("nothing",)))
