"""A transform that says where the params of a fully sharded net are gathered."""

from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.core import Layer, transformed
from jaxnet.distributed.rules import check_mesh
from jaxnet.services.nodes import is_stored
from jaxnet.services.paths import is_kernel
from jaxnet.services.trees import PyTree, path_name


def gathered(layer: Layer, mesh: Mesh) -> Layer:
    """Return a layer whose params are gathered on every device before it runs.

    Use it for nets whose params are split by `fully_sharded`. By itself, the compiler computes with
    parts of the params and sends activations, which costs more operations and more bytes. With
    `jn.remat` around it, the gathered params are not kept for the backward pass but gathered again.
    Params, state and outputs are the same as without it.

    Args:
      layer: Block, at most as large as fits on one device.
      mesh: Mesh created by `jax.make_mesh`, on which the params are.

    Returns:
      A layer with the same params, state and outputs.

    Raises:
      TypeError: If the arguments are not a layer and a mesh.

    Example:
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> net = jn.repeat(jn.remat(gathered(jn.dense(3), mesh)), 2)
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 3)))
      >>> net.apply(params, state, jnp.ones((5, 3)))[0].shape
      (5, 3)

    Reference: Rajbhandari et al. 2020, "ZeRO: memory optimizations toward training trillion
    parameter models".
    """
    check_mesh("gathered", mesh)
    where: Any = NamedSharding(mesh, P())
    explicit = AxisType.Explicit in mesh.axis_types

    def apply(run, params, state, x):
        def narrow(path, a):
            return run.mode.rounded(a) if is_kernel(path_name(path)) else a

        # Kernels travel in the dtype of the computation: below `cast`, half the bytes.
        sent = jax.tree_util.tree_map_with_path(narrow, params, is_leaf=is_stored)
        # If the axes are Explicit, an update runs inside auto_axes, with the mesh as context. Only
        # the evaluation of shapes runs outside it.
        if not explicit:
            sent = _constrained(sent, where)
        elif jax.sharding.get_abstract_mesh().axis_names:
            sent = _constrained(sent, P())

        def in_old_dtype(new, old):
            return new.astype(old.dtype)

        return run(jax.tree.map(in_old_dtype, sent, params, is_leaf=is_stored), state, x)

    return transformed(layer, apply, kind="gathered")


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _constrained(tree: PyTree, where: Any) -> PyTree:
    """Constrain arrays, but not their gradients, which would be added up whole on each device."""
    return jax.lax.with_sharding_constraint(tree, where)


_constrained.defvjp(
    lambda tree, where: (_constrained(tree, where), None), lambda where, _, grads: (grads,)
)
