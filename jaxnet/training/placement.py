"""Shardings: how the arrays of a run are divided over a mesh, so that each program keeps them so.

`shardings_of` is hashable and part of the key of a compiled program; None is a single device.
"""

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.services import peers, preemption
from jaxnet.services.jax_versions import EXPLICIT_MESHES
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import PyTree, path_name
from jaxnet.services.warn import warn
from jaxnet.training import memory


class Shardings(NamedTuple):
    """The sharding of each array of a tree on a mesh.

    Fields:
      each: Sharding of each leaf.
      structure: Structure of the tree.
    """

    each: tuple[NamedSharding, ...]
    structure: Any

    mesh = property(lambda self: self.each[0].mesh)
    tree = property(lambda self: jax.tree.unflatten(self.structure, self.each))


Where = Shardings | None  # None for arrays on one device


def shardings_of(tree: PyTree) -> Where:
    """Return the shardings of a tree whose arrays are on a mesh of several devices.

    Example:
      >>> shardings_of({"kernel": jnp.ones(3)}) is None
      True
    """
    leaves, structure = jax.tree.flatten(tree)
    leaf_shardings = [getattr(leaf, "sharding", None) for leaf in leaves]
    mesh = next((sharding.mesh for sharding in leaf_shardings if _on_mesh(sharding)), None)
    if mesh is None:
        return None
    replicated = NamedSharding(mesh, P())
    each = tuple(sharding if _on_mesh(sharding) else replicated for sharding in leaf_shardings)
    return Shardings(each, structure)


def is_named(array: Any) -> bool:
    """Return quickly whether an array is on a mesh.

    Example:
      >>> is_named(jnp.ones(3))
      False
    """
    return isinstance(array, jax.Array) and isinstance(array.sharding, NamedSharding)


def constrain(tree: PyTree, shardings: Where, axes: int = 0) -> PyTree:
    """Return the tree with these shardings, inside a program.

    Args:
      tree: Tree with the structure of the shardings.
      shardings: Shardings of arrays without the leading axes.
      axes: Number of leading axes, which are not divided.

    Example:
      >>> constrain({"kernel": 1}, None)
      {'kernel': 1}
    """
    if shardings is None:
        return tree

    def leaf(a, sharding):
        # Inside `auto_axes` the mesh comes from the context.
        spec = P(*[None] * axes, *sharding.spec)
        where = spec if _is_explicit(sharding) else NamedSharding(sharding.mesh, spec)
        return jax.lax.with_sharding_constraint(a, where)

    return jax.tree.map(leaf, tree, shardings.tree)


def placed(run: Callable, shardings: Where, *, keeps: bool = True, **options) -> Callable:
    """Compile a function by `jax.jit`, with results that stay on the mesh.

    The compiler places what is computed in between, even if the axes of the mesh are Explicit.

    Args:
      run: Function that is compiled. With `keeps`, it returns a pair whose first part has the
        structure of the shardings.
      shardings: Shardings of what `run` keeps. Without `keeps`, shardings of any arrays on the
        mesh.
      keeps: Whether the first part of the result has these shardings. All other results are
        complete on every device, so that each process can read them.
      options: Options of `jax.jit`.

    Example:
      >>> float(placed(jnp.sin, None, keeps=False)(0.0))
      0.0
    """
    if shardings is None:
        return memory.jit(run, **options)
    replicated = NamedSharding(shardings.mesh, P())
    results = (shardings.tree, replicated) if keeps else replicated
    if _is_explicit(replicated):
        if not EXPLICIT_MESHES:
            raise NotImplementedError(
                "training on a mesh with Explicit axes needs JAX 0.8; write jax.make_mesh(shape, "
                "names, (jax.sharding.AxisType.Auto,) * len(shape))"
            )
        return memory.jit(jax.sharding.auto_axes(run, out_sharding=results), **options)

    @functools.wraps(run)
    def constrained(*args):  # with `out_shardings=` XLA gathers more often
        return jax.lax.with_sharding_constraint(run(*args), results)

    return memory.jit(constrained, **options)


def repeated(rows: jax.Array, size: int) -> jax.Array:
    """Return an array with its rows repeated up to a size, placed as before.

    Example:
      >>> repeated(jnp.arange(3), 5).tolist()
      [0, 1, 2, 0, 1]
    """
    resized = on_auto_axes(jnp.resize)(rows, (size, *rows.shape[1:]))
    if not (_on_mesh(where := rows.sharding) and _is_explicit(where)):
        return resized
    # The type names the Explicit axes alone.
    return jax.sharding.reshard(resized, NamedSharding(where.mesh, jax.typeof(rows).sharding.spec))


def agree_on(who: str, tree: PyTree, words: str) -> bool:
    """Raise in all processes of a tree's mesh unless all are here with the same words.

    Returns:
      Whether one of them cannot go on, as a signal asked it to stop, so that none may.
    """
    if jax.process_count() > 1 and (shardings := shardings_of(tree)) is not None:
        return peers.agree(who, shardings.mesh, words).stops  # type: ignore[arg-type]
    return False


