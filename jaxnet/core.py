"""The contract of jaxnet: what a layer is, and how layers become models.

A layer is a pair of pure functions. `init` looks at the shape of an input and draws
parameters; `apply` maps parameters, state and an input to an output and the next state.
`compose` makes one layer of many by recording an ordinary Python function. Everything else
in the library is built on this page.

    layer = dense(10)
    params, state = layer.init(jax.random.key(0), spec((32, 784)))
    y, state = layer.apply(params, state, x)

Parameters and state are nested dicts of arrays, keyed by the names of the layers. A path such
as "resnet/block_3/conv" names a layer in messages, and the same words index its entries.
"""

import zlib
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp

from jaxnet.messages import Path, PyTree, check_dict, check_key, compare, located
from jaxnet.messages import abstract as abstract
from jaxnet.messages import describe as describe
from jaxnet.messages import path_name as path_name

Params = dict[str, Any]
State = dict[str, Any]


class InitFn(Protocol):
    """(key, x) -> (params, state); only the shapes and dtypes of x are looked at."""

    def __call__(self, key: jax.Array, x: PyTree, /) -> tuple[Params, State]: ...


class ApplyFn(Protocol):
    """(params, state, x, *, key=None, train=False) -> (y, state)."""

    def __call__(
        self,
        params: Params,
        state: State,
        x: PyTree,
        /,
        *,
        key: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[PyTree, State]: ...


class Layer(NamedTuple):
    """A pair of pure functions and a name.

    Fields:
      init: `(key, x) -> (params, state)`. `x` is an array, a `jax.ShapeDtypeStruct` (see `spec`)
        or a pytree of either, batch axis first.
      apply: `(params, state, x, *, key=None, train=False) -> (y, state)`. The state that comes
        back has the structure of the state that went in.
      name: what the layer's entry is called inside a parent.

    Most layers are made by `stateless`; one with state, randomness or a training mode is written
    as `checked(Layer(init, apply, name))`.

    Example:
      A layer that counts how often it was applied in training:

      >>> def init(key, x):
      ...     return {}, {"count": jnp.zeros((), jnp.int32)}
      >>> def apply(params, state, x, *, key=None, train=False):
      ...     return x, {"count": state["count"] + train}
      >>> counter = checked(Layer(init, apply, "counter"))
      >>> params, state = counter.init(jax.random.key(0), spec((2, 3)))
      >>> y, state = counter.apply(params, state, jnp.ones((2, 3)), train=True)
      >>> int(state["count"])
      1
    """

    init: InitFn
    apply: ApplyFn
    name: str

    def __repr__(self) -> str:
        return f"Layer({self.name!r})"


def spec(shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """A shape and a dtype in place of data, for `init`.

    Args:
      shape: the whole shape, batch axis first.
      dtype: of the data, float32 unless told.

    Example:
      >>> spec((32, 28, 28, 1)).shape
      (32, 28, 28, 1)
    """
    return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(dtype))


def child_key(key: jax.Array, name: str) -> jax.Array:
    """The key of the child called `name`: `fold_in(key, crc32(name))`.

    A key depends on the names above it and on nothing else, so inserting a layer changes no other
    layer's values. A layer that draws several parameters uses it for them too.

    Example:
      >>> a, b = child_key(jax.random.key(0), "a"), child_key(jax.random.key(0), "b")
      >>> bool((jax.random.key_data(a) != jax.random.key_data(b)).any())
      True
    """
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def param_dtype(x: PyTree) -> Any:
    """The dtype that parameters take for this input: float64 or complex with x, else float32.

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
) -> Layer:
    """A layer from `init(key, x) -> params` and `apply(params, x) -> y`.

    Args:
      init: draws the parameters; sees shapes and dtypes only (`x` holds no data).
      apply: the layer's function.
      name: of its entry inside a parent.

    Raises:
      ValueError: at `apply`, where params are missing, unknown or mis-shaped for this input.

    Example:
      >>> def init(key, x):
      ...     return {"scale": jnp.ones(x.shape[-1])}
      >>> layer = stateless(init, lambda params, x: x * params["scale"], name="scale")
      >>> params, state = layer.init(jax.random.key(0), spec((2, 3)))
      >>> params["scale"].shape, state
      ((3,), {})
    """

    def stateless_init(key, x):
        return init(key, x), {}

    @wraps(apply)  # keeps the name of who wrote it, which summaries show
    def stateless_apply(params, state, x, *, key=None, train=False):
        return apply(params, x), state

    return checked(Layer(stateless_init, stateless_apply, name))


def checked(layer: Layer) -> Layer:
    """The same layer, which also says what is wrong, and where.

    `init` gets shapes in place of data and a valid key. `apply` compares params and state with
    what `init` would give for this input, compares the structure of the state that comes back,
    and any exception carries a note with the layer's path and the shape of its input. Under `jit`
    all of it happens while tracing and costs nothing later.

    Example:
      >>> layer = stateless(lambda key, x: {"w": jnp.ones(3)}, lambda params, x: x * params["w"])
      >>> layer.apply({"v": jnp.ones(3)}, {}, jnp.ones((2, 3)))
      Traceback (most recent call last):
      ...
      ValueError: params do not fit stateless for an input of (2, 3) float32:
        stateless/w: needs (3,), is missing
        stateless/v: is not known
      in stateless, input (2, 3) float32
    """

    def init(key, x):
        x = abstract(x, layer.name)
        check_key(key, layer.name)
        with located((layer.name,), x):
            return layer.init(key, x)

    return Layer(init, _Checked(layer, init), layer.name)


def unchecked(layer: Layer, again: Callable[[Callable], Layer] | None = None) -> Layer:
    """The same layer, whose params a parent does not compare with what its init would give.

    For transforms, layer -> layer: the layer inside compares its own, and to do it outside as well
    would double the work at each level of a nest.

    Args:
      layer: what the transform gives.
      again: `change -> layer`, the transform of `change(inner layer)` in place of the inner layer;
        with it `observe` and summaries look inside.

    Example:
      >>> def twice(layer):
      ...     def apply(params, state, x, *, key=None, train=False):
      ...         y, state = layer.apply(params, state, x, key=key, train=train)
      ...         return 2 * y, state
      ...     return unchecked(Layer(layer.init, apply, layer.name))
      >>> y, _ = twice(serial(jnp.sin)).apply({}, {}, jnp.zeros((2, 3)))
      >>> y.shape
      (2, 3)
    """
    return Layer(layer.init, _Unchecked(layer.apply, again), layer.name)


def compose(forward: Callable[..., PyTree], *, name: str | None = None) -> Layer:
    """A layer from an ordinary function `forward(m, x) -> y` that applies others by `m(layer, x)`.

    `m` is a value handed to the function: it applies a layer (or a plain function) to an input,
    with the parameters, state, key and training mode that belong to it. `init` runs `forward` on
    shapes alone and notes each call of `m`; so `forward` may not look at values, and calls the
    same layers whenever it is run.

    Names: a child's entry has the name of its layer. Two layers of one name become `dense` and
    `dense_1`, in the order of their calls. The same layer object used twice within one `forward`
    shares its parameters. Calls of `m` inside `jax.lax.scan` and the like are fine for layers
    without state; for those with state use `repeat`.

    Args:
      forward: the function. Layers may be made inside or outside of it.
      name: of the layer; by default the name of `forward`.

    Example:
      >>> def block(features):
      ...     def forward(m, x):
      ...         scale = stateless(lambda key, x: {"w": jnp.ones(features)},
      ...                           lambda params, x: params["w"] * x, name="scale")
      ...         return m(jax.nn.relu, m(scale, x)) + m(scale, x)
      ...     return compose(forward, name="block")
      >>> params, state = block(3).init(jax.random.key(0), spec((2, 3)))
      >>> jax.tree.map(jnp.shape, params)
      {'scale': {'w': (3,)}}
    """
    inside = _Composed(forward, name or _function_name(forward))
    return Layer(inside.init, inside.apply, inside.name)


def serial(*layers: Layer | Callable, name: str = "serial") -> Layer:
    """One layer after another: each gets the output of the one before.

    Args:
      layers: layers or plain functions, such as `jax.nn.relu`.
      name: of the layer.

    Example:
      >>> net = serial(jnp.tanh, lambda x: x[:, :2])
      >>> params, state = net.init(jax.random.key(0), spec((5, 3)))
      >>> y, state = net.apply(params, state, jnp.ones((5, 3)))
      >>> y.shape
      (5, 2)
    """
    _check_layers("serial", layers)

    def forward(m, x):
        for layer in layers:
            x = m(layer, x)
        return x

    return compose(forward, name=name)


def parallel(*layers: Layer | Callable, name: str = "parallel") -> Layer:
    """Layers side by side; the output is the tuple of theirs.

    An input that is an array (or a dict) goes to every layer. An input that is a tuple or list has
    one entry a layer, as in stax. To hand one tuple to all layers, write a `compose`.

    Args:
      layers: layers or plain functions.
      name: of the layer.

    Raises:
      ValueError: where a tuple has not one entry for each layer.

    Example:
      >>> net = parallel(jnp.sin, jnp.cos)
      >>> (s, c), _ = net.apply({}, {}, jnp.zeros((2, 3)))
      >>> (s, t), _ = net.apply({}, {}, (jnp.zeros((2, 3)), jnp.zeros((4, 5))))
      >>> s.shape, c.shape, t.shape
      ((2, 3), (2, 3), (4, 5))
    """
    _check_layers("parallel", layers)

    def forward(m, x):
        if not isinstance(x, tuple | list):
            return tuple(m(layer, x) for layer in layers)
        if len(x) != len(layers):
            raise ValueError(
                f"{name}: {len(layers)} layers need a tuple of as many inputs, got {len(x)}; "
                "an array goes to every layer, and compose hands a tuple to as many as you like"
            )
        return tuple(m(layer, entry) for layer, entry in zip(layers, x, strict=True))

    return compose(forward, name=name)


def residual(
    layer: Layer | Callable, shortcut: Layer | Callable | None = None, *, name: str = "residual"
) -> Layer:
    """layer(x) + shortcut(x), where no shortcut means x itself.

    Args:
      layer: keeps the shape of x, or changes it as `shortcut` does.
      shortcut: for example a 1x1 convolution, where `layer` changes the shape.
      name: of the layer.

    Raises:
      ValueError: where the two shapes differ; they are never broadcast.

    Example:
      >>> net = residual(jnp.tanh)
      >>> y, _ = net.apply({}, {}, jnp.zeros((2, 3)))
      >>> y.shape
      (2, 3)
    """

    def forward(m, x):
        y = m(layer, x)
        x = x if shortcut is None else m(shortcut, x)
        if jnp.shape(x) != jnp.shape(y):
            raise ValueError(
                f"{name}: the layer gives {jnp.shape(y)} and the shortcut {jnp.shape(x)}, which "
                "cannot be added; give a shortcut that ends in the layer's shape, "
                "such as residual(layer, conv(features, 1, strides=2))"
            )
        return y + x

    return compose(forward, name=name)


def observe(
    layer: Layer, see: Callable[[Path, Any, PyTree, PyTree], PyTree], *, transforms: bool = False
) -> Layer:
    """The same layer, in which `see(path, layer, x, y) -> y` watches every call.

    Parameters, state and keys are those of the layer itself. What `see` returns goes on in place
    of the output, so it may look (`return y`), note or change. Calls come in the order in which
    they end: those inside a composed layer before its own. A shared layer is seen at each call.
    Inside `jax.lax.scan` and the like `see` gets tracers, which must not outlive the call.

    Args:
      layer: any layer; one that is not composed is a single call.
      see: gets the names below `layer` (none for `layer` itself), the layer or function that was
        called, its input and its output.
      transforms: whether to look inside `repeat`, `cast` and the like too. Their entries have the
        paths of the layer inside, which runs in a loop or under `vmap`, so `see` gets tracers.

    Example:
      >>> net = serial(jnp.sin, serial(jnp.cos, name="inner"))
      >>> def see(path, layer, x, y):
      ...     print("/".join(path), x.shape)
      ...     return y
      >>> y, _ = observe(net, see).apply({}, {}, jnp.zeros((2, 3)))
      sin (2, 3)
      inner/cos (2, 3)
      inner (2, 3)
       (2, 3)
    """

    whole = _watched(layer, see, transforms)

    def apply(params, state, x, *, key=None, train=False):
        y, state = whole.apply(params, state, x, key=key, train=train)
        return see((), layer, x, y), state

    return Layer(whole.init, apply, layer.name)


def tap(layer: Layer, *paths: str) -> Layer:
    """The trunk of a network: gives the outputs of layers inside, in place of the last one's.

    What would run after the last of them is left out, of `init` too: params and state are those of
    the layers that run, under the names that they have in the network. The trunk is a layer like
    any other: put a head behind it, or `freeze` it.

    Args:
      layer: a composed layer, such as a model.
      paths: names below it, such as "block_3" or "block_3/conv_1", as `inspect.activations` gives
        them; of a layer that is called several times, its first call.

    Returns:
      A layer whose output is that of the one path, or a tuple, one entry a path.

    Raises:
      TypeError: for a layer that is not composed.
      ValueError: for no path, or, in `init` and `apply`, a path that is not there.

    Example:
      >>> double = stateless(lambda key, x: {"w": jnp.ones(3)}, lambda p, x: 2 * x, name="double")
      >>> net = serial(double, jnp.sin, serial(jnp.cos, jnp.exp, name="inner"), name="net")
      >>> trunk = tap(net, "double", "inner/cos")
      >>> params, state = trunk.init(jax.random.key(0), spec((2, 3)))
      >>> (doubled, cos), _ = trunk.apply(params, state, jnp.ones((2, 3)))
      >>> float(doubled[0, 0]), bool((cos == jnp.cos(jnp.sin(2.0))).all())
      (2.0, True)
    """
    if not paths:
        raise ValueError(f"tap: needs a path at least, such as tap({layer.name}, 'conv_1')")
    if _composed(layer) is None:
        raise TypeError(
            f"tap: {layer.name} is not composed, so there is nothing inside to give; tap the "
            "network first and change it then, as in freeze(tap(net, 'block_3'))"
        )

    def forward(m, x):
        found: dict[str, PyTree] = {}
        passed: list[str] = []

        def see(path, layer, x, y):
            name = "/".join(path)
            passed.append(name)
            if name in paths:
                found.setdefault(name, y)
            if len(found) == len(set(paths)):
                raise _Enough
            return y

        try:
            _composed(_watched(layer, see)).forward(m, x)  # type: ignore[union-attr]
        except _Enough:
            outputs = [found[path] for path in paths]
            return tuple(outputs) if len(paths) > 1 else outputs[0]
        missing = ", ".join(repr(path) for path in paths if path not in found)
        raise ValueError(
            f"tap: {layer.name} has no layer {missing}; it has {', '.join(dict.fromkeys(passed))}"
        )

    return compose(forward, name=layer.name)


def pick(tree: Params | State, like: Params | State) -> dict[str, Any]:
    """The entries that another tree has too, by path: what a trunk takes over from its network.

    Args:
      tree: params or state that hold more.
      like: those of the trunk, from its `init`, as arrays or shapes.

    Raises:
      ValueError: for an entry that is not there, or of another shape; the message lists them all.

    Example:
      >>> params = {"conv": {"kernel": jnp.ones((3, 4))}, "output": {"bias": jnp.ones(2)}}
      >>> pick(params, {"conv": {"kernel": spec((3, 4))}})["conv"]["kernel"].shape
      (3, 4)
    """
    wrong: list[str] = []

    def entry(path: Path, like: Any) -> Any:
        here = tree
        for name in path:
            here = here.get(name) if isinstance(here, dict) else None
        if isinstance(like, dict):
            return {name: entry((*path, name), value) for name, value in like.items()}
        if here is None or isinstance(here, dict) or jnp.shape(here) != jnp.shape(like):
            got = "is missing" if here is None else "got a dict"
            if not (here is None or isinstance(here, dict)):
                got = f"got {jnp.shape(here)}"
            wrong.append(f"\n  {'/'.join(path)}: needs {jnp.shape(like)}, {got}")
        return here

    picked = entry((), like)
    if wrong:
        raise ValueError(f"pick: the tree does not hold what is needed:{''.join(wrong)}")
    return picked


class _Enough(Exception):
    """Ends a forward whose further layers nobody asked for."""


def _watched(layer: Layer, see: Callable, transforms: bool = False) -> Layer:
    """The same layer, composed anew with `see` behind each call inside.

    Where `see` raises _Enough, no layer is called any more, and the forwards around return None, so
    that the state of what did run is kept.
    """

    def inside(layer, path):
        if not isinstance(layer, Layer):
            return layer
        if transforms and isinstance(layer.apply, _Unchecked) and layer.apply.again:
            return layer.apply.again(lambda inner: inside(inner, path))
        composed = _composed(layer)
        if composed is None:
            return layer

        @wraps(composed.forward)
        def forward(m, x):
            scope, watched = _Scope(path), {}  # a shared layer stays one layer

            def call(child, x):
                _, name, _ = scope.enter(child)
                if name not in watched:
                    watched[name] = inside(child, (*path, name))
                return see((*path, name), child, x, m(watched[name], x))

            if not path:
                return composed.forward(call, x)
            try:
                return composed.forward(call, x)
            except _Enough:
                return None

        return compose(forward, name=layer.name)

    return inside(layer, ())


def written_in(layer: Layer) -> Callable:
    """The function that its author wrote: the forward of a composed layer, else the apply.

    Example:
      >>> written_in(compose(jnp.sin)) is jnp.sin
      True
    """
    if inside := _composed(layer):
        return inside.forward
    if isinstance(layer.apply, _Checked):
        return layer.apply.raw.apply
    return layer.apply.apply if isinstance(layer.apply, _Unchecked) else layer.apply


# How it works: two values stand for `m`, one while shapes are inferred and one while running.


class _Call(NamedTuple):
    """What init notes of a child: the layer, its input, and the calls inside if it is composed."""

    layer: Layer
    x: PyTree
    calls: "dict[str, _Call]"


class _Composed:
    """What a composed layer is made of; a parent looks inside, so that no forward runs twice."""

    def __init__(self, forward: Callable[..., PyTree], name: str):
        self.forward, self.name = forward, name
        # Transforms call init inside init; without this memory a nest would cost 2^depth.
        self._noted: dict[Hashable, dict[str, _Call]] = {}

    def init(self, key: jax.Array, x: PyTree, /) -> tuple[Params, State]:
        x = abstract(x, self.name)
        check_key(key, self.name)
        memo = _signature(x)
        if memo not in self._noted:
            calls: dict[str, _Call] = {}
            with located((self.name,), x):
                jax.eval_shape(lambda x: self.forward(_Shapes((self.name,), calls), x), x)
            self._noted[memo] = calls
        return _draw(self._noted[memo], key)

    def apply(self, params, state, x, /, *, key=None, train=False):
        if key is not None:
            check_key(key, self.name)
        return _run(self.forward, (self.name,), params, state, x, key, train)


def _composed(layer: Layer) -> _Composed | None:
    """The inside of a composed layer; None for a leaf, such as a transform of a composed layer."""
    inside = getattr(layer.apply, "__self__", None)
    whole = isinstance(inside, _Composed) and getattr(layer.init, "__self__", None) is inside
    return inside if whole else None


def _draw(calls: dict[str, _Call], key: jax.Array) -> tuple[Params, State]:
    """The parameters and state of every noted child that has any."""
    params: Params = {}
    state: State = {}
    for name, (layer, x, inner) in calls.items():
        composed = _composed(layer) is not None
        if composed and not inner:
            continue
        # A leaf without entries needs no key: its init is not called again.
        if not composed and not any(_expected(layer, x)):
            continue
        key_here = child_key(key, name)
        p, s = _draw(inner, key_here) if composed else layer.init(key_here, x)
        if p:
            params[name] = p
        if s:
            state[name] = s
    return params, state


class _Scope:
    """One run of a forward function: names its children, and counts the calls of each."""

    def __init__(self, path: Path):
        self.path = path
        self._names: dict[int, str] = {}
        self._held: list[Any] = []  # a freed layer's id would come back and share by accident
        self._calls: dict[str, int] = {}

    def enter(self, layer: Layer | Callable) -> tuple[Layer, str, int]:
        """The layer, its name here, and how often it was called before."""
        if id(layer) not in self._names:
            self._held.append(layer)
            self._names[id(layer)] = self._free(_layer_name(layer))
        name = self._names[id(layer)]
        count = self._calls.get(name, 0)
        self._calls[name] = count + 1
        return (layer if isinstance(layer, Layer) else _function_layer(layer)), name, count

    def _free(self, name: str) -> str:
        if not name or "/" in name:
            raise ValueError(
                f"{'/'.join(self.path)}: a name needs a letter and no '/', got {name!r}"
            )
        taken, free, n = set(self._names.values()), name, 0
        while free in taken:
            n += 1
            free = f"{name}_{n}"
        return free


class _Shapes(_Scope):
    """The `m` of init: runs on tracers inside eval_shape and notes the calls."""

    def __init__(self, path: Path, calls: dict[str, _Call]):
        super().__init__(path)
        self.calls = calls

    def __call__(self, layer: Layer | Callable, x: PyTree) -> PyTree:
        layer, name, _ = self.enter(layer)
        path = (*self.path, name)
        with located(path, x):
            shape = abstract(x, "/".join(path))
            call = self.calls.setdefault(name, _Call(layer, shape, {}))
            if inside := _composed(layer):
                return inside.forward(_Shapes(path, call.calls), x)
            params, state = _expected(layer, shape)
            first_params, first_state = _expected(call.layer, call.x)
            compare("params", path, first_params, params, shape)
            compare("state", path, first_state, state, shape)
            key = jax.eval_shape(lambda: jax.random.key(0))
            y = jax.eval_shape(
                lambda p, s, k, x: layer.apply(p, s, x, key=k), params, state, key, shape
            )
            if not (isinstance(y, tuple) and len(y) == 2):
                raise TypeError(f"{'/'.join(path)}: apply must return (y, state)")
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), y[0])


class _Running(_Scope):
    """The `m` of apply: hands each child its own entries and collects the state."""

    def __init__(
        self, path: Path, params: Params, state: State, key: jax.Array | None, train: bool
    ):
        super().__init__(path)
        self.params, self.state, self.key, self.train = params, dict(state), key, train

    def __call__(self, layer: Layer | Callable, x: PyTree) -> PyTree:
        layer, name, count = self.enter(layer)
        path = (*self.path, name)
        params, state = self.params.get(name, {}), self.state.get(name, {})
        key = None if self.key is None else child_key(self.key, name)
        if key is not None and count:  # a shared layer draws anew at each of its calls
            key = jax.random.fold_in(key, count)
        if inside := _composed(layer):
            y, state = _run(inside.forward, path, params, state, x, key, self.train)
        else:
            beside = [other for other in self.params if name not in self.params]
            y, state = _apply_leaf(layer, path, params, state, x, key, self.train, beside)
        if state:
            self.state[name] = state
        return y

    def unknown(self) -> list[str]:
        """Entries that belong to no layer that was called."""
        names = [("params", name) for name in self.params] + [
            ("state", name) for name in self.state
        ]
        return [f"{kind} {'/'.join((*self.path, n))}" for kind, n in names if n not in self._calls]


def _run(forward, path: Path, params, state, x, key, train) -> tuple[PyTree, State]:
    with located(path, x):
        for kind, tree in (("params", params), ("state", state)):
            check_dict(kind, path, tree)
        m = _Running(path, params, state, key, train)
        y = forward(m, x)
        if unknown := m.unknown():
            raise ValueError(
                f"{'/'.join(path)}: no layer here has the name of {', '.join(unknown)}; "
                f"it has {', '.join(m._calls) or 'no layers'}"
            )
        return y, m.state


class _Checked:
    """The apply of a checked layer; a parent calls the layer inside, with the whole path."""

    def __init__(self, layer: Layer, init: InitFn):
        self.raw = layer
        self.layer = Layer(init, layer.apply, layer.name)

    def __call__(self, params, state, x, /, *, key=None, train=False):
        if key is not None:
            check_key(key, self.layer.name)
        return _apply_leaf(self.layer, (self.layer.name,), params, state, x, key, train)


class _Unchecked:
    """The apply of an unchecked layer."""

    def __init__(self, apply: ApplyFn, again: Callable[[Callable], Layer] | None):
        self.apply, self.again = apply, again

    def __call__(self, params, state, x, /, *, key=None, train=False):
        return self.apply(params, state, x, key=key, train=train)


def _apply_leaf(
    layer: Layer, path: Path, params, state, x, key, train, beside: list[str] | None = None
) -> tuple[PyTree, State]:
    with located(path, x):
        shape = abstract(x, "/".join(path))
        if not isinstance(layer.apply, _Unchecked):
            needed_params, needed_state = _expected(layer, shape)
            compare("params", path, needed_params, params, shape, beside)
            compare("state", path, needed_state, state, shape)
        apply = layer.apply.raw.apply if isinstance(layer.apply, _Checked) else layer.apply
        result = apply(params, state, x, key=key, train=train)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"{'/'.join(path)}: apply must return (y, state), got {type(result).__name__}"
            )
        if jax.tree.structure(result[1]) != jax.tree.structure(state):
            raise ValueError(
                f"{'/'.join(path)}: the state that comes back must have the structure of the state "
                f"that went in, {jax.tree.structure(state)}, got {jax.tree.structure(result[1])}"
            )
        return result


# Keyed by the init function, which lives as long as its layer.
_expected_memory: "WeakKeyDictionary[Any, dict[Hashable, Any]]" = WeakKeyDictionary()


def _expected(layer: Layer, x: PyTree) -> tuple[Params, State]:
    """The shapes that init would give for an input of this shape."""
    memory = _expected_memory.setdefault(layer.init, {})
    signature = _signature(x)
    if signature not in memory:
        key = jax.eval_shape(lambda: jax.random.key(0))
        result = jax.eval_shape(lambda key: layer.init(key, x), key)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"{layer.name}: init must return (params, state), got {type(result).__name__}"
            )
        memory[signature] = result
    return memory[signature]


def _signature(x: PyTree) -> Hashable:
    leaves, structure = jax.tree.flatten(x)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _layer_name(layer: Any) -> str:
    if isinstance(layer, Layer):
        return layer.name
    if not callable(layer):
        raise TypeError(
            f"a layer or a function is needed, got {type(layer).__name__}; "
            "several layers are written one by one, as in serial(a, b, c)"
        )
    return _function_name(layer)


def _function_name(function: Any) -> str:
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return "lambda" if name == "<lambda>" else name


def _function_layer(function: Callable) -> Layer:
    name = _function_name(function)
    makes_one = f"{name} makes a layer and is none itself: write {name}(...)"
    if getattr(function, "__annotations__", {}).get("return") is Layer:
        raise TypeError(makes_one)

    def init(key, x):
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        y = function(x)
        if isinstance(y, Layer):
            raise TypeError(makes_one)
        return y, state

    return Layer(init, apply, name)


def _check_layers(who: str, layers: tuple) -> None:
    for i, layer in enumerate(layers):
        if not callable(layer) and not isinstance(layer, Layer):
            raise TypeError(
                f"{who}: argument {i} must be a layer or a function, got {type(layer).__name__}; "
                f"several layers are written one by one, as in {who}(a, b, c)"
            )
