"""Where the arrays of a run lie on a mesh, so that each program leaves them there.

`places` is hashable and goes into programs as a static argument; None is a single device.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.core import PyTree, path_name
from jaxnet.warn import warn


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
    constrain = jax.lax.with_sharding_constraint
    kept = [constrain(a, _here(w)) for a, w in zip(leaves, where, strict=True)]
    return jax.tree.unflatten(structure, kept)


def everywhere(tree: PyTree, where: tuple | None) -> PyTree:
    """The tree with every array whole on each device of `where`, so that each process can read it.

    Example:
      >>> everywhere({"loss": 1.0}, None)
      {'loss': 1.0}
    """
    if where is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, _here(NamedSharding(where[0].mesh, P())))


def automatic(function: Callable, where: tuple | None, keeps: bool = False) -> Callable:
    """The function, whose inside the compiler places where the axes of the mesh are Explicit.

    Args:
      function: traced under `jit`.
      where: None, or `places` on the mesh.
      keeps: whether the first of several outputs has the structure of the first argument and lies
        `where` that lay; other outputs are whole on every device.

    Example:
      >>> automatic(len, None) is len
      True
    """
    if where is None or not _is_explicit(where[0]):
        return function
    copied = NamedSharding(where[0].mesh, P())

    def run(*args):
        out = copied
        if keeps:
            out = jax.tree.unflatten(jax.tree.structure(args[0]), where), copied
        return jax.sharding.auto_axes(function, out_sharding=out)(*args)

    return run


def on_host(tree: PyTree) -> PyTree:
    """NumPy arrays of a tree, whole in every process.

    Example:
      >>> on_host({"a": jnp.ones(2)})
      {'a': array([1., 1.], dtype=float32)}
    """
    if all(getattr(leaf, "is_fully_addressable", True) for leaf in jax.tree.leaves(tree)):
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def agreed(value: int, asked: bool) -> tuple[int, bool]:
    """The first process's value, and whether any process asked to stop; the same in all of them.

    Example:
      >>> agreed(3, False)
      (3, False)
    """
    if jax.process_count() == 1:
        return value, asked
    each = multihost_utils.process_allgather(np.array([value, asked], np.int32))
    return int(each[0, 0]), bool(each[:, 1].any())


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
    cut = any(len(place.spec) and place.spec[0] for place in split or ())
    if where is not None and where[0].mesh.size > 1 and not cut:
        warn(
            f"{who}: the train_state lies on {where[0].mesh.size} devices, each of which computes "
            "the same, since the data are not split; write data = jn.distributed.put(data, mesh, "
            f"jax.sharding.PartitionSpec({where[0].mesh.axis_names[0]!r}))"
        )
    return where


def join_mesh(train_state: PyTree, split: tuple | None) -> PyTree:
    """A train_state that lies on one device, on the mesh of the data if that has only this device.

    Example:
      >>> join_mesh({"kernel": 1.0}, None)
      {'kernel': 1.0}
    """
    if split is None or split[0].mesh.size > 1 or places(train_state) is not None:
        return train_state
    mesh = split[0].mesh  # its axes are Explicit, and with a word for each dimension nothing moves
    return jax.tree.map(
        lambda a: jax.device_put(a, NamedSharding(mesh, P(*[None] * a.ndim))), train_state
    )


def in_batches(where: tuple | None) -> tuple | None:
    """Where the arrays lie once their first axis is cut into (steps, size).

    Example:
      >>> in_batches(None) is None
      True
    """
    return where and tuple(NamedSharding(w.mesh, P(None, *w.spec)) for w in where)


def check_processes(who: str, train_state: PyTree, data: PyTree) -> None:
    """Raises where several processes would each train a model of their own.

    Args:
      who: the function.
      train_state: or params.
      data: examples; NumPy arrays would be taken to be the same in all processes.

    Raises:
      ValueError: for arrays that are not spread over the devices of all processes.

    Example:
      >>> check_processes("fit", {"kernel": np.ones(3)}, np.ones((5, 3)))
    """
    count = jax.process_count()
    if count == 1:
        return
    for what, tree, rules in (("train_state", train_state, ""), ("data", data, ", P('data')")):
        local = ", local=True" if what == "data" else ""
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not isinstance(leaf, jax.Array):
                got = f"a {type(leaf).__name__}, of which each process may have another"
            elif leaf.is_fully_addressable:
                got = "an array on the devices of this process alone"
            else:
                continue
            raise ValueError(
                f"{who}: {count} processes work together, but {what}{'/' if path else ''}"
                f"{path_name(path)} is {got}; write jn.distributed.put({what}, mesh{rules}{local}) "
                "with a mesh of all devices"
            )


def _here(where: NamedSharding) -> Any:
    """What a constraint says: inside `auto_axes` the mesh is another, that of the context."""
    return where.spec if _is_explicit(where) else where


def _is_explicit(where: NamedSharding) -> bool:
    return AxisType.Explicit in where.mesh.axis_types


def _on_mesh(where: Any) -> TypeGuard[NamedSharding]:
    """Whether that is a mesh that programs have to know of; of one device with Auto axes, not."""
    return isinstance(where, NamedSharding) and (where.mesh.size > 1 or _is_explicit(where))
