"""Jaxprs among the parameters of an equation."""

import jax
import jax.numpy as jnp
import pytest

from jaxnet.services.jaxprs import depends_on, jaxprs_among


def loop(x):
    return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1]


@pytest.mark.parametrize("run, names", [
    (jax.jit(jnp.sin), [["sin"]]),
    (loop, [["lt"], ["add", "sin"]]),
    (lambda x: jax.lax.scan(lambda c, _: (jnp.cos(c), None), x, length=2)[0], [["cos"]]),
    (jnp.sin, []),
])  # fmt: skip
def test_bodies_are_found(run, names):
    (equation,) = jax.make_jaxpr(run)(1.0).jaxpr.eqns
    found = jaxprs_among(equation.params.values())
    assert [[str(e.primitive) for e in inner.eqns] for inner in found] == names


def test_what_depends_on_what():
    @jax.jit
    def both(a, b):
        return a * 2, b + 1

    jaxpr = jax.make_jaxpr(lambda a, b: (*both(a, b), 3.0))(1.0, 2.0).jaxpr
    assert depends_on(jaxpr, [True, False]) == [True, False, False]


def test_a_loop_carries_what_a_result_depends_on():
    def swapped(a, b):
        return jax.lax.while_loop(lambda c: c[1] < 9, lambda c: (c[1] + 1, c[0] + 1), (a, b))

    assert depends_on(jax.make_jaxpr(swapped)(1.0, 2.0).jaxpr, [True, False]) == [True, True]
