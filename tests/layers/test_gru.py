"""GRU: see test_recurrent.py for what it shares with the others."""

import jax
import pytest

import jaxnet as jn


def test_params():
    params, _ = jn.gru(4).init(jax.random.key(0), jn.spec((2, 6, 5)))
    assert params["recurrent_bias"].shape == (4,) and params["bias"].shape == (12,)
    params, _ = jn.gru(4, use_bias=False).init(jax.random.key(0), jn.spec((2, 6, 5)))
    assert set(params) == {"kernel", "recurrent_kernel"}


def test_no_features():
    with pytest.raises(ValueError, match="gru: features must be at least 1, got 0"):
        jn.gru(0)
