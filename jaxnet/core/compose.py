"""Composition: a model is an ordinary function of `m` and `x`, which this module runs.

`init` runs the function on shapes and notes what it calls, then draws the parameters; `apply` runs
it on data. Either way a call of `m` goes through `Scope`, which names the child, gives it its own
entries and key, and shows the call to the watches (see `observe`). Plain functions and pairs of
functions become composed layers of one call, so this module makes every check.
"""

import copy
import inspect
import itertools
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core.contract import Layer, Params, State, child_key, param_dtype
from jaxnet.core.errors import Misfit, call, calls, check_kept, check_pair, compare, drawn, here
from jaxnet.services.checks import (
    a_function,
    abstract,
    check_call,
    check_dict,
    check_key,
    check_name,
    check_shape,
    initialized,
)
from jaxnet.services.frames import inside_jax, same_at_each_turn
from jaxnet.services.functions import function_name, takes
from jaxnet.services.keywords import instead
from jaxnet.services.meshes import apply_on_auto_axes
from jaxnet.services.nodes import Stored, plain
from jaxnet.services.trees import Memo, Path, PyTree, key_spec, memo_of, shapes_of, signature

SOWN = "sown/"  # prefix of the names of sown values in the returned state

Shape = tuple[int, ...]
# What init notes about a layer, by name. For a child it is the child's plan. For an entry it is
# whether the entry is state, its initializer, and its shape. For a pair of functions, "" holds its
# init and the shapes.
Plan = dict[str, Any]


class Watch(NamedTuple):
    """A view of the calls inside a layer.

    Fields:
      see: `(path, layer, x, y) -> y`, with the path below the watched layer.
      done: Whether the remaining calls are skipped; their outputs are then zeros.
      transforms: Whether to look inside transforms that change more than params.
      sown: Whether to keep sown values.
      depth: Number of calls around the watched layer, including its own.
      skipped: Shapes of skipped outputs, by path and input.
      stream: Whether it belongs to a stream and does not see calls outside of it.
    """

    see: Callable[[Path, Layer, PyTree, PyTree], PyTree] = lambda path, layer, x, y: y
    done: Callable[[], bool] = lambda: False
    transforms: bool = False
    sown: bool = False
    depth: int = 0
    skipped: Any = None
    stream: bool = False


class Stream(NamedTuple):
    """How a sequence arrives, for the layers inside `jn.stream`.

    Fields:
      length: Largest number of steps in all chunks together; None if nothing needs it.
      dtype: Dtype of kept keys and values; None is the dtype of the computation.
      steps: Number of steps of this chunk that count, (batch,); None is all.
    """

    length: int | None
    dtype: Any
    steps: Any


