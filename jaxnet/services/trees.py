"""Pytrees in words: shapes, dtypes and paths, and a cache keyed by them."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
Path = tuple[str, ...]


def flat(tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[str, Any]]:
    """Return the leaves of a tree with their paths as messages show them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf)
    return [(path_name(path), leaf) for path, leaf in leaves]


def path_name(path: Any) -> str:
    """Return a path of `jax.tree_util` as messages show it: "block/conv/kernel".

    Example:
      >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"conv": {"kernel": 1}})
      >>> path_name(path)
      'conv/kernel'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def describe(x: PyTree) -> str:
    """Return shapes and dtypes in words, for messages: "(2, 3) float32".

    Example:
      >>> describe((jn.spec((2, 3)), jn.spec((2,), jnp.int32)))
      '((2, 3) float32, (2,) int32)'
    """

    def words(a):
        array = hasattr(a, "shape") and hasattr(a, "dtype")
        return _Words(f"{tuple(a.shape)} {a.dtype}" if array else type(a).__name__)

    return str(jax.tree.map(words, x))


class _Words(str):
    """A string that prints without quotes inside a container."""

    __repr__ = str.__str__


def floats_of(tree: PyTree) -> PyTree:
    """Return the tree with None for each array that is not of floats and so cannot have a gradient.

    Example:
      >>> floats_of({"int8": jnp.ones(2, jnp.int8), "scale": jnp.float32(0.5)})
      {'int8': None, 'scale': Array(0.5, dtype=float32)}
    """
    return jax.tree.map(lambda a: a if jnp.issubdtype(a.dtype, jnp.inexact) else None, tree)


def with_floats(tree: PyTree, floats: PyTree) -> PyTree:
    """Return the tree with other floats, in the form that `floats_of` returns.

    Example:
      >>> with_floats({"int8": jnp.ones(2, jnp.int8), "scale": 0.5}, {"int8": None, "scale": 2.0})
      {'int8': Array([1, 1], dtype=int8), 'scale': 2.0}
    """
    return jax.tree.map(lambda new, old: old if new is None else new, floats, tree, is_leaf=_none)


def _none(entry: Any) -> bool:
    return entry is None


def shapes_of(tree: PyTree) -> PyTree:
    """Return shapes and dtypes instead of arrays."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), tree)


def signature(x: PyTree) -> Hashable:
    """Return structure, shapes and dtypes, to key a cache."""
    leaves, structure = jax.tree.flatten(x)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def key_spec() -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of a random key."""
    return jax.eval_shape(lambda: jax.random.key(0))


class Memo(dict[Any, Any]):
    """A dict that drops its oldest entry when it is full, so that a cache stays bounded."""

    size = 32

    def __setitem__(self, key: Hashable, value: Any) -> None:
        if len(self) >= self.size and key not in self:
            del self[next(iter(self))]
        super().__setitem__(key, value)

    def of(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the value of a key, made if it is missing.

        Example:
          >>> memo = Memo()
          >>> memo.of("a", lambda: 1), memo.of("a", lambda: 2)
          (1, 1)
        """
        if key not in self:
            self[key] = make()
        return self[key]
