"""Jaxprs among the parameters of an equation."""

import jax
import jax.numpy as jnp
import pytest

from jaxnet.services.jaxprs import jaxprs_among


def loop(x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]


@pytest.mark.parametrize(
    "run, names",
    [
        (jax.jit(jnp.sin), [["sin"]]),
        (loop, [["lt"], ["add", "sin"]]),
        (lambda x: jax.lax.scan(lambda c, _: (jnp.cos(c), None), x, length=2)[0], [["cos"]]),
        (jnp.sin, []),
    ],
)
def test_bodies_are_found(run, names):
    (equation,) = jax.make_jaxpr(run)(1.0).jaxpr.eqns
    found = jaxprs_among(equation.params.values())
    assert [[str(e.primitive) for e in inner.eqns] for inner in found] == names