class Scope:
    """The `m` of one run of a forward function on data."""

    def __init__(self, x, params, state, key, train=False, watches=()):
        for what, tree in (("params", params), ("state", state)):
            check_dict(here(), what, tree)
        self.train, self._x, self._key = train, x, key
        self._params, self._state, self._watches = params, dict(state), watches
        self._names: dict[int, str] = {}
        self._sown: dict[str, PyTree] = {}  # by path
        # Keeps layers alive, since Python may reuse the id of a freed layer.
        self._held: list[Any] = []
        self._counts: dict[str, int] = {}  # number of calls, by name
        self._own: dict[str, Any] = {}  # what m.param and m.state declared, by name
        self._dtype: Any = None  # dtype of params, once one is requested
        self.stream: Stream | None = None  # a mode, like `train`: see `jn.stream`

    def __call__(self, layer: Layer | Callable[..., Any], x: PyTree) -> PyTree:
        """Return the output of a child."""
        given, layer = layer, as_layer(layer, here())
        name = self._name(given, layer.name)
        with call(name, x, child=True):
            for watch in self._watches:
                if watch.done():
                    self._counts.setdefault(name, 0)  # its entries may be given, as by `tap`
                    return _zeros(_output(layer, x, watch.skipped))
            self._counts[name] = count = self._counts.get(name, -1) + 1
            y = self._run(layer, name, x, self._fold(name, count))
            for watch in self._watches:
                y = watch.see(calls()[watch.depth :], layer, x, y)
            return y

    def param(self, name: str, initializer: Callable, shape: Any = ...) -> jax.Array:
        """Return a parameter of this layer."""
        return plain(self.kernel(name, initializer, shape), self._x)

    def kernel(self, name: str, initializer: Callable, shape: Any = ...) -> "jax.Array | Stored":
        """Return a parameter as it is stored, for `jn.product` and `jn.rows`.

        Below `jn.quantized` and `jn.lora` it is a node of integers or factors instead of an array.
        """
        return self._entry("params", self._params, name, initializer, shape, None)

    def state(self, name: str, initializer: Callable, shape: Any = ..., dtype=None) -> jax.Array:
        """Return an entry of this layer's state, which `update` changes."""
        return self._entry("state", self._state, name, initializer, shape, dtype)

    def update(self, name: str, value: jax.Array) -> None:
        """Give an entry of the state its next value, of the same shape and dtype."""
        if self._is_skipped():
            return
        if name not in self._own or name not in self._state:
            known = ", ".join(self._own.keys() & self._state.keys()) or "none"
            raise ValueError(
                f"{here()}: m.update({name!r}) needs an entry that m.state has declared. Declared "
                f"here: {known}"
            )
        check_kept(shapes_of({name: self._state[name]}), shapes_of({name: value}))
        _check_outside_jax(f"m.update({name!r})")
        self._state[name] = value

    def sow(self, name: str, value: PyTree) -> None:
        """Report a value from inside the net to `jn.collect`."""
        _check_entry_name(name, "m.sow(name, value)")
        if any(watch.sown for watch in self._watches) and not self._is_skipped():
            _check_outside_jax(f"m.sow({name!r})")
            self._note(name, value)

    def _is_skipped(self) -> bool:
        """Return whether the values from here on are zeros, since no watch needs them."""
        return any(watch.done() for watch in self._watches)

    def _note(self, path: str, value: PyTree) -> None:
        """Keep a sown value, under the next free name if a layer is called again."""
        self._sown[_free(path, self._sown)] = value

    def _entry(self, kind: str, given: dict, name, initializer, shape, dtype) -> jax.Array:
        """Return an entry of the params or of the state."""
        what = kind.removesuffix("s")
        _check_entry_name(name, f"m.{what}(name, initializer, shape)")
        at = f"{here()}: m.{what}({name!r})"
        if not callable(initializer):
            raise TypeError(f"{at}: {_not_an_initializer(what, initializer, shape)}")
        check_shape(f"{at}: the shape", shape)
        if dtype is None:
            dtype = self._dtype = self._dtype or param_dtype(self._x)
        needed = jax.ShapeDtypeStruct(tuple(shape), dtype)
        if name in self._names.values():
            raise ValueError(f"{here()}: the {what} {name!r} has the name of a child")
        self._own[name], self._counts[name] = needed, 0
        if self._is_skipped():
            return _zeros(needed)
        return self._given(kind, given, name, initializer, needed)

    def _given(self, kind: str, given: dict, name: str, initializer, needed) -> jax.Array:
        """Return an entry of the given params or state."""
        compare(kind, {name: needed}, {n: given[n] for n in [name] if n in given}, self._x)
        return given[name]

    def key(self, name: str | None = None) -> jax.Array:
        """Return a random key, new at each call; without a name, the layer's own key."""
        if name is not None:
            _check_entry_name(name, "m.key(name)")
        if self._key is None:
            mode = ", train=True" if self.train else ""
            raise ValueError(
                f"{here()}: needs a key{' in training' * self.train}. Pass one, as in "
                f"net.apply(params, state, x, key=jax.random.key(0){mode})"
            )
        self._check_own_key()
        if name is None:
            return self._key
        name = f"key/{name}"  # the name of a child never contains '/'
        self._counts[name] = count = self._counts.get(name, -1) + 1
        return self._fold(name, count)

    def _check_own_key(self) -> None:
        if same_at_each_turn(_APPLIES, Scope.__call__.__code__):
            raise ValueError(
                f"{here()}: draws random numbers inside jax.vmap, jax.lax.scan or another loop, "
                "where it has the same key at each turn, so the same numbers are drawn again. Map "
                "the layer by m(jn.transforms.mapped(layer, axis), x), repeat it by jn.repeat, or "
                "draw all numbers before the loop"
            )

    def inline(self, layer: Layer, x: PyTree) -> PyTree:
        """Return the output of a layer that has this layer's entries; for layers around a layer."""
        if callable(layer.inside):
            return layer.inside(self, x)
        self._counts |= dict.fromkeys([*self._params, *self._state], 0)
        return self._run(layer, None, x, self._key)

    def _pair(self, layer: Layer, x: PyTree, expected: Memo) -> PyTree:
        """Return the output of a pair of functions that has this layer's entries."""
        shape = abstract(x, here())
        outline = lambda: jax.eval_shape(lambda key: drawn(layer, key, shape), key_spec())  # noqa: E731
        params, state = expected.of(signature(shape), outline)
        compare("params", params, self._params, shape)
        compare("state", state, self._state, shape)
        self._counts |= dict.fromkeys([*self._params, *self._state], 0)
        given = dict(self._state)
        params = (
            self._params if getattr(layer.apply, "takes_stored", False) else plain(self._params)
        )
        y, state = _apply_pair(layer, params, given, x, self._key, self.train)
        for entry, value in state.items():  # into the dicts that scopes of watches share
            if entry.startswith(SOWN):
                self._sown[entry.removeprefix(SOWN)] = value
            else:
                self._state[entry] = value
        return y

    def whole(self, layer: Layer | Callable[..., Any], x: PyTree) -> PyTree:
        """Return the output of a child outside the stream, with its whole input at each call."""
        scope = copy.copy(self)
        scope.stream = None
        scope._watches = tuple(watch for watch in self._watches if not watch.stream)
        return scope(layer, x)

    def not_in_stream(self, why: str) -> None:
        """Raise inside a stream, for a layer whose outputs need other parts of the sequence."""
        if self.stream is not None:
            raise ValueError(f"{here()}: {why}, so it does not work in a stream")

    def penalize(self, penalty: Callable[[Params], Any]) -> Any:
        """Return a function of all parameters of this layer; 0 in init."""
        return penalty(plain(self._params))

    def watched(self, watch: Watch) -> "Scope":
        """Return the same scope with one more watch."""
        scope = copy.copy(self)
        scope._watches = (watch._replace(depth=len(calls())), *self._watches)  # innermost first
        return scope

    def _run(self, layer: Layer, name: str | None, x: PyTree, key: Any) -> PyTree:
        """Return the output of a child or, without a name, of a layer with this layer's entries."""
        layer = layer if self.stream is None else streamed(layer, self.stream)
        params, given = (
            {n: tree[n] for n in tree if n not in self._own} if name is None else tree.get(name, {})
            for tree in (self._params, self._state)
        )
        try:
            y, state = walk(layer, params, given, x, key, self.train, self._watches)
        except Misfit as error:
            if len(error.path) == len(calls()) and name not in (None, *self._params):
                error.add_note(f"entries given here: {', '.join(self._params)}")
            raise
        # Whether any array is another one.
        if state and [*map(id, jax.tree.leaves(given))] != [*map(id, jax.tree.leaves(state))]:
            if self.stream is not None and name is not None and self._counts[name]:
                raise ValueError(
                    f"{here()}: is called twice in a stream, where each call keeps its own state; "
                    "make a second layer"
                )
            _check_outside_jax(f"m({layer.name}, x), a layer that changes its state,")
        for entry in [entry for entry in state if entry.startswith(SOWN)]:
            below = entry.removeprefix(SOWN)
            self._note(below if name is None else f"{name}/{below}", state.pop(entry))
        if state:
            self._state.update(state if name is None else {name: state})
        return y

    def _fold(self, name: str, count: int) -> Any:
        if self._key is None:
            return None
        key = child_key(self._key, name)
        return jax.random.fold_in(key, count) if count else key

    def _name(self, layer: Layer | Callable[..., Any], base: str) -> str:
        """Return the child's name here: its layer's name, with a number if it is taken."""
        if id(layer) not in self._names:
            if base in self._own:
                raise ValueError(f"{here()}: the child {base!r} has the name of a parameter")
            self._held.append(layer)
            self._names[id(layer)] = _free(base, {*self._names.values(), *self._own})
        return self._names[id(layer)]

    def finish(self) -> State:
        """Return the state after the run; raise if an entry belongs to nothing here."""
        trees = {"params": self._params, "state": self._state}
        unused = [f"{what}/{n}" for what in trees for n in trees[what] if n not in self._counts]
        if unused:
            words = ", ".join(unused), ", ".join(n for n in self._counts if "/" not in n) or "none"
            raise ValueError("{}: unused entries: {}; layers here: {}".format(here(), *words))
        return self._state | {SOWN + path: value for path, value in self._sown.items()}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"m has no attribute {name!r}; it has m(layer, x), m.param, m.kernel, m.state, "
            "m.update, m.sow, m.key, m.train, m.whole and m.stream"
            + (PARAMS_ARE_OUTSIDE if name == "params" else "")
        )

    def __dir__(self) -> list[str]:
        """Return the public names, of which Python suggests one for a misspelled name."""
        return [name for name in super().__dir__() if not name.startswith("_")]


