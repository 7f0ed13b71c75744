"""Composition: a model is an ordinary function of `m` and `x`, and this is the one walk over it.

`init` runs the function on shapes and notes what it calls, then draws the parameters; `apply` runs
it on data. Either way a call of `m` goes through `Scope`, which names the child, gives it its own
entries and key, and shows the call to the watches (see `observe`).
"""

import copy
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core.contract import (
    Layer,
    Memo,
    Params,
    State,
    as_layer,
    child_key,
    function_name,
    key_spec,
    param_dtype,
    shapes_of,
    signature,
    takes,
)
from jaxnet.core.messages import (
    FORGOTTEN,
    SOWN,
    Path,
    PyTree,
    Scoped,
    abstract,
    all_native,
    check_dict,
    check_given,
    check_kept,
    check_key,
    check_name,
    check_shape,
    check_train,
    compare,
    describe,
    located,
)

# What init notes, by path: how to draw the entry, and its shapes (params, state).
Plan = dict[Path, tuple[Callable[[jax.Array], tuple[Any, State]], tuple[Any, Any]]]


class Watch(NamedTuple):
    """A view of the calls inside a layer.

    Fields:
      see: `(path, layer, x, y) -> y`, with the path below the watched layer.
      done: whether the remaining calls are skipped; their outputs are then zeros.
      transforms: whether to look inside transforms.
      depth: length of the path of the watched layer.
      skipped: shapes of skipped outputs, by path and input.
    """

    see: Callable[[Path, Layer, PyTree, PyTree], PyTree]
    done: Callable[[], bool] = lambda: False
    transforms: bool = False
    depth: int = 0
    skipped: Any = None


