"""Messages: what does not fit, in which layer, on what input."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
Path = tuple[str, ...]


def compare(
    kind: str, path: Path, needed: PyTree, given: PyTree, x: PyTree, beside: list[str] | None = None
) -> None:
    """Raises unless `given` has the paths and shapes of `needed`; dtypes may differ (see cast)."""
    needed_leaves, needed_tree = jax.tree.flatten(needed)
    given_leaves, given_tree = jax.tree.flatten(given)
    shapes = [leaf.shape for leaf in needed_leaves]
    if needed_tree == given_tree and shapes == [jnp.shape(leaf) for leaf in given_leaves]:
        return
    check_dict(kind, path, given)
    want = {"/".join((*path, *p)): leaf.shape for p, leaf in _flat(needed)}
    have = {"/".join((*path, *p)): jnp.shape(leaf) for p, leaf in _flat(given)}
    wrong = [
        f"  {name}: needs {shape}, " + (f"got {have[name]}" if name in have else "is missing")
        for name, shape in want.items()
        if have.get(name) != shape
    ]
    wrong += [f"  {name}: is not known" for name in have if name not in want]
    if any(len(have.get(name, ())) == len(shape) + 1 for name, shape in want.items()):
        wrong += ["  has the input its batch axis? a single example is x[None]"]
    if beside:
        wrong += [f"  given in its place: {', '.join('/'.join((*path[:-1], n)) for n in beside)}"]
    raise ValueError(
        f"{kind} do not fit {'/'.join(path)} for an input of {describe(x)}:\n" + "\n".join(wrong)
    )


def _flat(tree: PyTree) -> list[tuple[Path, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [
        (tuple(jax.tree_util.keystr((k,), simple=True) for k in path), leaf)
        for path, leaf in leaves
    ]


def path_name(path: Any) -> str:
    """A path of `jax.tree_util` as it stands in messages: "block/conv/kernel".

    Example:
      >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"conv": {"kernel": 1}})
      >>> path_name(path)
      'conv/kernel'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_dict(kind: str, path: Path, tree: PyTree) -> None:
    if not isinstance(tree, dict):
        raise TypeError(
            f"{'/'.join(path)}: {kind} must be the dict that init gives, "
            f"got {type(tree).__name__}; write params, state = net.init(key, x), "
            "then net.apply(params, state, x)"
        )


def check_key(key: Any, who: str) -> None:
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = hasattr(key, "dtype") and key.dtype == jnp.uint32 and len(key.shape) == 1
    if raw or (typed and key.shape == ()):
        return
    got = f"keys of shape {key.shape}; jax.vmap over them" if typed else f"{type(key).__name__}"
    raise TypeError(f"{who}: key must be one key, such as jax.random.key(0), got {got}")


def abstract(x: PyTree, who: str) -> PyTree:
    """Shapes and dtypes in place of data."""

    def leaf(value):
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            raise TypeError(
                f"{who}: the input must be an array, jn.spec(shape) or a pytree of them, "
                f"got {type(value).__name__} in it; for a shape write jn.spec((32, 784))"
            )
        if type(value).__module__ == "torch":
            raise TypeError(f"{who}: the input must be an array, got a torch.Tensor: x.numpy()")
        if jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return jax.ShapeDtypeStruct(value.shape, value.dtype)
        return jax.ShapeDtypeStruct(value.shape, jax.dtypes.canonicalize_dtype(value.dtype))

    return jax.tree.map(leaf, x)


def describe(x: PyTree) -> str:
    """Shapes and dtypes in words, for messages: "(2, 3) float32".

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


@contextmanager
def located(path: Path, x: PyTree) -> Iterator[None]:
    """Notes on any exception in which layer it arose, and on what input.

    The innermost layer writes the note. A transform runs a layer that does not know its parents:
    the layer around it then puts its own path in front.
    """
    try:
        yield
    except Exception as error:
        inner: Path | None = getattr(error, "_jaxnet_path", None)
        notes = getattr(error, "__notes__", [])
        if inner is None:
            error._jaxnet_path = path  # type: ignore[attr-defined]
            error.add_note(f"in {'/'.join(path)}, input {describe(x)}")
        elif inner[: len(path)] != path:
            error._jaxnet_path = whole = (*path, *inner[1:])  # type: ignore[attr-defined]
            place = next(
                i for i, note in enumerate(notes) if note.startswith(f"in {'/'.join(inner)},")
            )
            notes[place] = notes[place].replace("/".join(inner), "/".join(whole), 1)
        raise
