"""Calls of layers: their path in every error, their name in compiled programs.

A `call` knows its whole path when it begins, since calls nest as layers do. So an error is written
once, by the innermost call.
"""

import math
import re
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np

from jaxnet.services import trees
from jaxnet.services.checks import explain_spent
from jaxnet.services.nodes import is_stored
from jaxnet.services.trees import Differences, Path, PyTree

_path: ContextVar[Path] = ContextVar("path", default=())


def calls() -> Path:
    """Return the names of the layers whose calls are running, outermost first."""
    return _path.get()


def current_path() -> str:
    """Return the path of the layer that is called now, such as "net/block/conv"."""
    return "/".join(_path.get())


class call:  # noqa: N801
    """A call of a layer as a context: names its operations, and notes its path in what is raised.

    Only the outermost call and calls of children add a name: a parent may have given its child
    another one, such as "dense_1", and the layer inside a transform has the name of the transform.

    Args:
      name: Name of the layer.
      x: Input of the layer, for the note.
      child: Whether a parent calls it, by `m(layer, x)`.

    Example:
      >>> def double(x):
      ...     with call("net", x), call("dense_1", x, child=True), call("dense", x):
      ...         return 2 * x
      >>> "net/dense_1/mul" in jax.jit(double).lower(1.0).compile().as_text()
      True
    """

    __slots__ = ("_name", "_x", "_child", "_scope", "_token")

    def __init__(self, name: str, x: PyTree, child: bool = False):
        self._name, self._x, self._child, self._scope = name, x, child, None

    def __enter__(self) -> None:
        above = _path.get()
        if self._child or not above:
            self._token = _path.set((*above, self._name))
            self._scope: Any = jax.named_scope(self._name)
            self._scope.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, Exception) and not hasattr(error, "_jaxnet_noted"):
            error._jaxnet_noted = True  # type: ignore[attr-defined]
            error.add_note(f"in {current_path()}, input {trees.describe(self._x)}")
            explain_spent(error)
        if self._scope is not None:
            self._scope.__exit__(kind, error, trace)
            _path.reset(self._token)


class Misfit(ValueError):
    """Params or state that do not fit the called layer.

    Fields:
      path: Names of the layers from the outermost one to this one.

    Example:
      >>> net = jn.serial(jn.dense(4))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> try:
      ...     net.apply(params, state, jnp.ones((2, 5)))
      ... except jn.Misfit as error:
      ...     print(error.path)
      ('serial', 'dense')
    """

    __module__ = "jaxnet"  # shown as `jn.Misfit`, even in a traceback

    def __init__(self, head: str, found: Differences):
        self.path = _path.get()
        super().__init__("\n".join([head, *trees.as_lines(found, self.path)]))


def compare(kind: str, needed: dict[str, Any], entries: dict[str, Any], x: PyTree) -> None:
    """Raise unless params or state have the needed paths and shapes.

    Dtypes may differ (see `cast`).

    Args:
      kind: "params" or "state".
      needed, entries: Trees to compare.
      x: Input of the layer, for the message.

    Raises:
      Misfit: If they differ; the message lists all differences.
    """
    leaves, structure = jax.tree.flatten(needed)
    others, other = jax.tree.flatten(entries, is_stored)
    if structure == other and [leaf.shape for leaf in leaves] == [np.shape(a) for a in others]:
        return
    want = {name: np.shape(leaf) for name, leaf in trees.flat(needed)}
    have = {name: np.shape(leaf) for name, leaf in trees.flat(entries)}
    differences = trees.differences(want, have)
    where = current_path() or "the net"
    verb = "does" if kind == "state" else "do"
    error = Misfit(
        f"{kind} {verb} not fit {where} for an input of {trees.describe(x)}:", differences
    )
    misfits = {name: shape for name, (shape, _) in differences.items() if shape is not None}
    hint = _why(misfits, {name: have.get(name, ()) for name in misfits}, x)
    if hint:
        error.add_note(hint)
    raise error