class Scope:
    """The `m` of one run of a forward function; with a plan it notes, without one it computes."""

    def __init__(self, path: Path, x, params, state, key, train=False, watches=(), plan=None):
        for what, tree in (("params", params), ("state", state)):
            check_dict(what, path, tree)
        self.train, self._path, self._x, self._key = train, path, x, key
        self._params, self._state, self._plan, self._watches = params, dict(state), plan, watches
        self._names: dict[int, str] = {}
        self._collects, self._sown = False, {}  # whether m.sow keeps values, and these by path
        self._held: list[Any] = []  # a freed layer's id would come back and share by accident
        self._counts: dict[str, int] = {}  # calls by name
        self._own: set[str] = set()  # names of parameters and of entries of the state
        self._own_state: dict[str, dict[str, Any]] = {}  # what m.state declared, by name

    def __call__(self, layer: Layer | Callable[..., Any], x: PyTree) -> PyTree:
        """The output of a child."""
        name, layer = self._name(layer), as_layer(layer)
        path = (*self._path, name)
        with located(path, x), jax.named_scope(name):
            for watch in self._watches:
                if watch.done():
                    return _zeros(_output(layer, path, x, watch.skipped))
            self._counts[name] = count = self._counts.get(name, -1) + 1
            y = self._run(layer, path, x, self._fold(name, count))
            for watch in self._watches:
                y = watch.see(path[watch.depth :], layer, x, y)
            return y

    def param(self, name: str, initializer: Callable, shape: tuple[int, ...]) -> jax.Array:
        """A parameter of this layer."""
        return self._entry("param", self._params, name, initializer, shape, None)

    def state(
        self, name: str, initializer: Callable, shape: tuple[int, ...], dtype: Any = None
    ) -> jax.Array:
        """An entry of this layer's state, which `update` changes."""
        return self._entry("state", self._state, name, initializer, shape, dtype)

    def update(self, name: str, value: jax.Array) -> None:
        """Gives an entry of the state its next value, of the same shape and dtype."""
        if name not in self._own_state:
            known = ", ".join(self._own_state) or "none"
            raise ValueError(
                f"{self._here}: m.update({name!r}) needs an entry that m.state has declared, "
                f"here: {known}"
            )
        check_kept(self._own_state[name], shapes_of({name: value}), self._here)
        self._check_outside_loops(f"m.update({name!r})")
        self._state[name] = value

    def sow(self, name: str, value: PyTree) -> None:
        """Reports a value from inside the net, for whoever asks by `jn.collect`."""
        self._check_name(name, "m.sow(name, value)")
        if self._collects and self._plan is None:
            self._check_outside_loops(f"m.sow({name!r})")
            self._note(name, value)

    def _note(self, path: str, value: PyTree) -> None:
        """Keeps a sown value, under the next free name if a layer is called again."""
        n, name = 0, path
        while name in self._sown:
            n += 1
            name = f"{path}_{n}"
        self._sown[name] = value

    def _entry(
        self, what: str, given: dict, name: str, initializer: Callable, shape: Any, dtype: Any
    ) -> jax.Array:
        """A param or an entry of the state: noted by a plan, looked up and compared without one."""
        self._check_name(name, f"m.{what}(name, initializer, shape)", callable(initializer))
        check_shape(f"{self._here}: m.{what}({name!r})", shape)
        needed = jax.ShapeDtypeStruct(tuple(shape), dtype or param_dtype(self._x))
        if name in self._names.values():
            raise ValueError(f"{self._here}: the {what} {name!r} has the name of a child")
        self._own.add(name)
        self._counts[name] = 0
        pair = (lambda tree: (tree, {})) if what == "param" else (lambda tree: ({}, tree))
        if what == "state":
            self._own_state[name] = {name: needed}
        if any(watch.done() for watch in self._watches):
            return _zeros(needed)
        if self._plan is None:
            found = {name: given[name]} if name in given else {}
            compare(self._path, pair({name: needed}), pair(found), self._x)
            return given[name]

        def draw(key):
            return pair({name: drawn(self._here, name, initializer, key, needed)})

        place = (*self._path, f"{what}/{name}")
        _, first = self._plan.setdefault(place, (draw, pair({name: needed})))
        compare(self._path, first, pair({name: needed}), self._x)
        return given.setdefault(name, _zeros(needed)) if what == "state" else _zeros(needed)

    def _check_outside_loops(self, what: str) -> None:
        """Raises in a function that JAX runs, such as the body of a scan: its values end there."""
        frame = sys._getframe(2)
        while frame is not None and frame.f_code not in _RUNS:
            folder, file = os.path.split(frame.f_code.co_filename)
            if folder.startswith(_JAX) and "tree" not in file:
                raise ValueError(
                    f"{self._here}: {what} is called inside a function that JAX runs, such as the "
                    "body of jax.lax.scan, so the value ends with that function. Return the value "
                    "from it and call m.update after it, or use jn.repeat"
                )
            frame = frame.f_back

    def key(self, name: str | None = None) -> jax.Array:
        """A random key of this layer, another one at each call; without a name the layer's own."""
        if name is not None:
            self._check_name(name, "m.key(name)")
        if self._key is None:
            mode = ", train=True" if self.train else ""
            raise ValueError(
                f"{self._here}: needs a key{' in training' * self.train}. Pass one, as in "
                f"net.apply(params, state, x, key=jax.random.key(0){mode})"
            )
        if name is None:
            return self._key
        name = f"key/{name}"  # no child has a '/'
        self._counts[name] = count = self._counts.get(name, -1) + 1
        return self._fold(name, count)

    def inline(self, layer: Layer, x: PyTree) -> PyTree:
        """The output of a layer whose entries are those of this one; for layers around a layer."""
        if callable(layer.inside):
            return layer.inside(self, x)
        self._counts |= dict.fromkeys([*self._params, *self._state], 0)
        return self._run(layer, self._path, x, self._key)

    def penalize(self, penalty: Callable[[Params], Any]) -> Any:
        """A function of all parameters of this layer; 0 in init."""
        return 0.0 if self._plan is not None else penalty(self._params)

    def collecting(self) -> "Scope":
        """The same scope, in which `sow` keeps values."""
        scope = copy.copy(self)
        scope._collects = True
        return scope

    def watched(self, watch: Watch) -> "Scope":
        """The same scope with one more watch."""
        scope = copy.copy(self)
        scope._watches = (watch._replace(depth=len(self._path)), *self._watches)  # innermost first
        return scope

    def _run(self, layer: Layer, path: Path, x: PyTree, key: Any) -> PyTree:
        name = path[-1] if len(path) > len(self._path) else None
        if self._plan is not None:
            return _outline(layer, path, x, key, self._plan, self._watches)
        if self._collects:
            layer = collected(layer)
        params = self._params if name is None else self._params.get(name, {})
        state = self._state if name is None else self._state.get(name, {})
        given = state
        try:
            y, state = walk(layer, path, params, given, x, key, self.train, self._watches)
        except ValueError as error:
            known = len(getattr(error, "_jaxnet_path", ())) > 1 or name in (None, *self._params)
            if hasattr(error, "_jaxnet_mismatch") and not known:
                error.add_note(f"entries given here: {', '.join(self._params)}")
            raise
        if state:
            if not _is_same(given, state):
                self._check_outside_loops(f"m({layer.name}, x), a layer that changes its state,")
            for place in [place for place in state if place.startswith(SOWN)]:
                below = place.removeprefix(SOWN)
                self._note(below if name is None else f"{name}/{below}", state.pop(place))
            self._state.update(state if name is None else {name: state} if state else {})
        return y

    def _fold(self, name: str, count: int) -> Any:
        if self._key is None:
            return None
        key = child_key(self._key, name)
        return jax.random.fold_in(key, count) if count else key

    def _name(self, layer: Layer | Callable[..., Any]) -> str:
        """The child's name here: that of the layer, with a number where it is taken."""
        if id(layer) not in self._names:
            name = base = as_layer(layer, self._here).name
            if base in self._own:
                raise ValueError(f"{self._here}: the child {base!r} has the name of a parameter")
            taken, n = {*self._names.values(), *self._own}, 0
            while name in taken:
                n += 1
                name = f"{base}_{n}"
            self._held.append(layer)
            self._names[id(layer)] = name
        return self._names[id(layer)]

    def _check_name(self, name: Any, call: str, fits: bool = True) -> None:
        if not (fits and isinstance(name, str) and name and "/" not in name):
            raise TypeError(f"{self._here}: expected {call}, a name without '/', got {name!r:.40}")

    @property
    def _here(self) -> str:
        return "/".join(self._path)

    def finish(self) -> State:
        """The state after the run; raises for entries that belong to nothing here."""
        trees = {"params": self._params, "state": self._state}
        unused = [f"{what}/{n}" for what in trees for n in trees[what] if n not in self._counts]
        if unused:
            words = ", ".join(unused), ", ".join(n for n in self._counts if "/" not in n) or "none"
            raise ValueError("{}: unused entries: {}; layers here: {}".format(self._here, *words))
        return self._state | {SOWN + path: value for path, value in self._sown.items()}

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"m has no attribute {name!r}; it has m(layer, x), m.param(name, initializer, shape), "
            "m.state(name, initializer, shape), m.update(name, value), m.sow(name, value), "
            "m.key(name) and m.train"
        )


