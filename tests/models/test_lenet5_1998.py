"""LeNet-5 of 1998 and of today: sizes as published; values are in tests/layer_values.py."""

import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import lenet5, lenet5_1998
from jaxnet.models.lenet5_1998 import SEEN
from tests.models.sizes import shapes


def sizes_of(net):
    """Parameters by layer."""
    params, state = net.init(jax.random.key(0), jn.spec((2, 32, 32, 1)))
    assert state == {}
    return {name: sum(a.size for a in entry.values()) for name, entry in params.items()}


def test_parameters_as_published():
    sizes = sizes_of(lenet5_1998())
    published = {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}
    assert sizes == published
    assert sum(sizes.values()) == 60_000
    # c3 has all its connections today, and the output is not of radial bases
    today = {"c1": 156, "c3": 2_416, "c5": 48_120, "f6": 10_164, "output": 850}
    assert sizes_of(lenet5(classes=10)) == today
    assert sum(today.values()) == 61_706


def test_maps_of_c3_see_3_4_or_6_maps_and_no_two_the_same():
    assert [len(seen) for seen in SEEN] == [3] * 6 + [4] * 9 + [6]
    assert len(set(SEEN)) == 16
    assert all(list(seen) == sorted(seen) for seen in SEEN)
    assert all(sum(place in seen for seen in SEEN) == 10 for place in range(6))  # table I


def test_28x28_has_the_same_parameters_as_32x32():
    small, large = (lenet5().init(jax.random.key(0), jn.spec((2, n, n, 1)))[0] for n in (28, 32))
    jax.tree.map(np.testing.assert_array_equal, small, large)


def test_stages_are_those_of_the_paper():
    """6@28x28, 6@14x14, 16@10x10, 16@5x5, 120, 84, 10, seen through every layer's input."""
    found = shapes(lenet5(), (2, 32, 32, 1))
    wanted = {
        "c1": (28, 28, 6),
        "s2": (14, 14, 6),
        "c3": (10, 10, 16),
        "s4": (5, 5, 16),
        "c5": (120,),
        "f6": (84,),
        "output": (10,),
    }
    assert {name: found[name][1:] for name in wanted} == wanted


RESIZE = r"lenet5: expected images .*jax\.image\.resize"


@pytest.mark.parametrize(("call", "words"), [
    (lambda: lenet5().init(jax.random.key(0), jn.spec((2, 28, 28))), RESIZE),
    (lambda: lenet5().init(jax.random.key(0), jn.spec((2, 32, 28, 1))), RESIZE),
    (lambda: lenet5_1998(codes=np.ones((84, 10))), r"codes must have shape \(classes, 84\)"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises(ValueError, match=words):
        call()
