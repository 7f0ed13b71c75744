"""The mode of a call: the dtype of its values, and its watches."""

import jax.numpy as jnp
import pytest

from jaxnet.core.errors import call
from jaxnet.core.mode import Mode, Watch

HALF = Mode(dtype=jnp.dtype("bfloat16"))


@pytest.mark.parametrize("axes, wanted", [(0, "bfloat16"), (2, "float32")])
def test_floats_of_enough_axes_get_the_dtype(axes, wanted):
    assert HALF.rounded(jnp.ones(3), axes).dtype == wanted
    assert HALF.rounded(jnp.ones((3, 2)), axes).dtype == "bfloat16"


def test_integers_and_numbers_stay():
    ids = jnp.arange(3)
    rounded = HALF.rounded({"ids": ids, "rate": 0.5})
    assert rounded["ids"] is ids
    assert rounded["rate"] == 0.5


def test_without_a_dtype_values_stay():
    x = jnp.ones(3)
    assert Mode().rounded(x) is x


def test_the_latest_watch_is_first_and_knows_its_depth():
    with call("net", None):
        mode = Mode().watched(Watch(sown=True)).watched(Watch(transforms=True))
    assert [watch.transforms for watch in mode.watches] == [True, False]
    assert [watch.depth for watch in mode.watches] == [1, 1]