def _outline(layer: Layer, path: Path, x: PyTree, key, plan: Plan, watches=()) -> PyTree:
    """The output of a layer while tracing, with fresh entries; notes them in the plan."""
    shape = abstract(x, "/".join(path))
    if callable(layer.inside):
        return layer.inside(Scope(path, x, {}, {}, key, False, watches, plan), x)
    drawn = layer.init(key, shape)
    specs = shapes_of(drawn)
    _, first = plan.setdefault(path, (lambda key: layer.init(key, shape), specs))
    compare(path, first, specs, shape)
    return layer.apply(*drawn, x, key=key)[0]


def _output(layer: Layer, path: Path, x: PyTree, memo: dict) -> PyTree:
    """Shapes of the output of a layer that is not run."""
    shape = abstract(x, "/".join(path))
    if (place := (path, signature(shape))) not in memo:
        memo[place] = jax.eval_shape(
            lambda x, key: _outline(layer, path, x, key, {}), shape, key_spec()
        )
    return memo[place]


def _is_same(before: PyTree, after: PyTree) -> bool:
    """Whether a state came back as it was, array by array."""
    old, new = jax.tree.leaves(before), jax.tree.leaves(after)
    return len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def _draw(plan: Plan, key: jax.Array) -> tuple[Params, State]:
    """The parameters and state of everything in the plan."""
    trees: tuple[Params, State] = {}, {}
    at = cache(lambda path: child_key(at(path[:-1]), path[-1]) if path[1:] else key)
    for path, (draw, specs) in plan.items():
        if all(tree == {} for tree in specs):
            continue  # nothing to draw: no key needed
        *parents, own = path  # an entry of a composed layer is planned as "param/kernel"
        inner = parents if "/" in own else path
        key_here = child_key(at(tuple(parents)), own.partition("/")[2]) if "/" in own else at(path)
        for tree, entry in zip(trees, draw(key_here), strict=True):
            for name in inner[1:] if entry else ():
                tree = tree.setdefault(name, {})
            tree.update(entry)
    return trees


