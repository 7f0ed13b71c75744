"""What differs between versions of JAX, tried on the version that is installed."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxnet.services.jax_versions import scan_parts, shard_map_like


def test_parts_of_a_loop():
    """Constants, then what is carried, then rows, also if a row is a number."""

    def loop(a, b, state, rows, numbers):
        def body(state, row):
            return state + a * row[0].sum() + b, (row[1], state)

        return lax.scan(body, state, (rows, numbers))

    args = 1.0, jnp.ones(2), jnp.ones(2), jnp.ones((3, 4)), jnp.ones(3)
    eqn = next(e for e in jax.make_jaxpr(loop)(*args).eqns if e.primitive.name == "scan")
    consts, carried, rows = scan_parts(eqn, eqn.invars)
    assert [len(part) for part in (consts, carried, rows)] == [2, 1, 2]
    assert [variable.aval.shape for variable in rows] == [(3, 4), (3,)]


def test_a_loop_without_rows():
    loop = jax.make_jaxpr(lambda x: lax.scan(lambda x, _: (x + 1, x), x, None, length=3))(1.0)
    (eqn,) = [e for e in loop.eqns if e.primitive.name == "scan"]
    assert [len(part) for part in scan_parts(eqn, eqn.invars)] == [0, 1, 0]


def test_mapped_as_an_equation_is():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("data")
    mapped = jax.shard_map(lambda x: 2 * x, mesh=mesh, in_specs=spec, out_specs=spec)
    (eqn,) = [e for e in jax.make_jaxpr(mapped)(jnp.ones(3)).eqns if "shard" in e.primitive.name]
    again = shard_map_like(eqn, lambda x: (3 * x,))
    assert again(jnp.ones(3))[0].tolist() == [3, 3, 3]
