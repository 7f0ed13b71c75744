"""Programs as steps without calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.rewriting.steps import Steps
from tests.helpers import close

CALLS = {
    "jit": jax.jit(jnp.sin),
    "custom_jvp": jax.nn.relu,
    "checkpoint": jax.checkpoint(jnp.sin),
    "nested": jax.jit(jax.checkpoint(jax.nn.silu)),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_inlined(name):
    steps = Steps(jax.make_jaxpr(CALLS[name])(jnp.ones(3)))
    assert not {"jit", "pjit", "remat2", "checkpoint", "custom_jvp_call"}.intersection(
        step.name for step in steps.steps
    )


def test_loops_stay_whole():
    def loop(x):
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y), x)

    steps = Steps(jax.make_jaxpr(loop)(jnp.ones(3)))
    assert {step.name for step in steps.steps} <= {"scan", "while"}


def test_what_depends_on_constants_alone_is_computed_once():
    variance = jnp.array([1.0, 4.0])

    def norm(x):
        return x * (jax.lax.rsqrt(variance + 1e-5) * 3).reshape(1, 2)

    steps = Steps(jax.make_jaxpr(norm)(jnp.ones((5, 2))))
    steps.compute_known()
    (factor,) = [
        v for step in steps.steps for v in step.inputs if v.is_known and v.shape[-1:] == (2,)
    ]
    np.testing.assert_allclose(np.ravel(factor.value), [3, 1.5], rtol=1e-4)


def test_broadcasts_to_larger_arrays_are_steps():
    vector = jnp.arange(4.0)
    program = jax.make_jaxpr(lambda x: x + jnp.broadcast_to(vector, x.shape))(jnp.ones((9, 4)))
    steps = Steps(program)
    assert [step.name for step in steps.steps] == ["broadcast_in_dim", "add"]


def test_a_known_norm_is_computed_without_compiling(monkeypatch):
    variance, scale = np.linspace(0.1, 3, 5, dtype=np.float32), np.full(5, 2, np.float32)

    def norm(x):
        factor = jnp.asarray(scale) * jax.lax.rsqrt(jnp.asarray(variance) + 1e-5)
        return x * factor - jnp.maximum(factor, 1)

    steps = Steps(jax.make_jaxpr(norm)(jnp.ones(5)))
    monkeypatch.setattr(jax, "jit", None)
    steps.compute_known()
    factor = scale / np.sqrt(variance + 1e-5)
    known = [v.value for step in steps.steps for v in step.inputs if v.is_known]
    close(known, [factor, np.maximum(factor, 1)], 3e-7)
