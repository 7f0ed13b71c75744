"""Optional packages, and the command that installs them."""

import importlib.metadata
import sys

import pytest

from jaxnet.services.extras import extra


def test_a_module_that_is_installed():
    assert extra("numpy.linalg", "numpy", "who") is sys.modules["numpy.linalg"]


@pytest.mark.parametrize("missing", ["numpy", "numpy.linalg"])
def test_a_missing_module(monkeypatch, missing):
    """Also where a part of the package is imported already."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError) as error:
        extra("numpy.linalg", "NumPy", "who", "data,viz")
    assert str(error.value) == (
        f"who: needs NumPy (import of {missing} halted; None in sys.modules). Install it with "
        'pip install "jaxnet-toolkit[data,viz] @ git+https://github.com/jaxnet/jaxnet"'
    )


def test_a_checkout_that_is_not_installed_says_what_to_install(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", missing)
    with pytest.raises(ImportError, match=r'needs nowhere .*jaxnet-toolkit\[viz\]"'):
        extra("nowhere", "nowhere", "plot", "viz")
