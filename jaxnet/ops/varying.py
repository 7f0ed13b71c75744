"""Types inside `jax.shard_map`: a loop's inputs must vary over the same axes as its outputs.

`shard_map` knows for each array over which axes of the mesh it differs between devices. It raises
for a loop that starts with zeros, which are the same everywhere, and ends with results of a slice
of the batch. So the zeros are marked as if they differed.
"""

import jax

from jaxnet.services.jax_versions import as_varying, varying_axes
from jaxnet.services.trees import PyTree


def varying(tree: PyTree, *like: PyTree) -> PyTree:
    """Mark the arrays of a tree as varying over the axes of `shard_map` over which `like` varies.

    Example:
      >>> varying(jnp.zeros(3), jnp.ones(3))
      Array([0., 0., 0.], dtype=float32)
    """
    axes: set = set()
    for leaf in jax.tree.leaves(like):
        axes |= varying_axes(leaf)
    if not axes:
        return tree

    def marked(a):
        missing = axes - varying_axes(a)
        return as_varying(a, tuple(missing)) if missing else a

    return jax.tree.map(marked, tree)