def drawn(who: str, name: str, initializer: Callable, key: jax.Array, needed: Any) -> jax.Array:
    """The array of an initializer; raises if it has another shape.

    Example:
      >>> needed = jax.ShapeDtypeStruct((3,), jnp.float32)
      >>> drawn("dense", "bias", lambda key, shape, dtype: 0.0, None, needed)
      Traceback (most recent call last):
      ...
      ValueError: dense: the initializer of 'bias' must return an array of shape (3,), got float
    """
    try:
        value = initializer(key, needed.shape, needed.dtype)
    except Exception as error:
        error.add_note(f"in the initializer of {name!r} of {who}, which gets (key, shape, dtype)")
        raise
    if getattr(value, "shape", None) != needed.shape:
        got = describe(value) if jax.tree.leaves(value) else type(value).__name__
        raise ValueError(
            f"{who}: the initializer of {name!r} must return an array of shape {needed.shape}, "
            f"got {got}"
        )
    return value


def walk(
    layer: Layer, path: Path, params: Params, state: State, x: PyTree, key, train, watches
) -> tuple[PyTree, State]:
    """Applies a layer and shows the calls inside it to the watches."""
    if callable(layer.inside):
        m = Scope(path, x, params, state, key, train, watches)
        try:
            return layer.inside(m, x), m.finish()
        except ValueError as error:
            if hasattr(error, "_jaxnet_mismatch") and not hasattr(error, "_jaxnet_path"):
                needed = jax.eval_shape(layer.init, key_spec(), abstract(x, "/".join(path)))
                compare(path, needed, (params, state), x)  # which names all that is wrong
            raise
    for watch in watches:
        layer = look_inside(layer, watch, path[watch.depth :])
    return layer.apply(params, state, x, key=key, train=train)


def collected(layer: Layer) -> Layer:
    """The same layer, whose state holds what was sown inside it as well, under `SOWN`."""
    if callable(layer.inside):
        return recompose(layer, lambda m, x: layer.inside(m.collecting(), x))
    if isinstance(layer.inside, tuple):
        inner, rewrap = layer.inside
        return rewrap(collected(inner))
    return layer


def look_inside(layer: Layer, watch: Watch, path: Path = ()) -> Layer:
    """A transform with the watch on its inner layer, which is at `path` for the watch."""
    if not (watch.transforms and isinstance(layer.inside, tuple)):
        return layer

    def see(below, layer, x, y):
        return watch.see((*path, *below), layer, x, y)

    (inner, rewrap), inside = layer.inside, watch._replace(see=see)
    if callable(inner.inside):
        return rewrap(recompose(inner, lambda m, x: inner.inside(m.watched(inside), x)))
    return rewrap(look_inside(inner, inside))


