"""The contract: a layer is a pair of pure functions, with its structure as data.

    layer = dense(10)
    params, state = layer.init(jax.random.key(0), spec((32, 784)))
    y, state = layer.apply(params, state, x)

Parameters and state are nested dicts of arrays, keyed by the names of the layers. A path such as
"resnet/block_3/conv" names a layer in messages, and the same words index its entries.
"""

import inspect
import zlib
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core.messages import (
    FORGOTTEN,
    SOWN,
    PyTree,
    Scoped,
    a_function,
    abstract,
    all_native,
    check_dict,
    check_drawn,
    check_dtype,
    check_given,
    check_kept,
    check_key,
    check_name,
    check_pair,
    check_shape,
    check_train,
    compare,
    located,
)
from jaxnet.markup import html_line

Params = dict[str, Any]
State = dict[str, Any]
InitFn = Callable[[jax.Array, PyTree], tuple[Params, State]]  # only shapes and dtypes of x count
ApplyFn = Callable[..., tuple[PyTree, State]]  # (params, state, x, *, key=None, train=False)
INIT, APPLY = "(key, x)", "(params, state, x, *, key=None, train=False)"


class _Fields(NamedTuple):
    init: InitFn
    apply: ApplyFn
    name: str
    kind: str
    inside: Any


class Layer(_Fields):
    """A pair of pure functions, a name, and the structure of the layer as data.

    A leaf (`inside=None`) checks itself: `init` gets shapes in place of data and a valid key;
    `apply` compares params and state with what `init` returns for this input, and the state that
    comes back with the state that went in; any exception carries a note with the layer's path and
    input shape. Under `jit` all of this happens while tracing and costs nothing later.

    Fields:
      init: `(key, x) -> (params, state)`. `x` is an array, a `jax.ShapeDtypeStruct` (see `spec`)
        or a pytree of either, batch axis first.
      apply: `(params, state, x, *, key=None, train=False) -> (y, state)`. The state that comes
        back has the structure, shapes and dtypes of the state that went in.
      name: the layer's entry inside a parent, such as "c5".
      kind: what made the layer, such as "dense"; the name by default.
      inside: None for a leaf; the `forward(m, x)` of a composed layer; `(inner, rewrap)` for a
        transform, where `rewrap(layer)` is the same transform of another layer.

    Example:
      A layer that counts how often it was applied in training:

      >>> def init(key, x):
      ...     return {}, {"count": jnp.zeros((), jnp.int32)}
      >>> def apply(params, state, x, *, key=None, train=False):
      ...     return x, {"count": state["count"] + train}
      >>> counter = Layer(init, apply, "counter")
      >>> params, state = counter.init(jax.random.key(0), spec((2, 3)))
      >>> y, state = counter.apply(params, state, jnp.ones((2, 3)), train=True)
      >>> int(state["count"])
      1
    """

    __slots__ = ()

    def __new__(
        cls, init: InitFn, apply: ApplyFn, name: str, kind: str = "", inside: Any = None
    ) -> "Layer":
        if not isinstance(kind, str):
            raise TypeError(f"Layer: kind must be a word, got {kind!r:.60}")
        who = kind or "Layer"
        check_name(who, name)
        for what, form, function in (("init", INIT, init), ("apply", APPLY, apply)):
            a_function(who, what, function, form)
        if inside is None:
            init, apply = _checked(init, apply, name)
        elif isinstance(inside, tuple):
            apply = _named(apply, name)
        return super().__new__(cls, init, apply, name, kind or name, inside)

    def _replace(self, **changes: Any) -> "Layer":  # type: ignore[override]
        """A copy with other fields; with another init or apply it is a leaf."""
        fields: Any = self._asdict() | changes
        if {"init", "apply"} & changes.keys() and "inside" not in changes:
            return Layer(**fields | {"inside": None})
        return self._make(fields.values())

    def __repr__(self) -> str:
        return f"Layer({self.name!r}, kind={self.kind!r})"

    def _repr_html_(self) -> str:
        return html_line(repr(self))


class Memo(dict[Any, Any]):
    """A dict that drops its oldest entry when it is full, so that a cache stays bounded."""

    size = 32

    def __setitem__(self, key: Hashable, value: Any) -> None:
        if len(self) >= self.size and key not in self:
            del self[next(iter(self))]
        super().__setitem__(key, value)


def signature(x: PyTree) -> Hashable:
    """Structure, shapes and dtypes, to key a cache."""
    leaves, structure = jax.tree.flatten(x)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _checked(init: InitFn, apply: ApplyFn, name: str) -> tuple[InitFn, ApplyFn]:
    """The two functions of a leaf with their checks."""
    expected = Memo()  # shapes of (params, state), noted whenever init has run

    def checked_init(key, x):
        x = abstract(x, name)
        check_key(key, name)
        with located((name,), x):
            drawn = init(key, x)
            check_pair(drawn, f"{name}: init must return (params, state)")
            check_drawn(drawn, name)
            expected[signature(x)] = shapes_of(drawn)
            return drawn

    def checked_apply(params, state, x=FORGOTTEN, *, key=None, train=False):
        check_given(x, name)
        if key is not None:
            check_key(key, name)
        check_train(train, name)
        with located((name,), x), Scoped(name):
            shape = abstract(x, name)
            params, state, x = all_native((params, state, x), name)
            check_dict("state", (name,), state)
            if (memo := signature(shape)) not in expected:
                jax.eval_shape(lambda key: checked_init(key, shape), key_spec())
            compare((name,), expected[memo], (params, state), shape)
            result = apply(params, state, x, key=key, train=train)
            check_pair(result, f"{name}: apply must return (y, state)")
            kept = {n: tree for n, tree in result[1].items() if not n.startswith(SOWN)}
            check_kept(shapes_of(state), shapes_of(kept), name)
            return result

    return checked_init, checked_apply


