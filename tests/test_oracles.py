"""Each oracle accepts the public function, and refuses broken copies of it."""

import importlib
import operator

import pytest

import jaxnet as jn
from tests.identities import IDENTITIES
from tests.oracles import REFERENCES, called, compiled, restart
from tools.hostile import alike, numbers
from tools.mutation import mutated

KEYS_MAY_REPEAT = True  # a function and its copy are called with one key


@pytest.mark.parametrize("name", REFERENCES)
def test_values_are_those_of_numpy(name):
    example = REFERENCES[name]
    found = compiled(operator.attrgetter(name)(jn), example)
    wanted = called(example.compute, example)
    assert alike(numbers(found), numbers(wanted)), (found, wanted)


SLOW = {  # their own tests are fast
    "data.elastic", "fit", "unsupervised.hmm.baum_welch", "unsupervised.rbm.fit_rbm",
}  # fmt: skip


CASES = [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in IDENTITIES]


@pytest.mark.parametrize("name", CASES)
def test_identities_hold(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    restart()
    IDENTITIES[name](operator.attrgetter(name)(jn))


@pytest.mark.slow
def test_half_a_pixel_is_seen():
    """An identity that moves the image passes all tests that look at random moves."""
    module = importlib.import_module("jaxnet.data.warp")
    line = "offset = grid - (size - 1) / 2"
    broken = mutated(module, line, line.replace("1", "2")).warp
    example = REFERENCES["data.warp"]
    assert not alike(numbers(compiled(broken, example)), numbers(called(example.compute, example)))
    with pytest.raises(AssertionError):
        IDENTITIES["data.warp"](broken)
