"""Optional packages, and the command that installs them."""

import importlib.metadata
import sys

import pytest

from jaxnet.services.extras import command, extra


def test_a_module_that_is_installed():
    assert extra("numpy.linalg", "numpy", "who") is sys.modules["numpy.linalg"]


@pytest.mark.parametrize("missing", ["numpy", "numpy.linalg"])
def test_a_missing_module(monkeypatch, missing):
    """Also where a part of the package is imported already."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as error:
        extra("numpy.linalg", "NumPy", "who", "data,viz")
    assert str(error.value) == (
        f"who: needs NumPy (import of {missing} halted; None in sys.modules). {command('data,viz')}"
    )


@pytest.mark.parametrize(("noted", "words"), [
    (None, '"jaxnet-toolkit[viz] @ git+https://github.com/jaxnet/jaxnet"'),
    ('{"url": "https://a.org/b", "vcs_info": {"vcs": "git", "commit_id": "1f"}}',
     '"jaxnet-toolkit[viz] @ git+https://a.org/b"'),
    ('{"url": "file:///a/b.whl", "archive_info": {}}', '"jaxnet-toolkit[viz] @ file:///a/b.whl"'),
    ('{"url": "file:///a/b", "dir_info": {}}', '"jaxnet-toolkit[viz] @ file:///a/b"'),
    ('{"url": "file:///a%20b", "dir_info": {"editable": true}}', '-e "/a b[viz]"'),
], ids=["unknown", "git", "wheel", "folder", "editable"])  # fmt: skip
def test_extras_come_from_where_jaxnet_came_from(noted, words, monkeypatch):
    """The file direct_url.json, as pip writes it."""
    kind = type(importlib.metadata.distribution("jaxnet-toolkit"))
    known = importlib.metadata.distribution("jaxnet-toolkit").metadata
    monkeypatch.setattr(kind, "metadata", known, raising=False)
    monkeypatch.setattr(kind, "read_text", lambda self, name: noted)
    assert command("viz") == f"Install it with pip install {words}"


def test_a_checkout_that_is_not_installed_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ImportError, match=r'needs nowhere .*jaxnet-toolkit\[viz\]"'):
        extra("nowhere", "nowhere", "plot", "viz")
