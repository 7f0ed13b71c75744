"""Random pools of any form: `accelerate` computes what XLA computes."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnet as jn
from tests.helpers import traced
from tests.rewriting.forms import Draw, cases, check, pool


@pytest.mark.slow
@cases(10)
def test_pools_of_any_form(seed):
    draw = Draw(1000 + seed)
    for number in range(10):
        call, given = pool(draw)
        check(call, draw, given, twice=number % 4 == 0)


def windows(x, size, strides, padding, **options):
    start = np.asarray(-np.inf if x.dtype == jnp.float32 else np.iinfo(x.dtype).min, x.dtype)
    return lax.reduce_window(x, start, lax.max, size, strides, padding, **options)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda x: windows(x, (3,), (1,), [(0, 0)]), id="no axis but the window's"),
        pytest.param(lambda x: windows(x, (2,), (2,), [(2, 0)]), id="a window in the padding"),
        pytest.param(lambda x: windows(x, (2,), (2,), [(-1, 0)]), id="cropped"),
        pytest.param(
            lambda x: windows(x, (2,), (2,), [(0, 0)], base_dilation=(2,)), id="zeros between"
        ),
        pytest.param(
            lambda x: windows(x.astype(int)[:, None], (2, 1), (2, 1), "VALID"), id="integers"
        ),
    ],
)
def test_other_pools_stay(call):
    x = jnp.arange(8.0)
    assert traced(jn.accelerate(call), x) == traced(call, x)
