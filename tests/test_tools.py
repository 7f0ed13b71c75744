"""A layer and a plot of one's own from public names alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.tools import at_least, read_sequence


def halves(times: int) -> jn.Layer:
    at_least("halves", "times", times)

    def forward(m, given):
        sequence = read_sequence(given, "halves")
        return sequence.write(sequence.x / 2**times)

    return jn.compose(forward, name="halves")


def test_a_layer_of_your_own_checks_and_reads_as_ours_do():
    x, lengths = jnp.ones((2, 3, 4)), jnp.array([3, 1])
    (y, kept), _ = halves(2).apply({}, {}, (x, lengths))
    np.testing.assert_array_equal(y[0], np.full((3, 4), 0.25))
    np.testing.assert_array_equal(y[1, 1:], 0)
    np.testing.assert_array_equal(kept, lengths)
    with pytest.raises(ValueError, match="halves: times must be at least 1, got 0"):
        halves(0)
    with pytest.raises(ValueError, match=r"halves: .*\(batch, time, features\)"):
        halves(1).init(jax.random.key(0), jn.spec((2, 3)))