def agree_on_step(train_state: PyTree) -> None:
    """Raise in all processes unless all make a step; with a batch of `feed` they have said so."""
    if jax.process_count() > 1 and [*peers.events] != ["batch", "step"]:
        agree_on("step", train_state, "makes a step")


def next_of(who: str, iterator: Any, tree: PyTree) -> PyTree:
    """Return the next batch, END, or STOPPED; raise in all processes of a mesh if they differ.

    STOPPED comes in place of an error of the loader while a signal asks this process to stop, which
    may have ended the loader's workers too, and in the other processes with it.
    """
    speaks = jax.process_count() > 1 and not hasattr(iterator, "_sent")  # `feed` speaks for itself
    try:
        batch = next(iterator, END)
    except peers.Stopped:
        return STOPPED
    except Exception as error:
        stopped = preemption.soon_asked()
        if speaks:
            none = f"has no further batch, its loader raised {error!r}"
            with suppress(RuntimeError):
                agree_on(who, tree, peers.STOPS if stopped else none)
        if stopped:
            warn(f"{who}: the loader raised {error!r} after a signal, so the run stops before it")
            return STOPPED
        raise
    if speaks:
        none = "has no further batch, its loader ended"
        if agree_on(who, tree, none if batch is END else f"takes {peers.shapes(batch)}"):
            return STOPPED
    return batch


END = object()
STOPPED = object()


def check_batch(who: str, data: PyTree, size: int) -> Where:
    """Return the shardings of data that are cut into batches; raise if one has a remainder.

    Example:
      >>> check_batch("fit", jnp.ones((8, 3)), 4) is None
      True
    """
    shardings = shardings_of(data)
    if shardings is None:
        return None
    for leaf, sharding in zip(jax.tree.leaves(data), shardings.each, strict=True):
        parts = leaf.shape[0] // sharding.shard_shape(leaf.shape)[0]
        if size % parts:
            raise ValueError(
                f"{who}: a batch of {size} cannot be divided among the {parts} devices along "
                f"{sharding.spec[0]}; choose a multiple of {parts}"
            )
    return shardings


def onto_mesh(who: str, train_state: PyTree, batches: Where) -> tuple[PyTree, Where]:
    """Return a train_state on the mesh of its data, and its shardings.

    A train_state on a single device is moved if the mesh has only this device. Warns if the
    train_state is on a mesh and the data are not divided over it.

    Raises:
      ValueError: If the data are on a mesh of several devices and the train_state is not.

    Example:
      >>> onto_mesh("fit", {"kernel": 1.0}, None)
      ({'kernel': 1.0}, None)
    """
    shardings = shardings_of(train_state)
    if shardings is None and batches is not None:
        if batches.mesh.size > 1:
            raise ValueError(
                f"{who}: the data are on a mesh, the train_state on one device; write "
                "train_state = jn.distributed.put(train_state, mesh)"
            )
        # The axes are Explicit. A spec with an entry for each dimension avoids a transfer.
        mesh = batches.mesh

        def put(leaf):
            spec = P(*[None] * leaf.ndim)
            return jax.device_put(leaf, NamedSharding(mesh, spec))

        train_state = jax.tree.map(put, train_state)
        shardings = shardings_of(train_state)
    each = () if batches is None else batches.each
    divided = any(sharding.spec[0] for sharding in each if len(sharding.spec))
    if shardings is not None and shardings.mesh.size > 1 and not divided:
        warn(
            f"{who}: the train_state is on {shardings.mesh.size} devices, each of which computes "
            "the same, since the data are not divided; write data = jn.distributed.put(data, mesh, "
            f"jax.sharding.PartitionSpec({shardings.mesh.axis_names[0]!r}))"
        )
    return train_state, shardings


def check_processes(who: str, train_state: PyTree, data: PyTree) -> None:
    """Raise if several processes would each train a separate model.

    Args:
      who: Name of the function.
      train_state: Train_state or params.
      data: Examples; JAX would assume that NumPy arrays are the same in all processes.

    Raises:
      ValueError: If arrays are not spread over the devices of all processes.

    Example:
      >>> check_processes("fit", {"kernel": np.ones(3)}, np.ones((5, 3)))
    """
    count = jax.process_count()
    if count == 1:
        return
    peers.events.append(who)
    trees = {"train_state": (train_state, ""), "data": (data, ", P('data'), local=True")}
    for what, (tree, options) in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not isinstance(leaf, jax.Array):
                got = f"a {type(leaf).__name__}, which may differ between processes"
            elif leaf.is_fully_addressable:
                got = "an array on the devices of this process alone"
            else:
                continue
            raise ValueError(
                f"{who}: {count} processes work together, but {what}{'/' if path else ''}"
                f"{path_name(path)} is {got}; write jn.distributed.put({what}, mesh{options}) "
                "with a mesh of all devices"
            )


def _is_explicit(sharding: NamedSharding) -> bool:
    return AxisType.Explicit in sharding.mesh.axis_types


def _on_mesh(sharding: Any) -> TypeGuard[NamedSharding]:
    """Return whether programs depend on the mesh; False for one device with Auto axes."""
    named = isinstance(sharding, NamedSharding)
    return named and (sharding.mesh.size > 1 or _is_explicit(sharding))
