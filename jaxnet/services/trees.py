"""Pytrees in words: shapes, dtypes and paths, and a cache keyed by them."""

import functools
import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.services.functions import codes_of
from jaxnet.services.nodes import is_stored

PyTree = Any
Path = tuple[str, ...]
# By path, what was expected and what was given; None is the lack of an entry.
Differences = dict[str, tuple[Any, Any]]


def flat(tree: PyTree, is_leaf: Callable[[Any], bool] | None = is_stored) -> list[tuple[str, Any]]:
    """Return the leaves of a tree with their paths as messages show them."""
    leaves = _sorted(lambda: jax.tree_util.tree_leaves_with_path(tree, is_leaf))
    return [(path_name(path), leaf) for path, leaf in leaves]


DEEPEST = 500  # JAX flattens trees by recursion, and leaves Python's count of it wrong if it ends


def check_depth(who: str, tree: PyTree) -> None:
    """Raise if the containers of a tree are nested deeper than JAX can follow, or hold themselves.

    Example:
      >>> tree = {}
      >>> tree["itself"] = tree
      >>> check_depth("save", tree)
      Traceback (most recent call last):
      ...
      ValueError: save: the tree is nested more than 500 deep, or an entry holds the tree itself
    """
    level = [tree] if isinstance(tree, dict | list | tuple) else []
    for _ in range(DEEPEST):
        inner = {}
        for node in level:
            children = node.values() if isinstance(node, dict) else node
            inner |= {id(each): each for each in children if isinstance(each, dict | list | tuple)}
        level = list(inner.values())
        if not level:
            return
    raise ValueError(
        f"{who}: the tree is nested more than {DEEPEST} deep, or an entry holds the tree itself"
    )


def leaves_of(tree: PyTree) -> list[Any]:
    """Return the leaves of a tree.

    Raises:
      TypeError: If the keys of a dict have types that cannot be sorted together.

    Example:
      >>> leaves_of({"x": 1, 0: 2})  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      TypeError: the keys of a dict must be of one type, such as str...
    """
    return _sorted(lambda: jax.tree.leaves(tree))


def _sorted(leaves: Callable[[], list[Any]]) -> list[Any]:
    try:
        return leaves()
    except ValueError as error:
        if "sorting pytree dictionary keys" not in str(error):
            raise
        raise TypeError(
            "the keys of a dict must be of one type, such as str, since JAX sorts them, got "
            f"several ({error.__cause__}); write {{str(key): value for key, value in data.items()}}"
        ) from None