class Outline(Scope):
    """The `m` of init: it notes in a plan what a layer asks for, and goes on with zeros."""

    def __init__(self, x, key, plan: Plan, watches=()):
        super().__init__(x, {}, {}, key, watches=watches)
        self._plan = plan

    def sow(self, name: str, value: PyTree) -> None:
        _check_entry_name(name, "m.sow(name, value)")

    def penalize(self, penalty: Callable[[Params], Any]) -> Any:
        return 0.0

    def _check_own_key(self) -> None:
        """Nothing is drawn here."""

    def _given(self, kind: str, given: dict, name: str, initializer, needed) -> jax.Array:
        who, is_state = here(), kind == "state"
        draw = lambda key: initialized(who, name, initializer, key, needed)  # noqa: E731
        _, _, first = self._plan.setdefault(name, (is_state, draw, needed))
        compare(kind, {name: first}, {name: needed}, self._x)
        return given.setdefault(name, _zeros(needed)) if is_state else _zeros(needed)

    def _pair(self, layer: Layer, x: PyTree, expected: Memo) -> PyTree:
        return _outline_pair(layer, x, self._key, self._plan)

    def _run(self, layer: Layer, name: str | None, x: PyTree, key: Any) -> PyTree:
        layer = layer if self.stream is None else streamed(layer, self.stream)
        plan = self._plan if name is None else self._plan.setdefault(name, {})
        return _outline(layer, x, key, plan, self._watches)


