"""Types inside `jax.shard_map`: what goes into a loop must vary over the axes that comes out of it.

`shard_map` knows of each array over which axes of the mesh it differs between devices. A loop that
starts with zeros, which are the same everywhere, and ends with what it computed from a slice of the
batch is refused, so the zeros are marked as if they differed.
"""

import jax
from jax import lax

from jaxnet.services.trees import PyTree


def varying(tree: PyTree, *like: PyTree) -> PyTree:
    """The tree, its arrays marked as varying over all axes of `shard_map` that those of `like` do.

    Example:
      >>> varying(jnp.zeros(3), jnp.ones(3))
      Array([0., 0., 0.], dtype=float32)
    """
    axes: set = set().union(*(_axes(leaf) for leaf in jax.tree.leaves(like)))

    def leaf(a):
        missing = axes - _axes(a)
        return lax.pcast(a, tuple(missing), to="varying") if missing else a

    return jax.tree.map(leaf, tree) if axes else tree


def _axes(a: jax.Array) -> frozenset:
    return jax.typeof(a).manual_axis_type.varying
