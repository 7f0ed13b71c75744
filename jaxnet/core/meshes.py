"""Layers on a mesh with Explicit axes, which `jax.make_mesh` makes: they run on Auto axes.

On Explicit axes JAX asks for the sharding of each value in between, but what a layer would have to
say depends on the mesh. So the compiler finds it.
"""

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.tree_util import tree_leaves_with_path, tree_map_with_path

from jaxnet.services.trees import PyTree


def on_auto_axes(
    run: Callable[..., Any], params: PyTree, state: PyTree, x: PyTree, key: Any, train: Any
) -> Any:
    """Return `run(params, state, x, key=key, train=train)`, an output and a state.

    If an argument has Explicit axes, the axes that an output shares with x from the first one on,
    such as the batch axis, are divided like those of x, and each entry of the state as before.

    Example:
      >>> x = jn.distributed.put(jnp.ones((2, 3)), jax.make_mesh((1,), ("data",)), jax.P("data"))
      >>> run = lambda params, state, x, *, key, train: (x[:, :1], state)
      >>> jax.typeof(on_auto_axes(run, {}, {}, x, None, False)[0]).sharding.spec
      P('data', None)
    """
    given = params, state, x, key
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(given))
    mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
    if mesh is None:
        return run(params, state, x, key=key, train=train)
    auto = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
    with jax.sharding.use_abstract_mesh(auto):
        *moved, key = jax.sharding.reshard(given, P())
        result = run(*moved, key=key, train=train)
    if jax.sharding.get_abstract_mesh() == auto:  # inside a layer that runs on Auto axes
        return result
    before = dict(tree_leaves_with_path(({}, state)))

    def spec(path, leaf):
        like = [before[path]] if path in before else jax.tree.leaves(x)
        return max((_shared(leaf, each) for each in like), key=_parts, default=P())

    with jax.sharding.use_abstract_mesh(mesh):
        return jax.sharding.reshard(result, tree_map_with_path(spec, result))


def _shared(leaf: Any, like: Any) -> P:
    """Return how `like` is divided along the first axes, as long as their sizes are the same."""
    axes = zip(leaf.shape, like.shape, jax.typeof(like).sharding.spec, strict=False)
    return P(*(names for *_, names in takewhile(lambda axis: axis[0] == axis[1], axes)))


def _parts(spec: P) -> int:
    return sum(names is not None for names in spec)