def path_name(path: Any) -> str:
    """Return a path of `jax.tree_util` as messages show it: "block/conv/kernel".

    Example:
      >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"conv": {"kernel": 1}})
      >>> path_name(path)
      'conv/kernel'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def entry_at(tree: PyTree, path: str) -> PyTree:
    """Return what nested dicts hold at a path, and an empty dict if they lack it.

    Example:
      >>> entry_at({"conv": {"kernel": 1}}, "conv/kernel"), entry_at({}, "conv/kernel")
      (1, {})
    """
    for name in filter(None, path.split("/")):
        tree = tree.get(name, {}) if isinstance(tree, dict) else {}
    return tree


def nested(paths: Iterable[Path]) -> list[Path]:
    """Return paths in their order, but each before the paths below it, which follow it.

    Args:
      paths: Paths of layers, with the paths of all layers around them.

    Example:
      >>> nested([("net", "dense"), ("loss",), ("net",), ("net", "tanh")])
      [('loss',), ('net',), ('net', 'dense'), ('net', 'tanh')]
    """
    place = {path: i for i, path in enumerate(paths)}
    return sorted(place, key=lambda path: [place[path[: i + 1]] for i in range(len(path))])


MOST = 30  # leaves that a message describes one by one


def describe(x: PyTree) -> str:
    """Return shapes and dtypes in words, for messages: "(2, 3) float32".

    Example:
      >>> describe((jn.spec((2, 3)), jn.spec((2,), jnp.int32)))
      '((2, 3) float32, (2,) int32)'
    """

    def words(a):
        if hasattr(a, "shape") and hasattr(a, "dtype"):
            return _Words(f"{tuple(a.shape)} {a.dtype}")
        return _Words(type(a).__name__)

    leaves = jax.tree.leaves(x)
    if len(leaves) > MOST:
        return f"{type(x).__name__} of {len(leaves):,} leaves, the first {words(leaves[0])!r}"
    return str(jax.tree.map(words, x))


def in_words(tree: PyTree) -> dict[str, str]:
    """Return shape and dtype of each leaf in words, by path.

    Example:
      >>> in_words({"conv": {"kernel": jn.spec((3, 2))}})
      {'conv/kernel': '(3, 2) float32'}
    """
    return {path: describe(leaf) for path, leaf in flat(tree)}


def differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> Differences:
    """Return the entries that are missing, differ or are not expected, in this order of the paths.

    Args:
      expected, actual: What is compared, by path, such as shapes or the result of `in_words`.

    Example:
      >>> differences({"a": (2,), "b": (3,)}, {"b": (3,), "c": ()})
      {'a': ((2,), None), 'c': (None, ())}
    """
    differing = {}
    for path in [*expected, *actual]:
        want, have = expected.get(path), actual.get(path)
        if want != have:
            differing[path] = want, have
    return differing


def as_lines(differing: Differences, inside: Path = (), most: int | None = None) -> list[str]:
    """Return differences as lines of a message.

    Args:
      differing: Result of `differences`.
      inside: Names in front of each path.
      most: Number of differences to show; all by default.

    Example:
      >>> as_lines(differences({"a": (2,), "b": (3,)}, {"b": (4,), "c": ()}), inside=("net",))
      ['  net/a: expected (2,), got nothing', '  net/b: expected (3,), got (4,)', ...]
    """
    lines = []
    for path, (want, have) in differing.items():
        got = "nothing" if have is None else have
        words = "unknown entry" if want is None else f"expected {want}, got {got}"
        lines.append("  " + "/".join((*inside, f"{path}: {words}")))
    if most is None or len(lines) <= most:
        return lines
    return [*lines[:most], f"  and {len(lines) - most} more"]


class _Words(str):
    """A string that prints without quotes inside a container."""

    __repr__ = str.__str__


def is_float(array: Any) -> bool:
    """Return whether an array, or what stands for one, is of floats and so can have a gradient.

    Example:
      >>> is_float(jnp.ones(3)), is_float(jnp.arange(3))
      (True, False)
    """
    return hasattr(array, "dtype") and jnp.issubdtype(array.dtype, jnp.inexact)


def floats_of(tree: PyTree) -> PyTree:
    """Return the tree with None for each array that is not of floats and so cannot have a gradient.

    Example:
      >>> floats_of({"int8": jnp.ones(2, jnp.int8), "scale": jnp.float32(0.5)})
      {'int8': None, 'scale': Array(0.5, dtype=float32)}
    """
    return jax.tree.map(lambda a: a if is_float(a) else None, tree)


def with_floats(tree: PyTree, floats: PyTree) -> PyTree:
    """Return the tree with other floats, in the form that `floats_of` returns.

    Example:
      >>> with_floats({"int8": jnp.ones(2, jnp.int8), "scale": 0.5}, {"int8": None, "scale": 2.0})
      {'int8': Array([1, 1], dtype=int8), 'scale': 2.0}
    """

    def leaf(new: Any, old: Any) -> Any:
        return old if new is None else new

    return jax.tree.map(leaf, floats, tree, is_leaf=lambda entry: entry is None)


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


_MISSING = object()


class Memo:
    """A cache that drops its oldest entries when it is full; its copies and pickles are empty.

    It forgets all once a function of the user that it belongs to has other code, as after
    `%autoreload 2`. Threads may share it: it needs no lock, since each operation of a dict is
    atomic.

    Args:
      uses: Functions and layers that its values were made with.
    """

    size = 32

    def __init__(self, uses: Any = None) -> None:
        self.uses = uses
        self._codes = codes_of(uses)
        self._entries: dict[Hashable, Any] = {}

    def of(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the value of a key, made if it is missing.

        Example:
          >>> memo = Memo()
          >>> memo.of("a", lambda: 1), memo.of("a", lambda: 2)
          (1, 1)
        """
        if any(function.__code__ is not code for function, code in self._codes):
            self._entries, self._codes = {}, codes_of(self.uses)
        entries = self._entries
        value = entries.get(key, _MISSING)
        if value is _MISSING:
            value = entries.setdefault(key, make())  # of the thread that was first
            for oldest in list(entries)[: -self.size]:
                entries.pop(oldest, None)
        return value

    def __reduce__(self) -> tuple:
        return Memo, ()


