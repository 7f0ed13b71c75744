"""Marks of arrays inside shard_map; that every layer has them is one of the laws."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxnet.ops.varying import varying
from jaxnet.services.jax_versions import varying_axes


def test_zeros_become_the_start_of_a_loop_over_a_slice():
    def run(x):
        assert not varying_axes(jnp.zeros(()))
        start = varying({"sum": jnp.zeros(())}, x)
        return jax.lax.fori_loop(0, 3, lambda i, a: {"sum": a["sum"] + x.sum()}, start)["sum"][None]

    mesh = jax.make_mesh((1,), ("data",), (AxisType.Auto,))
    y = jax.shard_map(run, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(jnp.arange(4.0))
    assert y.tolist() == [18.0]


def test_outside_of_shard_map_nothing_happens():
    zero = jnp.zeros(3)
    assert varying(zero, jnp.ones(2)) is zero