def _free(base: str, taken: Container[str]) -> str:
    """Return a name that is not taken: the base itself, or with the next number."""
    numbered = (f"{base}_{n}" for n in itertools.count(1))
    return next(name for name in itertools.chain([base], numbered) if name not in taken)


PARAMS_ARE_OUTSIDE = (
    ". Params belong to the caller: net.apply(params, state, x). For a penalty on them, pass "
    "jn.supervised(..., penalty=...)"
)


def _check_entry_name(name: Any, form: str) -> None:
    if not (isinstance(name, str) and name and "/" not in name):
        raise TypeError(f"{here()}: expected {form}, a name without '/', got {name!r:.40}")


def _not_an_initializer(what: str, initializer: Any, shape: Any) -> str:
    """Return what is wrong with the last two arguments of `m.param` or `m.state`."""
    if callable(shape):
        return (
            f"the initializer and the shape are swapped, got {initializer!r:.40} and then a "
            f"function. Write m.{what}(name, initializer, shape)"
        )
    return (
        "the initializer must be a function (key, shape, dtype) -> array, got "
        f"{initializer!r:.40}. For a constant, write jn.initializers.constant(value)"
    )


def _check_outside_jax(what: str) -> None:
    """Raise in a function that JAX runs, such as the body of a scan: its values end there."""
    if inside_jax(below=_RUNS):
        raise ValueError(
            f"{here()}: {what} is called inside a function that JAX runs, such as the body of "
            "jax.lax.scan or of jax.grad, so the value ends with that function. Return the "
            "value from it, and make the call after it. For layers with state, use jn.repeat, "
            "or call layer.apply(params, state, x) in an objective jn.Layer(init, apply)"
        )