def memo_of(owner: Any) -> Any:
    """Return the cache that belongs to a function, such as a net's `apply`, and lives as long.

    A cache at module level would keep alive all that its entries hold: nets, and their programs.

    Example:
      >>> def apply(params): ...
      >>> memo_of(apply) is memo_of(apply)
      True
    """
    held = getattr(owner, "__dict__", None)
    if not isinstance(held, dict) or inspect.ismethod(owner):  # a method's are its function's
        return SimpleNamespace(of=lambda key, make: _OTHERS.of((owner, key), make))
    memo = held.get("_jaxnet_memo")
    if memo is None or memo.uses is not owner:  # wraps and pickles copy what a function holds
        memo = held["_jaxnet_memo"] = Memo(owner)
    return memo


_OTHERS = Memo()


def compiled_for(**options: Any) -> Callable:
    """Compile a function of a net for each net; its programs are dropped together with the net.

    Args:
      options: Options of `jax.jit`, for the arguments after the net.

    Example:
      >>> @compiled_for()
      ... def run(net, params, x):
      ...     return net.apply(params, {}, x)[0]
      >>> run(jn.dense(1), {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1)}, jnp.ones((1, 2)))
      Array([[3.]], dtype=float32)
    """

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def run(net: Any, *args: Any) -> Any:
            def make() -> Callable:
                return jax.jit(functools.partial(function, net), **options)

            compiled = memo_of(net.apply).of((function, net), make)
            return compiled(*args)

        return run

    return decorate


def among(chosen: Iterable[bool], leaves: Iterable[Any]) -> list[Any]:
    """Return the leaves that are chosen.

    Example:
      >>> among([True, False, True], "abc"), without([True, False, True], "abc")
      (['a', 'c'], ['b'])
    """
    return [leaf for leaf, is_chosen in zip(leaves, chosen, strict=True) if is_chosen]


def without(chosen: Iterable[bool], leaves: Iterable[Any]) -> list[Any]:
    """Return the leaves that are not chosen."""
    return [leaf for leaf, is_chosen in zip(leaves, chosen, strict=True) if not is_chosen]


def joined(chosen: Iterable[bool], some: Iterable[Any], others: Iterable[Any]) -> list[Any]:
    """Return all leaves in their order from the chosen ones and the others.

    Example:
      >>> joined([True, False, True], "ac", "b")
      ['a', 'b', 'c']
    """
    some, others = iter(some), iter(others)
    return [next(some if is_chosen else others) for is_chosen in chosen]


def with_entries(tree: PyTree, entries: dict[str, Any]) -> PyTree:
    """Return a tree with other values at some paths.

    Example:
      >>> with_entries({"gru": {"h": 1}, "norm": {"mean": 2}}, {"gru/h": 3})
      {'gru': {'h': 3}, 'norm': {'mean': 2}}
    """
    leaves = [entries.get(path, leaf) for path, leaf in flat(tree, None)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
