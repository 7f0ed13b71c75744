"""Logs of numbers: rows that are made again, half lines, numbers that JSON lacks."""

import json
import signal

import pytest

import jaxnet as jn


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_beyond_the_resumed_step_are_dropped(tmp_path):
    path = tmp_path / "runs" / "log.jsonl"
    for step in (10, 20, 30, 40):
        jn.training.append_log(path, {"step": step, "run": 1})
    jn.training.append_log(path, {"step": 25, "run": 2})
    jn.training.append_log(path, {"step": 35, "run": 2})
    assert [(row["step"], row["run"]) for row in rows(path)] == [(10, 1), (20, 1), (25, 2), (35, 2)]


def test_a_line_that_was_half_written_is_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "a": 0.5}\n{"step": 2, "a": 0.')
    jn.training.append_log(path, {"step": 2, "a": 0.125})
    assert rows(path) == [{"step": 1, "a": 0.5}, {"step": 2, "a": 0.125}]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    epoch = {"step": 3, "loss": float("nan"), "best": float("inf")}
    jn.training.append_log(tmp_path / "log", epoch)
    assert rows(tmp_path / "log") == [{"step": 3, "loss": None, "best": None}]


def test_long_logs_are_read_at_their_end_only(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("nothing that JSON reads\n" * 10_000 + '{"step": 7}\n')
    jn.training.append_log(path, {"step": 8})
    assert path.read_text().endswith('{"step": 7}\n{"step": 8}\n')


@pytest.mark.parametrize(("epoch", "error", "words"), [
    ({"loss": 1.0}, ValueError, 'need a "step", got loss'),
    (0.5, TypeError, "expected an Epoch or a dict of numbers, got float"),
])  # fmt: skip
def test_bad_arguments(tmp_path, epoch, error, words):
    with pytest.raises(error, match=words):
        jn.training.append_log(tmp_path / "log", epoch)


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine\n")
    with pytest.raises(ValueError, match="notes.txt is not a log of steps: b'mine'"):
        jn.training.append_log(path, {"step": 1})
    assert path.read_text() == "mine\n"


def test_a_full_disk_is_told_with_the_path(tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))
    try:
        with pytest.raises(OSError, match=f"^append_log: {tmp_path}/log cannot be written: File"):
            jn.training.append_log(tmp_path / "log", {"step": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
