"""Put arrays on a mesh of devices: rules by path, and what follows from them.

Create a mesh with `jax.make_mesh`. Whether its axes are Auto or Explicit, the compiler places what
a program computes in between. A rule says how an array is split over the mesh, as a
`jax.sharding.PartitionSpec`. Arrays stay where they were put: `trainer.step` and `fit` return the
train_state on the same devices, and data that are split give batches that are split.

    mesh = jax.make_mesh((8,), ("data",))
    train_state = jn.distributed.put(trainer.init(key, batch), mesh)
    data = jn.distributed.put(data, mesh, P("data"))
    for epoch in jn.fit(trainer, train_state, data, epochs=9): ...
"""

import zlib
from collections.abc import Callable, Mapping
from math import prod
from threading import current_thread, main_thread
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.services.checks import check_type, is_key
from jaxnet.services.paths import first_fits, fits
from jaxnet.services.peers import agree, shapes
from jaxnet.services.trees import PyTree, describe, flat, path_name

Rules = P | Mapping[str, P] | Callable[[str, tuple[int, ...]], P]
"""A spec for all arrays, specs by patterns of paths, or a function of path and shape."""


def shardings(tree: PyTree, mesh: Mesh, rules: Rules = P()) -> PyTree:
    """Return how to place each array of a tree on a mesh.

    Args:
      tree: Arrays or `jn.spec`s: params, data, or a whole train_state. If it is a train_state, the
        rules apply to its params; what the optimizer keeps for a parameter is placed like the
        parameter, and the rest is copied to every device.
      mesh: Mesh created by `jax.make_mesh`.
      rules: One `PartitionSpec` for all arrays; or a dict from patterns of paths, such as
        "*/mlp/kernel", to `PartitionSpec`s; or a function of path and shape, such as
        `fully_sharded("data", mesh)`. In a dict, the first pattern that fits counts, and arrays
        without one are copied to every device.

    Returns:
      A tree like `tree` of `NamedSharding`s.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If a rule is the first match of no array, or if the mesh lacks an axis.
      ValueError: If a dimension cannot be divided. The message names its path.

    Example:
      >>> mesh = jax.make_mesh((1,), ("model",))
      >>> params = {"dense": {"kernel": jn.spec((3, 8)), "bias": jn.spec((8,))}}
      >>> where = shardings(params, mesh, {"*/kernel": P(None, "model")})
      >>> tuple(where["dense"]["kernel"].spec)
      (None, 'model')
    """
    if not hasattr(tree, "opt_state"):
        return _by_rules(tree, mesh, rules)
    params = _by_rules(tree.params, mesh, rules)
    pairs = zip(flat(tree.params), jax.tree.leaves(params), strict=True)
    of = {path: (leaf.shape, where) for (path, leaf), where in pairs}
    others = {field: part for field, part in tree._asdict().items() if field != "params"}
    parts = {field: _following(part, of, mesh) for field, part in others.items()}
    return tree._replace(params=params, **parts)


def put(tree: PyTree, mesh: Mesh, rules: Rules = P(), *, local: bool = False) -> PyTree:
    """Put a tree on a mesh as `shardings` says.

    Args:
      tree, mesh, rules: Arguments of `shardings`. A `jn.spec` becomes a spec with its sharding.
      local: Whether each of several processes gives its own slice of the first axis, such as its
        own files; otherwise all give equal arrays. All raise if the slices have unequal shapes.

    Returns:
      A tree like `tree` of arrays on the mesh.

    Raises:
      TypeError, ValueError: If `shardings` raises them.

    Example:
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> x = put(jnp.ones((8, 3)), mesh, P("data"))
      >>> x.sharding.spec[0]
      'data'
    """
    speaks = current_thread() is main_thread()  # in a thread it would mix with other programs
    if speaks and not local and isinstance(mesh, Mesh):  # else an error follows
        # Before JAX compares the arrays of all processes, for ever if one puts others.
        agree("put", mesh, f"puts {_checksums(tree, mesh)}")
    placed = put_silently(tree, mesh, rules, local=local)
    if speaks and local:
        agree("put", mesh, f"puts {shapes(placed)}")
    return placed


