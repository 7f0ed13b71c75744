"""A bar where somebody looks: a terminal, or a notebook whose kernel this process is."""

import os
import sys
from types import SimpleNamespace

import pytest

from jaxnet.services.progress import in_notebook, progress_bar


def count(**options):
    with progress_bar(7, "counting", **options) as bar:
        bar.update(7)


def shell(monkeypatch: pytest.MonkeyPatch, found: object):
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    ipython = SimpleNamespace(get_ipython=lambda: found)
    monkeypatch.setitem(sys.modules, "IPython", ipython)


def test_silent_where_nobody_looks(capsys, monkeypatch):
    shell(monkeypatch, None)  # imported by something, but nobody's kernel
    assert not in_notebook()
    count()
    assert capsys.readouterr() == ("", "")


def test_seen_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    count(unit="layer")
    written = capsys.readouterr().err
    assert "counting" in written and "0/7" in written and "layer/s" in written
    count(wanted=False)
    assert capsys.readouterr().err == ""


def test_a_notebook_is_known_by_its_kernel(monkeypatch):
    shell(monkeypatch, SimpleNamespace(kernel=object()))
    assert in_notebook()
    shell(monkeypatch, SimpleNamespace())  # IPython in a terminal
    assert not in_notebook()


def test_silent_without_a_standard_error(monkeypatch):
    """As in a window without a terminal, or a service."""
    monkeypatch.setattr(sys, "stderr", None)
    count()
    closed = open(os.devnull, "w")
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    count()