def _outline(layer: Layer, x: PyTree, key: Any, plan: Plan, watches: tuple = ()) -> PyTree:
    """Return the output of a layer while tracing, with fresh entries, noted in the plan."""
    if not callable(layer.inside):
        return _outline_pair(layer, x, key, plan)
    abstract(x, here())
    return _output_of(layer, Outline(x, key, plan, watches), x)


def _output_of(layer: Layer, m: Scope, x: PyTree) -> PyTree:
    y = layer.inside(m, x)
    if y is None:
        raise TypeError(f"{here()}: the function returned None; is its return statement missing?")
    return y


def _outline_pair(layer: Layer, x: PyTree, key: Any, plan: Plan) -> PyTree:
    shape = abstract(x, here())
    fresh = drawn(layer, key, shape)
    _, first = plan.setdefault("", (lambda key: layer.init(key, shape), shapes_of(fresh)))
    for kind, needed, tree in zip(("params", "state"), first, fresh, strict=True):
        compare(kind, needed, tree, shape)
    return _apply_pair(layer, *fresh, x, key, False)[0]


def _apply_pair(layer: Layer, params: Params, state: State, x: PyTree, key, train) -> Any:
    result = layer.apply(params, state, x, key=key, train=train)
    check_pair(result, "apply must return (y, state)")
    kept = {name: value for name, value in result[1].items() if not name.startswith(SOWN)}
    check_kept(shapes_of(state), shapes_of(kept))
    return result


def _output(layer: Layer, x: PyTree, memo: Memo) -> PyTree:
    """Return the shapes of the output of a layer that is not run."""
    shape = abstract(x, here())
    run = lambda x, key: _outline(layer, x, key, {})  # noqa: E731
    key = calls(), signature(shape)
    return memo.of(key, lambda: jax.eval_shape(run, shape, key_spec()))


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def _pruned(plan: Plan) -> Plan:
    """Return the plan without layers that draw nothing, which do not need a key."""
    kept: Plan = {n: _pruned(each) if isinstance(each, dict) else each for n, each in plan.items()}
    return {n: each for n, each in kept.items() if each and not (n == "" and each[1] == ({}, {}))}


def _draw(plan: Plan, key: jax.Array) -> tuple[Params, State]:
    """Return the parameters and state of everything in the plan."""
    params, state = {}, {}
    for name, each in plan.items():
        if name == "":
            own, kept = each[0](key)
        elif isinstance(each, dict):
            own, kept = ({name: it} if it else {} for it in _draw(each, child_key(key, name)))
        else:
            entry = {name: each[1](child_key(key, name))}
            own, kept = ({}, entry) if each[0] else (entry, {})
        params.update(own)
        state.update(kept)
    return params, state


