"""A transform that divides the time axis of a sequence among devices."""

from jax.sharding import Mesh

from jaxnet.core import Layer, transformed
from jaxnet.distributed.rules import check_axis
from jaxnet.ops.ring import Ring, use_ring


def context_parallel(layer: Layer, mesh: Mesh, axis: str) -> Layer:
    """Return a layer whose attention works on a time axis that is divided over a mesh.

    Use it for sequences that do not fit on one device, and put them on the mesh with their second
    axis divided: `jn.distributed.put(ids, mesh, jax.P("data", "time"))`. Each device keeps its part
    of the time. The keys and values go around the devices in a ring, and come round again for the
    gradient, which is reverse-mode alone. Layers that act on each step need nothing for this.
    Params, state and outputs are the same as without it.

    Attention with a boolean mask or with scores to add, and attention that returns its weights, are
    computed as without it: the compiler gathers the sequence.

    Args:
      layer: Network or block whose input is a sequence, (batch, time, ...).
      mesh: Mesh created by `jax.make_mesh`, on which params and data are.
      axis: Name of the axis of the mesh over which the time is divided.

    Returns:
      A layer with the same params, for inputs whose time axis is sharded.

    Raises:
      TypeError: If the arguments are not a layer and a mesh.
      ValueError: If the mesh lacks the axis.
      ValueError: In `apply`, if the time cannot be divided among the devices.

    Example:
      >>> mesh = jax.make_mesh((1,), ("time",))
      >>> net = context_parallel(jn.models.decoder(11, depth=1, width=8, heads=2), mesh, "time")
      >>> ids = jn.distributed.put(jnp.ones((2, 6), int), mesh, jax.P(None, "time"))
      >>> params, state = jn.distributed.put(net.init(jax.random.key(0), ids), mesh)
      >>> net.apply(params, state, ids)[0].shape
      (2, 6, 11)

    Reference: Liu et al. 2023, "Ring Attention with Blockwise Transformers for Near-Infinite
    Context".
    """
    check_axis("context_parallel", mesh, axis)
    # A layer runs on Auto axes, whatever the user's are.
    ring = Ring(Mesh(mesh.devices, mesh.axis_names), axis)

    def apply(run, params, state, x):
        with use_ring(ring):
            return run(params, state, x)

    return transformed(layer, apply, kind="context_parallel")
