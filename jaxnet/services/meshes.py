"""Functions and layers on a mesh with Explicit axes, which `jax.make_mesh` makes.

On Explicit axes JAX asks for the sharding of each value in between, but what a layer would have to
say depends on the mesh. So they run on Auto axes, where the compiler finds it.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.tree_util import tree_leaves_with_path, tree_map_with_path

from jaxnet.services.jax_versions import varying_axes
from jaxnet.services.trees import PyTree, leaves_of

F = TypeVar("F", bound=Callable[..., Any])


def on_auto_axes(function: F) -> F:
    """Return the function for arguments on any mesh.

    The first axes of a result are divided like those of an argument that has the same sizes.

    Example:
      >>> mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Explicit,))
      >>> x = jn.distributed.put(jnp.ones((2, 3)), mesh, jax.P("data"))
      >>> tuple(jax.typeof(on_auto_axes(lambda x: x[:, :1])(x)).sharding.spec)
      ('data', None)
    """

    @functools.wraps(function)
    def run(*args, **kwargs):
        def call(args, kwargs):
            return function(*args, **kwargs)

        return _run(call, (args, kwargs), lambda path: _arrays((args, kwargs)))

    return run  # type: ignore[return-value]


def apply_on_auto_axes(
    run: Callable[..., Any], params: PyTree, state: PyTree, x: PyTree, key: Any, train: Any
) -> Any:
    """Return `run(params, state, x, key=key, train=train)` for arguments on any mesh.

    The first axes of an output are divided like those of x, and each entry of the state as before.

    Example:
      >>> run = lambda params, state, x, *, key, train: (x + train, state)
      >>> apply_on_auto_axes(run, {}, {}, 1.0, None, False)
      (1.0, {})
    """

    def like(path):
        before = dict(tree_leaves_with_path(({}, state)))  # by its paths in (output, state)
        return [before[path]] if path in before else _arrays(x)

    def call(params, state, x, key):
        return run(params, state, x, key=key, train=train)

    return _run(call, (params, state, x, key), like)


def _run(run: Callable[..., Any], args: tuple, like: Callable[[Any], list[Any]]) -> Any:
    """Return `run(*given)`, whose leaves are divided like the arrays that belong to their paths."""
    context_mesh = jax.sharding.get_abstract_mesh()
    meshes = [context_mesh, *(jax.typeof(leaf).sharding.mesh for leaf in _arrays(args))]
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return run(*args)
    auto = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
    with jax.sharding.use_abstract_mesh(auto):
        result = run(*_resharded(args, lambda path, leaf: P()))
    if context_mesh == auto:  # inside a function that runs on Auto axes
        return result

    def spec(path, leaf):
        specs = [_shared(leaf, each) for each in like(path)]
        return max(specs, key=_divided_axes, default=P())

    with jax.sharding.use_abstract_mesh(mesh):
        return _resharded(result, spec)


def _shared(leaf: Any, like: Any) -> P:
    """Return how `like` is divided along the first axes, as long as their sizes are the same."""
    axis_names = []
    for size, wanted, names in zip(
        leaf.shape, like.shape, jax.typeof(like).sharding.spec, strict=False
    ):
        if size != wanted:
            break
        axis_names.append(names)
    return P(*axis_names)


def _divided_axes(spec: P) -> int:
    return sum(map(bool, spec))


def _resharded(tree: PyTree, spec: Callable[[Any, Any], P]) -> PyTree:
    def leaf(path, a):
        return jax.sharding.reshard(a, spec(path, a)) if isinstance(a, jax.Array) else a

    return tree_map_with_path(leaf, tree)


def _arrays(tree: PyTree) -> list[Any]:
    return [leaf for leaf in leaves_of(tree) if isinstance(leaf, jax.Array)]


def of_device(key: jax.Array, x: PyTree) -> jax.Array:
    """Return a key of this device inside `jax.shard_map`, where an input varies between devices.

    Args:
      key: Random key.
      x: The input.

    Example:
      >>> mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
      >>> draw = lambda x: x + jax.random.uniform(of_device(jax.random.key(0), x))
      >>> options = {"mesh": mesh, "in_specs": jax.P("data"), "out_specs": jax.P("data")}
      >>> jax.shard_map(draw, **options)(jnp.zeros(2)).shape
      (2,)
    """
    arrays = [leaf for leaf in jax.tree.leaves(x) if isinstance(leaf, jax.Array)]
    axes = frozenset().union(*map(varying_axes, arrays)) - varying_axes(key)
    for axis in sorted(axes):
        key = jax.random.fold_in(key, jax.lax.axis_index(axis))
    return key