def _checksums(tree: PyTree, mesh: Mesh) -> str:
    """Return checksums and shapes of arrays that several processes must give alike."""
    if len({device.process_index for device in mesh.devices.flat}) == 1:
        return ""
    names = values = 0
    for path, leaf in flat(tree, None):
        names = zlib.crc32(path.encode(), names)
        if isinstance(leaf, jax.ShapeDtypeStruct) or not getattr(leaf, "is_fully_addressable", 1):
            continue
        if is_key(leaf):
            leaf = jax.random.key_data(leaf)
        values = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), values)
    return f"arrays of checksum {values:08x}, names of {names:08x}, {shapes(tree)}"


def put_silently(tree: PyTree, mesh: Mesh, rules: Rules = P(), *, local: bool = False) -> PyTree:
    """Put a tree on a mesh without a word to the other processes."""

    def leaf(a, where):
        if isinstance(a, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where)
        if local:
            return jax.make_array_from_process_local_data(where, a)
        return jax.device_put(a, where)

    places = _by_rules(tree, mesh, rules, local) if local else shardings(tree, mesh, rules)
    return jax.tree.map(leaf, tree, places)


def fully_sharded(axis: str, mesh: Mesh, smallest: int = 2**14) -> Rules:
    """Return a rule that splits each large array along its longest divisible dimension.

    Args:
      axis: Name of an axis of the mesh.
      mesh: Mesh created by `jax.make_mesh`.
      smallest: Smallest number of entries that is split; smaller arrays are copied to every device.

    Returns:
      A sharding rule for `put` and `shardings`.

    Raises:
      ValueError: If the mesh lacks the axis.

    Example:
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> rule = fully_sharded("data", mesh)
      >>> tuple(rule("mlp/kernel", (256, 1024))), tuple(rule("mlp/bias", (1024,)))
      ((None, 'data'), ())
    """
    check_axis("fully_sharded", mesh, axis)

    def rule(path: str, shape: tuple[int, ...]) -> P:
        fits = [size for size in shape if size % mesh.shape[axis] == 0]
        if not fits or prod(shape) < smallest:
            return P()
        return P(*[None] * shape.index(max(fits)), axis)

    return rule


# The axis, counted from the last one, along which tensor parallelism divides a parameter: heads,
# hidden units, and ids of the vocabulary. Blocks of `repeat` have one more axis in front.
_TENSOR = {
    "*attention/(query|key|value)/(kernel|bias)": -2,
    "*attention/out/kernel": -3,
    "*/mlp_(in|gate)/(kernel|bias)": -1,
    "*/mlp_out/kernel": -2,
    "*/embedding/embedding": -2,
    "*/head/(kernel|bias)": -1,
}


# Entries of quantized kernels and tables.
_PARTS = ("int8", "int4", "scale", "scale16")
_STORED = tuple(f"{entry}/{part}" for entry in ("kernel", "embedding") for part in _PARTS)


def tensor_parallel(axis: str) -> Rules:
    """Return a rule that divides transformer blocks, and decoders of them, over an axis of a mesh.

    Each device has some heads of the attention and some hidden units of the MLP of each block, and
    some ids of the embedding and of the logits (`head`). So each block sums activations twice
    between devices. Norms, and all other params, are copied to every device. The number of heads,
    of heads for keys (`kv_heads`), of hidden units and of ids must be multiples of the number of
    devices along the axis. The rule finds layers by the names that `jn.transformer_block`,
    `jn.embedding` and `jn.models.decoder` give them, also inside `jn.repeat` and `jn.moe`.

    Args:
      axis: Name of an axis of the mesh.

    Returns:
      A sharding rule for `put` and `shardings`.

    Example:
      >>> rule = tensor_parallel("model")
      >>> tuple(rule("decoder/block_0/mlp_in/kernel", (64, 256)))
      (None, 'model')
      >>> tuple(rule("repeat/attention/out/kernel", (6, 8, 16, 128)))  # six blocks of eight heads
      (None, 'model')
      >>> tuple(rule("norm/scale", (64,)))
      ()

    Reference: Shoeybi et al. 2019, "Megatron-LM: Training Multi-Billion Parameter Language Models
    Using Model Parallelism".
    """

    check_type("tensor_parallel", "axis", axis, str, "the name of an axis of the mesh")

    def rule(path: str, shape: tuple[int, ...]) -> P:
        part = ""
        if path.endswith(_STORED):
            path, _, part = path.rpartition("/")
        at = next((at for pattern, at in _TENSOR.items() if fits(pattern, path)), None)
        if at is None:
            return P()
        if part.startswith("scale") and shape[at] == 1:  # shared by all entries of the axis
            return P()
        return P(*[None] * (len(shape) + at), axis)

    return rule


