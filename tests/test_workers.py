"""The tests of a file run on one worker: they share fixtures and what is compiled.

It was lost once without a word, by a release of pytest that the plugin did not know.
"""

import os

import pytest


@pytest.mark.parametrize("i", range(8))
def test_a_file_stays_on_one_worker(i, tmp_path_factory):
    note = tmp_path_factory.getbasetemp().parent / "worker_of_this_file"  # of all workers
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    if not note.exists():
        note.write_text(worker)
    assert note.read_text() == worker
