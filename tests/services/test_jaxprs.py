"""Jaxprs among the parameters of an equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.services.jaxprs import depends_on, jaxprs_among, split


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


def test_a_function_is_split_where_the_rest_comes_in():
    table = jnp.arange(12.0).reshape(3, 4)

    @jax.jit
    def read(params, x):
        return jax.nn.relu(jax.checkpoint(jnp.sin)(x @ params["w"].astype(jnp.float32)))

    def function(params, x, state, tokens):
        memory = jax.lax.scan(lambda c, _: (read(params, c), None), x, length=3)[0]
        y = memory[tokens] * state["h"] + table[tokens]
        return {"y": y, "memory": memory, "x": x, "one": 1.0, "state": {"h": jnp.exp(state["h"])}}

    params = {"w": jnp.eye(4, dtype=jnp.bfloat16) * 2}
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    args = params, x, {"h": jnp.float32(3)}, jnp.array([2, 0])
    early, late = split(function, *args)
    kept = jax.jit(early)(params, x)
    assert [leaf.shape for leaf in kept] == [(3, 4), (3, 4)]  # the memory and x: not the kernel
    assert "scan" not in str(jax.make_jaxpr(late)(kept, params, *args[2:]))
    jax.tree.map(np.testing.assert_allclose, late(kept, params, *args[2:]), function(*args))