def _why(want: dict[str, tuple[int, ...]], got: dict[str, tuple[int, ...]], x: PyTree) -> str:
    """Return a hint at the probable reason why shapes differ; "" if there is none."""
    # A sequence with lengths is (x, lengths) or {"x": x, ...}.
    main_input = x
    if isinstance(x, tuple | list) and x:
        main_input = x[0]
    elif isinstance(x, dict):
        main_input = x.get("x")
    sizes = getattr(main_input, "shape", ())
    has_static_sizes = all(
        isinstance(size, int) for size in sizes
    )  # the batch size is symbolic in an export
    flattened = (math.prod(sizes),) if has_static_sizes and sizes else None
    # Without a batch axis, the input of `conv` lacks an axis, and `flatten` keeps the wrong axis.
    for name, shape in want.items():
        if len(got[name]) == len(shape) + 1 or got[name][:1] == flattened:
            return "Is the batch axis missing? For a single example, pass x[None]."
    return _other_features(want, got, sizes)


def _other_features(
    want: dict[str, tuple[int, ...]], got: dict[str, tuple[int, ...]], sizes: tuple[Any, ...]
) -> str:
    """Return a hint if the only misfit is a kernel for another number of input features."""
    if len(want) != 1:
        return ""
    shape, old = want.get("kernel", ()), got.get("kernel", ())
    if len(shape) != len(old) or len(shape) < 2:
        return ""
    features = sizes[-1] if sizes else None
    is_static = isinstance(features, int)  # the size is symbolic in an export
    only_inputs_differ = shape[:-2] == old[:-2] and shape[-2] != old[-2] and shape[-1] == old[-1]
    if not only_inputs_differ or not is_static or not shape[-2]:
        return ""
    # With groups, a kernel has fewer input features than the input.
    trained = old[-2] * features // shape[-2]
    return (
        f"The params expect {trained:,} input features, but this input has {features:,}. Did the "
        "image size or the number of channels change since init, or is the batch axis missing?"
    )


def moved_names(needed: dict[str, Any], params: dict[str, Any]) -> str:
    """Return a hint if params stand under the name that another layer has by default now.

    Args:
      needed, params: Params of a layer, with those of the layers that it calls.

    Example:
      >>> old, new = ({"kernel": jn.spec((3, width))} for width in (4, 2))
      >>> moved_names({"dense": new, "dense_1": old}, {"dense": old})[:40]
      'dense_1 has the shapes of the old dense:'
    """

    def shapes(tree: Any) -> Any:
        return {path: np.shape(leaf) for path, leaf in trees.flat(tree)}

    for name, tree in needed.items():
        base, wanted = re.sub(r"_\d+$", "", name), shapes(tree)
        if name in params and shapes(params[name]) == wanted:
            continue
        family = [old for old in params if re.fullmatch(rf"{re.escape(base)}(_\d+)?", old)]
        for old in family:
            if old != name and shapes(params[old]) == wanted:
                return (
                    f"{name} has the shapes of the old {old}: default names are counted, so a "
                    "layer that is added or left out changes those behind it. Give the layers "
                    f"names of their own, such as name='first_{base}'"
                )
    return ""


def check_state_form(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise unless the returned state has the structure, shapes and dtypes of the given state.

    Args:
      before, after: Shapes and dtypes of the given and the returned state.

    Example:
      >>> try:
      ...     with call("running_max", None):
      ...         check_state_form({"max": jn.spec(())}, {"max": jn.spec((8,))})
      ... except ValueError as error:
      ...     print(error)
      running_max: apply must keep the entries, shapes and dtypes of the state; max: ...
    """
    if before == after:
        return
    differences = trees.differences(trees.in_words(before), trees.in_words(after))
    message = f"{current_path()}: apply must keep the entries, shapes and dtypes of the state"
    for line in trees.as_lines(differences)[:1]:
        message += f"; {line.strip()}"
    raise ValueError(message)


def drawn(pair: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (params, state) as an init returned them; raise unless they are dicts of arrays."""
    check_pair(pair, "init must return (params, state)")
    for kind, tree in zip(("params", "state"), pair, strict=True):
        if not isinstance(tree, dict):
            got = type(tree).__name__
            raise TypeError(f"{current_path()}: init must return {kind} as a dict, got {got}")
        for path, leaf in trees.flat(tree, is_leaf=lambda leaf: leaf is None):
            if not hasattr(leaf, "dtype"):
                raise TypeError(
                    f"{current_path()}: {kind}/{path} must be an array, got {type(leaf).__name__}; "
                    "is that what its initializer returns?"
                )
    return pair


def check_pair(result: Any, rule: str) -> None:
    """Raise unless a function returned two things."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"{current_path()}: {rule}, got {type(result).__name__}")