def check_mesh(who: str, mesh: Any) -> None:
    """Raise unless this is a mesh.

    Example:
      >>> check_mesh("put", "data")
      Traceback (most recent call last):
      ...
      TypeError: put: mesh must be a jax.sharding.Mesh, such as jax.make_mesh((8,), ('data',)), ...
    """
    words = "a jax.sharding.Mesh, such as jax.make_mesh((8,), ('data',))"
    check_type(who, "mesh", mesh, Mesh, words)


def check_axis(who: str, mesh: Mesh, axis: Any) -> None:
    """Raise unless this is a mesh that has the axis.

    Example:
      >>> check_axis("put", jax.make_mesh((1,), ("data",)), "model")
      Traceback (most recent call last):
      ...
      ValueError: put: the mesh has the axes data, not 'model'
    """
    check_mesh(who, mesh)
    if axis not in mesh.axis_names:
        raise ValueError(f"{who}: the mesh has the axes {', '.join(mesh.axis_names)}, not {axis!r}")


def _by_rules(tree: PyTree, mesh: Mesh, rules: Rules, local: bool = False) -> PyTree:
    check_mesh("shardings", mesh)
    words = "a PartitionSpec, a dict from patterns to PartitionSpecs or a function (path, shape)"
    check_type("shardings", "rules", rules, P | Mapping | Callable, words)
    paths = [path for path, _ in flat(tree)]
    patterns = list(rules) if isinstance(rules, Mapping) else []
    chosen = dict(zip(paths, first_fits("shardings", patterns, paths), strict=True))

    def leaf(where, a):
        path = path_name(where)
        if not hasattr(a, "shape"):
            raise TypeError(f"shardings: {path} must be an array or a spec, got {describe(a)}")
        shape = tuple(a.shape)
        if isinstance(rules, Mapping):
            pattern = chosen[path]
            spec = P() if pattern is None else rules[pattern]
        else:
            spec = rules if isinstance(rules, P) else rules(path, shape)
        return _checked(path, shape, mesh, spec, local)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _checked(path: str, shape: tuple, mesh: Mesh, spec: Any, local: bool) -> NamedSharding:
    path = path or "the array"
    if not isinstance(spec, P):
        raise TypeError(f"shardings: the rule of {path} must be a PartitionSpec, got {spec!r:.60}")
    if len(spec) > len(shape):
        raise ValueError(f"shardings: {path} {shape} has fewer dimensions than its rule {spec}")
    # JAX divides the rows of all processes together.
    divides_rows = not local or jax.process_count() == 1
    for at, entry in enumerate(spec):
        if entry is None:
            continue
        names = entry if isinstance(entry, tuple) else (entry,)
        for name in names:
            check_axis(f"shardings: {path}", mesh, name)
        parts = prod(mesh.shape[name] for name in names)
        if (at or divides_rows) and shape[at] % parts:
            hint = "; in a loader, drop or fill a smaller last batch" if at == 0 else ""
            raise ValueError(
                f"shardings: dimension {at} of {path} {shape} cannot be divided among the {parts} "
                f"devices along {', '.join(names)}{hint}"
            )
    return _named_sharding(mesh, spec, len(shape))


def _named_sharding(mesh: Mesh, spec: P, rank: int) -> NamedSharding:
    """Return a sharding, with an entry for each dimension if axes are Explicit, as JAX does."""
    if AxisType.Explicit in mesh.axis_types:
        spec = P(*spec, *[None] * (rank - len(spec)))
    return NamedSharding(mesh, spec)


def _following(tree: PyTree, of: dict[str, tuple], mesh: Mesh) -> PyTree:
    """Return shardings of the params whose path ends the leaf's path, else on every device."""

    def leaf(path, a):
        parts = path_name(path).split("/")
        for i in range(len(parts)):
            shape, where = of.get("/".join(parts[i:]), (None, None))
            if shape is not None and shape == a.shape:
                return where
        return _named_sharding(mesh, P(), len(a.shape))

    return jax.tree_util.tree_map_with_path(leaf, tree)