def walk(
    layer: Layer, params: Params, state: State, x: PyTree, key, train, watches
) -> tuple[PyTree, State]:
    """Apply a layer and show the calls inside it to the watches."""
    if callable(layer.inside):
        m = Scope(x, params, state, key, train, watches)
        try:
            return _output_of(layer, m, x), m.finish()
        except Misfit as error:
            if not hasattr(error, "_jaxnet_noted"):  # raised by this layer's own m.param
                needed = jax.eval_shape(layer.init, key_spec(), abstract(x, here()))
                compare("params", needed[0], params, x)  # these errors name all misfits
                compare("state", needed[1], state, x)
            raise
    for watch in watches if isinstance(layer.inside, tuple) else ():
        layer = watched(layer, watch, calls()[watch.depth :])
    return layer.apply(params, state, x, key=key, train=train)


def streamed(layer: Layer, stream: Stream) -> Layer:
    """Return the same layer inside a stream; a pair of functions is taken step by step as it is."""
    if callable(layer.inside):

        def forward(m, x):
            m.stream = stream
            return layer.inside(m, x)

        return _composed(forward, layer.name, layer.kind)
    if isinstance(layer.inside, tuple):
        inner, rewrap = layer.inside
        loop = getattr(rewrap, "in_stream", None)  # the transform's inner layer sees single steps
        if loop:
            return streamed(loop, stream)
        return getattr(rewrap, "over_stream", rewrap)(streamed(inner, stream))
    return layer


def watched(layer: Layer, watch: Watch, path: Path = ()) -> Layer:
    """Return the layer with a watch on the calls inside it, which sees the layer at `path`."""
    see = lambda below, layer, x, y: watch.see((*path, *below), layer, x, y)  # noqa: E731
    here = watch._replace(see=see) if path else watch
    if callable(layer.inside):
        return recompose(layer, lambda m, x: layer.inside(m.watched(here), x))
    if isinstance(layer.inside, tuple):
        inner, rewrap = layer.inside
        # The calls inside are the same as the net's.
        if watch.transforms or getattr(rewrap, "of_params", False):
            return rewrap(watched(inner, here))
    return layer


def recompose(layer: Layer, forward: Callable) -> Layer:
    """Return a composed layer with another forward, which has the same entries."""
    return _composed(forward, layer.name, layer.kind, layer.init)


def compose(
    forward: Callable[..., PyTree], *, name: str | None = None, kind: str | None = None
) -> Layer:
    """Make a layer from a function `forward(m, x) -> y` that applies other layers by `m(layer, x)`.

    `m` is a value handed to the function:

        m(layer, x)                         the output of a child, a layer or a plain function
        m.param(name, initializer, shape)   a parameter of this layer
        m.kernel(name, initializer, shape)  a parameter as it is stored, for jn.product and jn.rows
        m.state(name, initializer, shape)   an entry of its state, such as a running mean
        m.update(name, value)               the next value of that entry
        m.sow(name, value)                  a value for `jn.collect`, such as a balance loss
        m.key(name)                         a random key of this layer
        m.train                             True in training

    `init` runs `forward` on shapes alone, in evaluation mode, and notes its calls; so `forward` may
    not depend on values, and must call the same layers at each run.

    Names: the entry of a child is the name of its layer. Two layers of one name become `dense` and
    `dense_1`, in the order of their calls; the same layer object used twice within one `forward`
    shares its parameters. Parameters and children share one namespace. Calls of `m` inside
    `jax.lax.scan` and the like work for layers without state; for layers with state use `repeat`.
    `m.update` raises there, since its value ends with the loop.

    Args:
      forward: The function. It may make layers or use layers made outside it.
      name: Name of the layer; the name of `forward` by default, if there is no `kind`.
      kind: Name of the function that made the layer; `name` by default.

    Returns:
      A layer. Its `init` and `apply` run `forward`.

    Example:
      >>> def scaled(m, x):
      ...     y = m(jn.dense(5), x)
      ...     if m.train:
      ...         y += 0.1 * jax.random.normal(m.key("noise"), y.shape)
      ...     return y * m.param("scale", jn.initializers.ones, (5,))
      >>> params, state = jn.compose(scaled).init(jax.random.key(0), jn.spec((2, 3)))
      >>> jax.tree.map(jnp.shape, params)
      {'dense': {'bias': (5,), 'kernel': (3, 5)}, 'scale': (5,)}

      A layer with state:

      >>> def centered(m, x):
      ...     mean = m.state("mean", jn.initializers.zeros, x.shape[1:])
      ...     if m.train:
      ...         m.update("mean", 0.9 * mean + 0.1 * x.mean(0))
      ...     return x - mean
      >>> params, state = jn.compose(centered).init(jax.random.key(0), jn.spec((2, 3)))
      >>> y, state = jn.compose(centered).apply(params, state, jnp.ones((2, 3)), train=True)
      >>> state["mean"].round(1).tolist()
      [0.1..., 0.1..., 0.1...]
    """
    if isinstance(forward, Layer) or not callable(forward) or not takes(forward, 2):
        raise TypeError(
            f"compose: expected a function forward(m, x), got {function_name(forward)}; for a "
            "function of x alone, write jn.serial(function)"
        )
    if kind is None and name is None:
        name = function_name(forward)
    name = check_name(kind or "compose", name)  # a layer's own function is called "forward"
    return _composed(forward, name, kind or name)


