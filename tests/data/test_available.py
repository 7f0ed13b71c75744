"""The first set of data that can be had."""

from functools import partial

import pytest

import jaxnet as jn


def missing(error=FileNotFoundError):
    raise error("no such set")


def test_the_first_that_is_there(capsys):
    assert jn.data.first_available(lambda: 3, missing) == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [FileNotFoundError, ImportError, ConnectionError])
def test_goes_on_and_says_so(capsys, error):
    assert jn.data.first_available(partial(missing, error), missing, lambda: 5) == 5
    assert capsys.readouterr().out.startswith("missing is not available (no such set)\nmissing")


def test_other_errors_are_not_hidden():
    with pytest.raises(KeyError):
        jn.data.first_available(partial(missing, KeyError), lambda: 5)


def test_none_is_there():
    with pytest.raises(FileNotFoundError, match="no such set"):
        jn.data.first_available(missing, missing)
    with pytest.raises(ValueError, match="expected at least one loader"):
        jn.data.first_available()


def test_loaders_are_functions():
    with pytest.raises(TypeError, match=r"first_available: loader 1 must be a function of"):
        jn.data.first_available(missing, 3)