def recompose(layer: Layer, forward: Callable) -> Layer:
    """A composed layer with another forward, which has the same entries."""
    other = compose(forward, name=layer.name, kind=layer.kind)
    return other._replace(init=layer.init, inside=forward)


def compose(
    forward: Callable[..., PyTree], *, name: str | None = None, kind: str | None = None
) -> Layer:
    """A layer from an ordinary function `forward(m, x) -> y` that applies others by `m(layer, x)`.

    `m` is a value handed to the function:

        m(layer, x)                         the output of a child, a layer or a plain function
        m.param(name, initializer, shape)   a parameter of this layer
        m.state(name, initializer, shape)   an entry of its state, such as a running mean
        m.update(name, value)               the next value of that entry
        m.sow(name, value)                  a value for `jn.collect`, such as a balance loss
        m.key(name)                         a random key of this layer
        m.train                             True in training

    `init` runs `forward` on shapes alone, in evaluation mode, and notes its calls; so `forward` may
    not depend on values, and calls the same layers whenever it is run.

    Names: the entry of a child is the name of its layer. Two layers of one name become `dense` and
    `dense_1`, in the order of their calls; the same layer object used twice within one `forward`
    shares its parameters. Parameters and children share one namespace. Calls of `m` inside
    `jax.lax.scan` and the like work for layers without state; for those with state use `repeat`.
    `m.update` raises there, since its value ends with the loop.

    Args:
      forward: the function. Layers may be made inside or outside it.
      name: of the layer; the name of `forward` by default.
      kind: what made the layer; the name by default.

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

      >>> def centred(m, x):
      ...     mean = m.state("mean", jn.initializers.zeros, x.shape[1:])
      ...     if m.train:
      ...         m.update("mean", 0.9 * mean + 0.1 * x.mean(0))
      ...     return x - mean
      >>> params, state = jn.compose(centred).init(jax.random.key(0), jn.spec((2, 3)))
      >>> y, state = jn.compose(centred).apply(params, state, jnp.ones((2, 3)), train=True)
      >>> state["mean"].round(1).tolist()
      [0.1..., 0.1..., 0.1...]
    """
    if isinstance(forward, Layer) or not callable(forward):
        raise TypeError(f"compose: expected a function forward(m, x), got {forward!r:.60}")
    if name is None:
        name = function_name(forward)
    if not isinstance(kind, str | None):
        raise TypeError(f"compose: kind must be a word, got {kind!r:.60}")
    name = check_name(kind or "compose", name)
    if not takes(forward, 2):
        raise TypeError(
            f"compose: expected a function forward(m, x), got {function_name(forward)}, with other "
            "arguments. For a function of x alone, write jn.serial(function)"
        )
    plans = Memo()  # a transform may call init inside init; without this a nest would cost 2^depth

    def init(key, x):
        x = abstract(x, name)
        check_key(key, name)
        if (memo := signature(x)) not in plans:
            plan: Plan = {}
            with located((name,), x):
                jax.eval_shape(lambda x, key: _outline(layer, (name,), x, key, plan), x, key_spec())
            plans[memo] = plan
        return _draw(plans[memo], key)

    def apply(params, state, x=FORGOTTEN, *, key=None, train=False):
        check_given(x, name)
        if key is not None:
            check_key(key, name)
        check_train(train, name)
        with located((name,), x), Scoped(name):
            params, state, x = all_native((params, state, x), name)
            return walk(layer, (name,), params, state, x, key, train, ())

    layer = Layer(init, apply, name, kind or name, forward)
    return layer


_RUNS = {walk.__code__, _outline.__code__}  # what runs a forward function
_JAX = os.path.dirname(jax.__file__)