def _composed(forward: Callable[..., PyTree], name: str, kind: str, known: Any = None) -> Layer:
    """Return the layer of a forward function; with `known`, an init that draws the same entries."""
    # A transform may call init inside init. Without this, nesting would cost 2^depth.
    plans = Memo()

    def init(key, x):
        if known is not None:
            return known(key, x)
        x, plan = abstract(x, name), {}
        check_key(key, name)

        def outline():
            with call(name, x):
                jax.eval_shape(lambda x, key: _outline(layer, x, key, plan), x, key_spec())
            return _pruned(plan)

        return _draw(plans.of(signature(x), outline), key)

    def apply(params, state, x, *, key, train):
        return walk(layer, params, state, x, key, train, ())

    layer = Layer(init, _called(name, apply), name, kind, forward)
    for function in layer[:2]:
        function.forward = forward  # type: ignore[attr-defined]
    return layer


def transform(
    layer: Layer,
    apply: Callable[..., Any],
    rewrap: Callable[[Layer], Layer],
    *,
    kind: str,
    init: Callable[..., Any] | None = None,
    name: str | None = None,
) -> Layer:
    """Make a layer around another one from an `apply` and, if it draws other entries, an `init`.

    Args:
      layer: The inner layer.
      apply: `(params, state, x, *, key, train) -> (y, state)`, which applies the inner layer.
      rewrap: Function that applies the same transform to another layer.
      kind: Name of the function that made the layer.
      init: `(key, x) -> (params, state)`; by default, the inner layer's `init`.
      name: Name of the layer; by default, the inner layer's name.
    """
    name = check_name(kind, layer.name if name is None else name)
    return Layer(init or layer.init, _called(name, apply), name, kind, (layer, rewrap))


