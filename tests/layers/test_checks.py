"""Messages of the shared checks, and what they let pass."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from jaxnet.layers.checks import check_range, check_rank, check_rate, needs_key


def test_a_missing_batch_axis():
    wanted = (
        r"dense: expected an input of shape \(batch, ..., features\), got \(5,\). "
        r"Is the batch axis missing\? For a single example, pass x\[None\]"
    )
    with pytest.raises(ValueError, match=wanted):
        check_rank("dense", jn.spec((5,)), 2)
    check_rank("dense", jn.spec((3, 5)), 2)
    check_rank("dense", jnp.ones((2, 3, 5)), 2)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, float("nan")])
def test_rates_out_of_range(rate):
    with pytest.raises(ValueError, match=r"a: rate is the share to drop, in \[0, 1\), got"):
        check_rate("a", rate)


def test_rates_in_range():
    check_rate("a", 0)
    check_rate("a", 0.999)


def test_ids():
    check_range(jnp.array([0, 4]), 5, "ids")
    check_range(jnp.zeros((0,), int), 5, "ids")
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=rf"ids must be in \[0, 5\), got {wrong}"):
            check_range(jnp.array([0, wrong]), 5, "ids")
    jax.jit(lambda ids: check_range(ids, 5, "ids"))(jnp.array([7]))  # values are not known


def test_a_missing_key():
    with pytest.raises(ValueError, match=r"a: needs a key in training. Pass one, as in net.apply"):
        needs_key(None, "a")
    key = jax.random.key(0)
    assert needs_key(key, "a") is key
