"""Where the arrays of a run lie on a mesh, so that each program leaves them there.

`places` is hashable and goes into programs as a static argument; None is a single device.
"""

import warnings
from typing import Any, TypeGuard

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.core import PyTree


def places(tree: PyTree) -> tuple | None:
    """Where the arrays of a tree lie, if that is a mesh of several devices; for a static argument.

    Example:
      >>> places({"kernel": jnp.ones(3)}) is None
      True
    """
    leaves = jax.tree.leaves(tree)
    found = [getattr(leaf, "sharding", None) for leaf in leaves]
    meshes = [where.mesh for where in found if _on_mesh(where)]
    if not meshes:
        return None
    everywhere = NamedSharding(meshes[0], P())
    return tuple(where if _on_mesh(where) else everywhere for where in found)


def is_named(array: Any) -> bool:
    """Whether an array lies on a mesh; a quick look.

    Example:
      >>> is_named(jnp.ones(3))
      False
    """
    return isinstance(array, jax.Array) and isinstance(array.sharding, NamedSharding)


def stay(tree: PyTree, where: tuple | None) -> PyTree:
    """The tree with its arrays where `places` found those of an earlier one.

    Example:
      >>> stay({"kernel": 1}, None)
      {'kernel': 1}
    """
    if where is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    kept = [jax.lax.with_sharding_constraint(a, w) for a, w in zip(leaves, where, strict=True)]
    return jax.tree.unflatten(structure, kept)


def check_batch(who: str, data: PyTree, size: int) -> tuple | None:
    """`places` of data whose first axis is cut into batches; raises where a batch has a remainder.

    Example:
      >>> check_batch("fit", jnp.ones((8, 3)), 4) is None
      True
    """
    where = places(data)
    for leaf, place in zip(jax.tree.leaves(data), where or (), strict=where is not None):
        parts = leaf.shape[0] // place.shard_shape(leaf.shape)[0]
        if size % parts:
            raise ValueError(
                f"{who}: a batch of {size} cannot be divided among the {parts} devices along "
                f"{place.spec[0]}; choose a multiple of {parts}"
            )
    return where


def check_places(train_state: PyTree, split: tuple | None, who: str) -> tuple | None:
    """`places` of a train_state; warns where it lies on a mesh and the data on none of its axes.

    Raises:
      ValueError: for data on a mesh and a train_state beside it.

    Example:
      >>> check_places({"kernel": jnp.ones(3)}, None, "fit") is None
      True
    """
    where = places(train_state)
    if where is None and split is not None:
        raise ValueError(
            f"{who}: the data lie on a mesh, the train_state on one device; write "
            "train_state = jn.distributed.put(train_state, mesh)"
        )
    if where is not None and not any(len(place.spec) and place.spec[0] for place in split or ()):
        warnings.warn(
            f"{who}: the train_state lies on {where[0].mesh.size} devices, each of which computes "
            "the same, since the data are not split; write data = jn.distributed.put(data, mesh, "
            f"jax.sharding.PartitionSpec({where[0].mesh.axis_names[0]!r}))",
            stacklevel=3,
        )
    return where


def in_batches(where: tuple | None) -> tuple | None:
    """Where the arrays lie once their first axis is cut into (steps, size).

    Example:
      >>> in_batches(None) is None
      True
    """
    return where and tuple(NamedSharding(w.mesh, P(None, *w.spec)) for w in where)


def _on_mesh(where: Any) -> TypeGuard[NamedSharding]:
    return isinstance(where, NamedSharding) and where.mesh.size > 1
