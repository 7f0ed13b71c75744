"""Sizes as published: table 1 of the paper."""

import jax
import numpy as np
import pytest

import jaxnet as jn
from tests.models.sizes import count


@pytest.mark.slow
def test_parameters():
    assert count(jn.models.googlenet(normalized=True), (2, 224, 224, 3)) == 6_624_904


@pytest.mark.long
def test_auxiliary_heads_see_the_middle():
    """Of three logits, those of 4a see 4a and not 4b, those of 4d see 4d and not 4e."""
    net = jn.models.googlenet(classes=3, auxiliary=True)
    x = jax.random.normal(jax.random.key(1), (1, 80, 80, 3))
    params, state = net.init(jax.random.key(0), x)
    run = jax.jit(lambda params: net.apply(params, state, x)[0])

    def changed(name):
        """Which of the three outputs change with the params of a module."""
        other = {**params, name: jax.tree.map(lambda leaf: 1.5 * np.asarray(leaf), params[name])}
        return [(a != b).any() for a, b in zip(base, map(np.asarray, run(other)), strict=True)]

    base = [np.asarray(y) for y in run(params)]
    assert [y.shape for y in base] == [(1, 3)] * 3
    assert changed("inception_4a") == [True, True, True]
    assert changed("inception_4b") == changed("inception_4d") == [True, False, True]
    assert changed("inception_4e") == changed("output") == [True, False, False]
    assert changed("auxiliary_4a") == [False, True, False]