def _named(apply: ApplyFn, name: str) -> ApplyFn:
    """The apply of a transform, whose own operations have the layer's name too."""

    def named_apply(params, state, x=FORGOTTEN, *, key=None, train=False):
        check_given(x, name)
        with Scoped(name):
            params, state, x = all_native((params, state, x), name)
            return apply(params, state, x, key=key, train=train)

    return named_apply


def shapes_of(tree: PyTree) -> PyTree:
    """Shapes and dtypes in place of arrays."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), tree)


def key_spec() -> jax.ShapeDtypeStruct:
    """The shape and dtype of a random key."""
    return jax.eval_shape(lambda: jax.random.key(0))


def spec(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """A shape and a dtype in place of data, for `init`.

    Args:
      shape: the whole shape, batch axis first.
      dtype: of the data, float32 by default.

    Raises:
      TypeError: for anything else.

    Example:
      >>> spec((32, 28, 28, 1)).shape
      (32, 28, 28, 1)
    """
    check_shape("spec: the shape", shape)
    check_dtype("spec", dtype)
    return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(dtype))


def child_key(key: jax.Array, name: str) -> jax.Array:
    """The random key of the child called `name`: `fold_in(key, crc32(name))`.

    A key depends on the names above it and on nothing else, so inserting a layer changes no other
    layer's values. A layer that draws several parameters uses it for them too.

    Example:
      >>> a, b = child_key(jax.random.key(0), "a"), child_key(jax.random.key(0), "b")
      >>> bool((jax.random.key_data(a) != jax.random.key_data(b)).any())
      True
    """
    check_key(key, "child_key")
    if not isinstance(name, str):
        raise TypeError(f"child_key: name must be a word, got {name!r:.60}")
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def param_dtype(x: PyTree) -> Any:
    """The dtype of parameters for this input: float64 or complex as in x, else float32.

    Narrow floats (bfloat16) and integers (pixels, tokens) get float32 parameters.

    Example:
      >>> param_dtype(spec((2, 3), jnp.uint8))
      dtype('float32')
    """
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.result_type(jnp.float32, *dtypes)


def stateless(
    init: Callable[[jax.Array, Any], Params],
    apply: Callable[[Params, Any], PyTree],
    name: str = "stateless",
    *,
    kind: str = "",
) -> Layer:
    """A layer from `init(key, x) -> params` and `apply(params, x) -> y`.

    Args:
      init: draws the parameters; `x` holds shapes and dtypes, no data.
      apply: the layer's function.
      name: its entry inside a parent.
      kind: what made it; the name by default.

    Raises:
      ValueError: at `apply`, for params that are missing, unknown or of the wrong shape.

    Example:
      >>> def init(key, x):
      ...     return {"scale": jnp.ones(x.shape[-1])}
      >>> layer = stateless(init, lambda params, x: x * params["scale"], name="scale")
      >>> params, state = layer.init(jax.random.key(0), spec((2, 3)))
      >>> params["scale"].shape, state
      ((3,), {})
    """
    a_function(name, "init", init, "(key, x)")
    a_function(name, "apply", apply, "(params, x)")

    def stateless_init(key, x):
        return init(key, x), {}

    def stateless_apply(params, state, x, *, key=None, train=False):
        return apply(params, x), state

    return Layer(stateless_init, stateless_apply, name, kind)


def as_layer(layer: Layer | Callable[..., Any], who: str = "as_layer") -> Layer:
    """The layer itself, or a layer without parameters from a plain function.

    Args:
      layer: a layer or a function of an array.
      who: named in the error.

    Raises:
      TypeError: for anything else, and when applied, for a function that makes layers, such as
        `flatten` without its parentheses.

    Example:
      >>> as_layer(jnp.tanh)
      Layer('tanh', kind='function')
    """
    if isinstance(layer, Layer):
        return layer
    if not callable(layer):
        raise TypeError(
            f"{who}: expected a layer or a function, got {type(layer).__name__}; "
            "pass several layers one by one, as in serial(a, b, c)"
        )
    name = function_name(layer)
    uncalled = f"got the function `{name}`, not a layer; did you forget to call it: {name}()?"

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        try:
            y = layer(x)
        except Exception as error:
            if _makes_layers(layer):
                raise TypeError(uncalled) from error
            if not takes(layer, 1):
                raise TypeError(f"{name}: must be a function of one argument, x") from error
            raise
        if isinstance(y, Layer):
            raise TypeError(uncalled)
        return y, state

    return Layer._make((init, apply, name, "function", None))


def _makes_layers(function: Callable) -> bool:
    try:
        return inspect.signature(function).return_annotation in (Layer, "Layer")
    except (TypeError, ValueError):  # a builtin without a signature
        return False


def takes(function: Callable, count: int) -> bool:
    """Return whether a function can be called with a number of arguments.

    Args:
      function: A function; a builtin without a signature counts as one that can.
      count: Number of arguments by position.

    Example:
      >>> takes(lambda m, x: x, 2), takes(lambda: 0, 1), takes(jnp.tanh, 1)
      (True, False, True)
    """
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def function_name(function: Any) -> str:
    """The name of a function, also inside `functools.partial`; "lambda" for a lambda."""
    while hasattr(function, "func"):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "lambda" if name == "<lambda>" else name
