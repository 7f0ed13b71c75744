"""The first set of data that can be had."""

from functools import partial

import pytest

import jaxnet as jn


def missing(error=FileNotFoundError):
    raise error("no such set")


@pytest.mark.parametrize("error", [FileNotFoundError, ImportError, ConnectionError])
def test_goes_on_and_says_so(capsys, error):
    assert jn.data.first_available(lambda: 3, missing) == 3
    assert capsys.readouterr().out == ""
    assert jn.data.first_available(partial(missing, error), missing, lambda: 5) == 5
    assert capsys.readouterr().out.startswith("missing is not available (no such set)\nmissing")


@pytest.mark.parametrize("loaders, error, words", [
    ([missing, missing], FileNotFoundError, "no such set"),
    ([partial(missing, KeyError), lambda: 5], KeyError, "no such set"),  # is not hidden
    ([], ValueError, "expected at least one loader"),
    ([missing, 3], TypeError, "first_available: loader 1 must be a function of"),
])  # fmt: skip
def test_refusals(loaders, error, words):
    with pytest.raises(error, match=words):
        jn.data.first_available(*loaders)
