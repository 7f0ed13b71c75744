"""The form of 1998; its values are in `tests/layer_values.py`."""

import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import lenet5_1998
from jaxnet.models.lenet5_1998 import SEEN


def test_parameters_as_published():
    params, state = lenet5_1998().init(jax.random.key(0), jn.spec((2, 32, 32, 1)))
    sizes = {name: sum(a.size for a in entry.values()) for name, entry in params.items()}
    published = {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}
    assert sizes == published and sum(sizes.values()) == 60_000 and state == {}


def test_maps_of_c3_see_3_4_or_6_maps_and_no_two_the_same():
    assert [len(seen) for seen in SEEN] == [3] * 6 + [4] * 9 + [6]
    assert len(set(SEEN)) == 16 and all(list(seen) == sorted(seen) for seen in SEEN)
    assert all(sum(place in seen for seen in SEEN) == 10 for place in range(6))  # table I


def test_wrong_codes():
    with pytest.raises(ValueError, match=r"codes must have shape \(classes, 84\)"):
        lenet5_1998(codes=np.ones((84, 10)))
