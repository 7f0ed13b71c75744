"""Error messages: which layer, which input, what was expected and what came."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
Path = tuple[str, ...]

SOWN = "sown/"  # begins the names of sown values in the state that comes back

# Whether the code runs inside the call of a layer. Only names of operations depend on it.
_in_layer: ContextVar[bool] = ContextVar("in_layer", default=False)


def mismatch(path: Path, head: str, lines: list[tuple[str, str]]) -> ValueError:
    """An error about params or state that do not fit a layer, at the path known so far.

    A layer knows its own name only; the layers around it write the text again with their path in
    front (see `located`).

    Args:
      path: of the layer.
      head: the first line, with `{here}` for the path.
      lines: (path below the layer, what is wrong).
    """
    error = ValueError(_text(path, head, lines))
    error._jaxnet_mismatch = head, lines  # type: ignore[attr-defined]
    return error


def _text(path: Path, head: str, lines: list[tuple[str, str]]) -> str:
    here = "/".join(path)
    return "\n".join([head.replace("{here}", here), *(f"  {here}/{n}: {w}" for n, w in lines)])


def compare(path: Path, needed: tuple, given: tuple, x: PyTree) -> None:
    """Raises unless params and state have the paths and shapes of those needed.

    Dtypes may differ (see `cast`).

    Args:
      path: of the layer.
      needed, given: (params, state).
      x: the input, for the message.
    """
    for kind, needs, tree in zip(("params", "state"), needed, given, strict=True):
        leaves, structure = jax.tree.flatten(needs)
        others, other = jax.tree.flatten(tree)
        shapes = [leaf.shape for leaf in leaves]
        if structure == other and shapes == [np.shape(leaf) for leaf in others]:
            continue
        check_dict(kind, path, tree)
        want, have = ({n: np.shape(a) for n, a in flat(t)} for t in (needs, tree))
        wrong = {name: shape for name, shape in want.items() if have.get(name) != shape}
        lines = [(n, f"expected {s}, got {have.get(n, 'nothing')}") for n, s in wrong.items()]
        lines += [(name, "unknown entry") for name in have if name not in want]
        error = mismatch(path, f"{kind} do not fit {{here}} for an input of {describe(x)}:", lines)
        # A missing batch axis leaves `conv` a rank short, and has `flatten` keep the first axis.
        sizes = getattr(x, "shape", ())
        known = all(isinstance(size, int) for size in sizes)  # an exported batch size is open
        flattened = (math.prod(sizes),) if known else None
        got = {name: have.get(name, ()) for name in wrong}
        if any(len(got[n]) == len(s) + 1 or got[n][:1] == flattened for n, s in wrong.items()):
            error.add_note("Is the batch axis missing? For a single example, pass x[None].")
        raise error


def flat(tree: PyTree) -> list[tuple[str, Any]]:
    return [(path_name(p), leaf) for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def path_name(path: Any) -> str:
    """A path of `jax.tree_util` as messages show it: "block/conv/kernel".

    Example:
      >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"conv": {"kernel": 1}})
      >>> path_name(path)
      'conv/kernel'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_dict(kind: str, path: Path, tree: PyTree) -> None:
    """Raises unless params or state are a dict."""
    if not isinstance(tree, dict):
        raise TypeError(
            f"{'/'.join(path)}: {kind} must be the dict that init returns, got "
            f"{type(tree).__name__}; write params, state = net.init(key, x), "
            "then net.apply(params, state, x)"
        )


class Forgotten:
    """In place of an argument that was not given."""

    def __repr__(self) -> str:
        return "<required>"


FORGOTTEN: Any = Forgotten()


def check_given(x: PyTree, who: str) -> None:
    """Raises where `apply` got two arguments: params and x, without the state."""
    if x is FORGOTTEN:
        raise TypeError(
            f"{who}: apply needs params, state and x; write y, state = net.apply(params, state, x)"
        )


def check_kept(before: PyTree, after: PyTree, who: str) -> None:
    """Raises unless the state that comes back has the structure, shapes and dtypes of the other.

    Args:
      before, after: shapes and dtypes of the states.
      who: the layer.

    Example:
      >>> check_kept({"max": jn.spec(())}, {"max": jn.spec((8,))}, "running_max")
      Traceback (most recent call last):
      ...
      ValueError: running_max: apply must keep shapes and dtypes of the state; max: expected ...
    """
    if before == after:
        return
    if jax.tree.structure(after) != jax.tree.structure(before):
        got = f"{jax.tree.structure(before)}, got {jax.tree.structure(after)}"
        raise ValueError(f"{who}: apply must keep the structure of the state, {got}")
    pairs = zip(flat(before), jax.tree.leaves(after), strict=True)
    name, old, new = next((name, old, new) for (name, old), new in pairs if old != new)
    raise ValueError(
        f"{who}: apply must keep shapes and dtypes of the state; {name}: expected "
        f"{describe(old)}, got {describe(new)}"
    )


