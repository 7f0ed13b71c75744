"""Where versions of JAX differ: each is seen on the version that runs these tests."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from jaxnet.services.jax_versions import as_varying, enable_x64, linear, varying_axes


@pytest.mark.parametrize("on", [True, False])
def test_64_bits_inside_of_the_context_alone(on):
    before = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    with enable_x64(on):
        assert jnp.ones(1).dtype == (jnp.float64 if on else jnp.float32)
    assert jax.config.jax_enable_x64 == before  # type: ignore[attr-defined]


def test_a_mark_of_an_array_that_varies():
    seen = []

    def run(x):
        zero = jnp.zeros(())
        seen.extend(map(varying_axes, (x, zero, as_varying(zero, ("data",)))))
        return x

    mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
    jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(jnp.ones(2))
    assert seen == [{"data"}, set(), {"data"}]


def test_the_transpose_of_a_linear_loop():
    """y = 2 (2 (2 c + a) + b) + ..., whose factors are not constants of the loop."""

    def last(carry, xs, factors):
        return jax.lax.scan(lambda c, now: (now[0] * c + now[1], None), carry, (factors, xs))[0]

    @jax.custom_jvp
    def f(carry, xs, factors):
        return last(carry, xs, factors)

    @f.defjvp
    def _(primals, tangents):
        push = lambda carry, xs: last(carry, xs, primals[2])  # noqa: E731
        return f(*primals), linear(push, *tangents[:2])

    given = jnp.ones(()), jnp.ones(3), jnp.full(3, 2.0)
    d_carry, d_xs = jax.jit(jax.grad(f, (0, 1)))(*given)
    assert d_carry == 8 and d_xs.tolist() == [4, 2, 1]
