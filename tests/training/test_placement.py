"""Beside `tests/test_distributed.py`, which runs on eight devices: what one device can show."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.training.placement import check_batch, check_places, in_batches, is_named, places, stay


def test_a_single_device_needs_nothing():
    tree = {"kernel": jnp.ones((8, 3))}
    mesh = jax.make_mesh((1,), ("data",))
    on_one = jax.device_put(tree, NamedSharding(mesh, P("data")))
    for each in (tree, on_one):
        assert places(each) is None and check_batch("fit", each, 3) is None
        assert check_places(each, None, "fit") is None and stay(each, None) is each
    assert is_named(on_one["kernel"]) and not is_named(tree["kernel"]) and not is_named(None)
    assert in_batches(None) is None
