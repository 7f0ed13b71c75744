"""Warnings point to the line that called the library, through its own frames and those of JAX."""

import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxnet as jn
from jaxnet.services.warn import warn


def recompiled():
    """Warned of inside a trace."""
    trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
    train_state = trainer.init(jax.random.key(0), (jn.spec((4, 3)), jn.spec((4, 2))))
    for rows in (4, 5):
        train_state, _ = trainer.step(train_state, (jnp.ones((rows, 3)), jnp.ones((rows, 2))))


def never_iterated():
    trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
    data = jnp.ones((4, 3)), jnp.ones((4, 2))
    jn.fit(trainer, trainer.init(jax.random.key(0), data), data, epochs=1)


def directly():
    warn("here")


@pytest.mark.parametrize("wrong", [recompiled, never_iterated, directly])
def test_names_the_line_of_the_user(wrong):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrong()
    lines = {line for *_, line in wrong.__code__.co_lines() if line}
    assert [(warning.filename, warning.lineno in lines) for warning in caught] == [(__file__, True)]