def check_pair(result: Any, rule: str) -> None:
    """Raises unless a function returned two things."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"{rule}, got {type(result).__name__}")


def check_drawn(drawn: tuple, who: str) -> None:
    """Raises unless params and state, as init returned them, are dicts of arrays."""
    for kind, tree in zip(("params", "state"), drawn, strict=True):
        if not isinstance(tree, dict):
            raise TypeError(f"{who}: init must return {kind} as a dict, got {type(tree).__name__}")
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: leaf is None)
        for path, leaf in leaves:
            if not hasattr(leaf, "dtype"):
                raise TypeError(
                    f"{who}: {kind}/{path_name(path)} must be an array, got {type(leaf).__name__}; "
                    "is that what its initializer returns?"
                )


def a_function(who: str, what: str, value: Any, form: str) -> None:
    """Raises unless a value can be called.

    Args:
      who: the function.
      what: the argument.
      value: what was passed.
      form: how it will be called, such as "(outputs, targets)".

    Example:
      >>> a_function("masked", "loss", 3, "(outputs, targets)")
      Traceback (most recent call last):
      ...
      TypeError: masked: loss must be a function of (outputs, targets), got int
    """
    if not callable(value):
        raise TypeError(f"{who}: {what} must be a function of {form}, got {type(value).__name__}")


def check_key(key: Any, who: str) -> None:
    """Raises unless this is a single random key."""
    array = isinstance(key, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
    typed = array and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = array and key.dtype == jnp.uint32 and len(key.shape) == 1
    if typed and key.shape == ():
        return
    if raw and key.shape == jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape:
        return
    got = type(key).__name__
    if array:
        got = f"an array {key.shape} {key.dtype}"
    if typed:
        got = f"keys of shape {key.shape}; use jax.vmap over them"
    raise TypeError(f"{who}: expected a single key, such as jax.random.key(0), got {got}")


def check_name(who: str, name: Any) -> str:
    """The name; raises unless it can be that of an entry of params."""
    if not isinstance(name, str):
        raise TypeError(f"{who}: name must be a word without '/', got {name!r:.60}")
    if not name or "/" in name:
        raise ValueError(f"{who}: name must be a word without '/', got {name!r:.60}")
    return name


def check_shape(what: str, shape: Any) -> None:
    """Raises unless this is a shape: sizes of at least 0."""
    whole = isinstance(shape, tuple | list) and all(map(_is_size, shape))
    if not whole:
        raise TypeError(f"{what} must be a tuple of integers, got {shape!r:.60}")
    if any(size < 0 for size in shape):
        raise ValueError(f"{what} must be a tuple of integers of at least 0, got {shape!r:.60}")


def _is_size(size: Any) -> bool:
    if isinstance(size, bool | np.ndarray):
        return False
    return hasattr(size, "__index__") or hasattr(size, "__jax_array__")  # the latter is symbolic


def check_dtype(who: str, dtype: Any) -> None:
    """Raises unless JAX has this dtype."""
    try:
        known = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    except TypeError:
        known = np.dtype(object)
    if dtype is None or not _has_numbers(known):
        raise TypeError(f"{who}: dtype must be one of JAX, such as jnp.float32, got {dtype!r:.60}")


def _has_numbers(dtype: Any) -> bool:
    """Whether arrays of this dtype can hold the input of a layer: numbers, booleans or keys."""
    if any(jnp.issubdtype(dtype, kind) for kind in (np.bool_, jax.dtypes.extended)):
        return True
    widest = 16 if jnp.issubdtype(dtype, np.complexfloating) else 8  # JAX has no long doubles
    return jnp.issubdtype(dtype, np.number) and dtype.itemsize <= widest


def check_train(train: Any, who: str) -> None:
    """Raises unless the mode is a boolean."""
    if not isinstance(train, bool | np.bool_):
        raise TypeError(f"{who}: train must be True or False, got {train!r:.60}")


def abstract(x: PyTree, who: str) -> PyTree:
    """Shapes and dtypes in place of data."""

    def leaf(value):
        if not (hasattr(value, "shape") and hasattr(value, "dtype")):
            shape = isinstance(x, tuple | list) and all(isinstance(n, int) for n in x)
            raise TypeError(
                f"{who}: the input must be an array, jn.spec(shape) or a pytree of them, "
                f"got {type(value).__name__} in it; for a shape write "
                f"jn.spec({tuple(x) if shape else (32, 784)})"
            )
        if type(value).__module__ == "torch":
            raise TypeError(
                f"{who}: the input must be a JAX or NumPy array, got a torch.Tensor; pass x.numpy()"
            )
        check_numbers(who, "the input", value)
        if jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return jax.ShapeDtypeStruct(value.shape, value.dtype)
        dtype = jax.dtypes.canonicalize_dtype(value.dtype).newbyteorder("=")
        return jax.ShapeDtypeStruct(value.shape, dtype)

    return jax.tree.map(leaf, x)


def check_numbers(who: str, what: str, value: Any) -> None:
    """Raises unless an array or spec holds numbers, booleans or keys, all of which count."""
    if not _has_numbers(value.dtype):
        raise TypeError(
            f"{who}: {what} must hold numbers that JAX has, got dtype {value.dtype}; for labels "
            "that are words, write names, labels = np.unique(words, return_inverse=True)"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{who}: {what} must be a plain array, got a masked one, whose mask would be lost; "
            "pass x.data, and x.mask beside it"
        )


def native(who: str, what: str, value: np.ndarray) -> np.ndarray:
    """A host array in the dtype that JAX gives it, in native byte order; no integer wraps.

    Raises:
      TypeError: for no numbers, and masked arrays.
      ValueError: for integers that the device's dtype cannot hold.
    """
    check_numbers(who, what, value)
    kept = jax.dtypes.canonicalize_dtype(value.dtype).newbyteorder("=")
    if value.dtype.kind in "iu" and kept.itemsize < value.dtype.itemsize and value.size:
        bounds = np.iinfo(kept)
        for extreme in (value.max(), value.min()):
            if not bounds.min <= extreme <= bounds.max:
                raise ValueError(
                    f"{who}: {what} hold {extreme}, which {kept} cannot hold; JAX has 32 bits "
                    "unless jax.enable_x64 is set"
                )
    return value.astype(kept, copy=False)


def all_native(x: PyTree, who: str) -> PyTree:
    """The same tree with its host arrays as `native` gives them."""
    if not any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(x)):
        return x
    each = lambda a: native(who, "the input", a) if isinstance(a, np.ndarray) else a  # noqa: E731
    return jax.tree.map(each, x)


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
    """Adds a note to any exception: the layer's path and its input.

    The innermost layer writes the note. It knows only its own name; the layers around it replace
    that name by the path that leads to it.
    """
    try:
        yield
    except Exception as error:
        inner: Path | None = getattr(error, "_jaxnet_path", None)
        if inner is None:
            error._jaxnet_path = path  # type: ignore[attr-defined]
            error.add_note(f"in {'/'.join(path)}, input {describe(x)}")
        elif inner[: len(path)] != path:
            error._jaxnet_path = whole = (*path, *inner[1:])  # type: ignore[attr-defined]
            old = f"in {'/'.join(inner)},"
            notes = error.__notes__
            place = next(i for i, note in enumerate(notes) if note.startswith(old))
            notes[place] = notes[place].replace(old, f"in {'/'.join(whole)},", 1)
        if parts := getattr(error, "_jaxnet_mismatch", None):
            error.args = (_text(error._jaxnet_path, *parts),)  # type: ignore[attr-defined]
        raise


class Scoped:
    """Names the operations of a layer's `apply` in compiled programs and profiles.

    Inside another layer the name does not count, as in the notes of `located`: a parent has named
    its child already, perhaps "dense_1".

    Args:
      name: of the layer.

    Example:
      >>> def double(x):
      ...     with Scoped("net"), jax.named_scope("dense_1"), Scoped("dense"):
      ...         return 2 * x
      >>> "net/dense_1/mul" in jax.jit(double).lower(1.0).compile().as_text()
      True
    """

    __slots__ = ("_name", "_scope", "_token")

    def __init__(self, name: str):
        self._name, self._scope = name, None

    def __enter__(self) -> None:
        if not _in_layer.get():
            self._token = _in_layer.set(True)
            self._scope: Any = jax.named_scope(self._name)
            self._scope.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._scope is not None:
            self._scope.__exit__(*error)
            _in_layer.reset(self._token)