def _called(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """Return the apply of a layer, which checks its arguments and names the call."""

    # x is required; see check_call
    def apply(params, state, x=..., *, key=None, train=False, **unknown):
        for other in unknown:
            write = instead(other, ["key", "train"])
            raise TypeError(f"{name}: apply has no argument {other}; {write}")
        params, state, x = check_call(name, params, state, x, key, train)
        with call(name, x):
            return apply_on_auto_axes(run, params, state, x, key, train)

    return apply


def stateless(
    init: Callable[[jax.Array, Any], Params],
    apply: Callable[[Params, Any], PyTree],
    name: str = "stateless",
) -> Layer:
    """Return a layer from `init(key, x) -> params` and `apply(params, x) -> y`.

    Args:
      init: Function that draws the parameters; `x` holds shapes and dtypes, not data.
      apply: Function that computes the output.
      name: Name of the layer's entry inside a parent.

    Returns:
      A layer with these params and without state.

    Raises:
      ValueError: In `apply`, if params are missing, unknown or of the wrong shape.

    Example:
      >>> def init(key, x):
      ...     return {"scale": jnp.ones(x.shape[-1])}
      >>> layer = stateless(init, lambda params, x: x * params["scale"], name="scale")
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 3)))
      >>> params["scale"].shape, state
      ((3,), {})
    """
    a_function(name, "init", init, "(key, x)")
    a_function(name, "apply", apply, "(params, x)")
    pair = Layer(
        lambda key, x: (init(key, x), {}),
        lambda params, state, x, *, key=None, train=False: (apply(params, x), state),
        name,
    )
    return as_layer(pair)


def as_layer(value: Any, who: str = "as_layer", what: str = "") -> Layer:
    """Convert a layer, a pair of functions or a plain function to a layer of this library.

    Args:
      value: A layer, or a function of x.
      who: Name of the calling function, for the error.
      what: Name of its argument.

    Raises:
      TypeError: If `value` is neither.
      TypeError: When the layer is applied, if `value` is a function that makes layers, such as
        `flatten` without its parentheses.

    Example:
      >>> as_layer(jnp.tanh)
      Layer('tanh', kind='function')
      >>> as_layer(None, "saliency", "net")
      Traceback (most recent call last):
      ...
      TypeError: saliency: net must be a layer, such as jn.dense(3), got NoneType
    """
    if isinstance(value, Layer):
        # If init or apply was replaced, the forward no longer describes the layer.
        if callable(value.inside):
            made = (getattr(function, "forward", None) for function in value[:2])
            value = value if all(f is value.inside for f in made) else value._replace(inside=None)
        return _checked(value) if value.inside is None else value
    if callable(value):
        name = function_name(value)
        return _composed(lambda m, x: _applied(value, x), name, "function")
    several = "; pass several layers one by one, as in jn.serial(a, b, c)"
    rule = f"{what} must be a layer, such as jn.dense(3)"
    rule = rule if what else "expected a layer or a function"
    hint = several if isinstance(value, list | tuple) else ""
    raise TypeError(f"{who}: {rule}, got {type(value).__name__}{hint}")


def _checked(pair: Layer) -> Layer:
    """Return a pair of functions as a composed layer of one call."""
    who = pair.kind or "Layer"
    check_name(who, pair.name)
    a_function(who, "init", pair.init, "(key, x)")
    a_function(who, "apply", pair.apply, "(params, state, x, *, key=None, train=False)")
    expected = Memo()  # shapes of (params, state)
    forward = lambda m, x: m._pair(pair, x, expected)  # noqa: E731

    def init(key, x):
        x = abstract(x, pair.name)
        check_key(key, pair.name)
        with call(pair.name, x):
            return drawn(pair, key, x)

    make = lambda: (pair, _composed(forward, pair.name, pair.kind or pair.name, init))  # noqa: E731
    # A pair that is used twice is the same layer, so it shares its params. It is held next to the
    # ids of its functions, which Python may give to others once they are free.
    return memo_of(pair.apply).of(tuple(map(id, pair)), make)[1]


def _applied(function: Callable[..., Any], x: PyTree) -> PyTree:
    """Return the output of a plain function; raise if it is a function that makes layers."""
    name = function_name(function)
    uncalled = f"got the function `{name}`, not a layer; did you forget to call it: {name}()?"
    try:
        y = function(x)
    except Exception as error:
        if _makes_layers(function):
            raise TypeError(uncalled) from error
        if not takes(function, 1):
            raise TypeError(f"{name}: must be a function of one argument, x") from error
        raise
    if isinstance(y, Layer):
        raise TypeError(uncalled)
    return y


def _makes_layers(function: Callable) -> bool:
    try:
        return inspect.signature(function).return_annotation in (Layer, "Layer")
    except (TypeError, ValueError):  # a builtin without a signature
        return False


_RUNS = {walk.__code__, _outline.__code__}  # code that runs a forward function
_APPLIES = {code for code in _called.__code__.co_consts if getattr(code, "co_name", "") == "apply"}
