"""How a layer runs: every call of every layer comes through `run`.

What is inside a layer is a forward function, which `run` gives an `m` (a `Scope`), or a transform,
which `run` gives a `Run`: the layer inside, as a function. `begin` makes entries in the same way,
with an `m` that notes what is asked for (an `Outline`). What all layers of one call share is in a
`Mode`. So a net that streams, is watched or is trained is the same net, and nothing is made again.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core.contract import Layer, LayerTransform, Params, State, child_key, param_dtype
from jaxnet.core.errors import (
    Misfit,
    call,
    calls,
    check_pair,
    check_state_form,
    compare,
    current_path,
    drawn,
    moved_names,
)
from jaxnet.core.foreign import check_holds_no_weights
from jaxnet.core.inputs import gathered
from jaxnet.core.keys import SPLIT, Withheld, folded, key_at, key_of_turn, usable
from jaxnet.core.mode import Mode, Watch
from jaxnet.core.names import free_name
from jaxnet.core.plan import Plan, copied, draw_plan, pruned
from jaxnet.core.turns import number_of_turns, varying_over
from jaxnet.services import checks
from jaxnet.services.checks.keywords import instead
from jaxnet.services.functions import activated, function_name, takes
from jaxnet.services.jax_versions import trace_state, varying_axes
from jaxnet.services.meshes import apply_on_auto_axes, of_device
from jaxnet.services.nodes import Stored, materialized
from jaxnet.services.trees import Memo, PyTree, describe, key_spec, memo_of, shapes_of, signature

SOWN = "sown/"  # prefix of the names of sown values in the returned state


class Run(NamedTuple):
    """The layer inside a transform, as a function, in the mode of the call.

        run(params, state, x)                its output and state
        run(params, state, x, turn=i)        the same in turn i of a loop, with a key of its own
        run(params, state, x, key=key)       the same with a key given
        run(params, state, x, train=False)   the same in another mode
        run.init(key, x)                     its params and state
        run.key(name)                        a random key of the transform
        run.watched(see)                     the same function, which shows the calls inside
        run.changed(stream=None)             the same function in another mode

    Fields:
      layer: The layer inside.
      call_key: Key of the call, which the layer inside gets, or None.
      mode: Mode of the call, such as `run.mode.stream`.
      home: Where the transform runs, as `trace_state` tells it.
      x: Its input, or the shapes of it.
    """

    layer: Layer
    call_key: Any
    mode: Mode
    home: Any
    x: PyTree

    train = property(lambda self: self.mode.train)

    def __call__(
        self,
        params: Params,
        state: State,
        x: PyTree,
        *,
        turn: Any = None,
        key: Any = None,
        **changed: Any,
    ) -> tuple[PyTree, State]:
        if key is None:
            key = self.call_key if turn is not None else self._checked_key("run(params, state, x)")
        key = key if turn is None else key_of_turn(key, turn)
        mode = self.mode._replace(**changed) if changed else self.mode
        with call(self.layer.name, x):
            return run(self.layer, params, state, x, key, mode)

    def _checked_key(self, form: str) -> Any:
        write = "run(params, state, x, turn=i), or run(params, state, x, key=key)"
        return key_at(self.home, self.call_key, f"{form} in {self.layer.kind}", write)

    def init(self, key: jax.Array, x: PyTree, **changed: Any) -> tuple[Params, State]:
        shape = checks.abstract(x, self.layer.name)
        mode = self.mode._replace(**changed)
        return begin(self.layer, key, shape, mode)

    def key(self, name: str) -> jax.Array:
        """Return a random key that no layer inside has, nor a transform of it."""
        depth = sum(1 for _ in transforms_of(self.layer))
        key = usable(self._checked_key(f"run.key({name!r})"), self.mode, self.x)
        return child_key(key, f"transform/{depth}/{name}")

    def watched(self, see: Callable = Watch().see, **options: Any) -> "Run":
        return self._replace(mode=self.mode.watched(Watch(see, **options)))

    def changed(self, **mode: Any) -> "Run":
        return self._replace(mode=self.mode._replace(**mode))


def transforms_of(layer: Layer) -> Iterator[Layer]:
    """Yield a layer and the layers inside it, as long as they are transforms."""
    while isinstance(layer.inside, LayerTransform) and layer.inside.layer is not None:
        yield layer
        layer = layer.inside.layer


def run(
    layer: Layer, params: Params, state: State, x: PyTree, key: Any, mode: Mode
) -> tuple[PyTree, State]:
    """Return the output and the state of a layer."""
    inside = layer.inside
    if isinstance(inside, LayerTransform):
        if inside.new_entries:
            _compare(layer, params, state, x, mode)
        watches = tuple(each for each in mode.watches if each.transforms or inside.clear)
        inner = Run(inside.layer, key, mode._replace(watches=watches), trace_state(), x)
        result = inside.apply(inner, params, state, x)
        check_pair(result, "apply must return (y, state)")
        _, after = result
        entries_after = {name: value for name, value in after.items() if not name.startswith(SOWN)}
        check_state_form(shapes_of(state), shapes_of(entries_after))
        return result
    m = Scope(x, params, state, key, mode)
    try:
        return _output_of(layer, m, x), m._finish(lambda: entries(layer, x, mode))
    except Misfit as error:
        if not hasattr(error, "_jaxnet_noted"):  # raised by this layer's own m.param
            _compare(layer, params, state, x, mode)  # these errors name all misfits
        elif not hasattr(error, "_jaxnet_hinted"):  # raised by a layer that this one called
            needed, _ = entries(layer, x, mode)
            if hint := moved_names(needed, params):
                error.add_note(hint)
                error._jaxnet_hinted = True  # type: ignore[attr-defined]
        raise


def begin(layer: Layer, key: Any, x: PyTree, mode: Mode) -> tuple[Params, State]:
    """Return the entries of a layer for an input of these shapes, drawn with the key."""
    mode = _for_entries(mode)
    inside = layer.inside
    if isinstance(inside, LayerTransform):
        with call(layer.name, x):
            return drawn(inside.init(Run(inside.layer, key, mode, trace_state(), x), key, x))

    def outlined():
        plan: Plan = {}

        def trace(x, key):
            return _outline(layer, x, key, plan, mode)

        with call(layer.name, x):
            jax.eval_shape(trace, x, key_spec())
        return pruned(plan)

    # A transform may call init inside init. Without this, nesting would cost 2^depth.
    plan = memo_of(layer.init).of(_signature("plan", x, mode), outlined)
    return draw_plan(plan, key)


def entries(layer: Layer, x: PyTree, mode: Mode) -> tuple[Params, State]:
    """Return the shapes of the params and the state of a layer."""
    shape = checks.abstract(x, current_path())
    mode = _for_entries(mode)

    def draw(key):
        return begin(layer, key, shape, mode)

    def make():
        return jax.eval_shape(draw, key_spec())

    return memo_of(layer.init).of(_signature("entries", shape, mode), make)


def _compare(layer: Layer, params: Params, state: State, x: PyTree, mode: Mode) -> None:
    needed_params, needed_state = entries(layer, x, mode)
    compare("params", needed_params, params, x)
    compare("state", needed_state, state, x)


def _for_entries(mode: Mode) -> Mode:
    """Return what entries depend on, with other numbers of steps, of which only shapes count."""
    stream = mode.stream
    if stream is not None and stream.steps is not None:
        stream = stream._replace(steps=np.zeros(stream.steps.shape, stream.steps.dtype))
    return Mode(cache_dtype=mode.cache_dtype, stream=stream)


def _signature(what: str, x: PyTree, mode: Mode) -> Any:
    stream: Any = mode.stream
    if stream is not None:
        stream = stream._replace(steps=stream.steps is None)
    return what, signature(x), stream, mode.cache_dtype


def make_layer(name: str, kind: str, inside: Any, inputs: tuple[str, ...] = ()) -> Layer:
    """Return the layer of a forward function, or of a transform."""

    def init(key, x):
        x = checks.abstract(x, name)
        checks.check_key(key, name)
        return begin(layer, key, x, Mode())

    # x is required; see check_call
    def apply(params, state, x=..., *, key=None, train=False, **unknown):
        for other in unknown:
            write = instead(other, ["key", "train"])
            raise TypeError(f"{name}: apply has no argument {other}; {write}")
        params, state, x = checks.check_call(name, params, state, x, key, train)

        def first(params, state, x, *, key, train):
            return run(layer, params, state, x, key, Mode(train))

        with call(name, x):
            return apply_on_auto_axes(first, params, state, x, key, train)

    layer = Layer(init, apply, name, kind).replace(inside=inside, inputs=inputs)
    return layer


class Scope:
    """The `m` of a function `forward(m, x)`: the type to write, `def forward(m: jn.Scope, x)`.

    `jn.compose` makes it, one for each run of the function, and shows what it has.

    Example:
      >>> def scaled(m: jn.Scope, x: jax.Array) -> jax.Array:
      ...     return m(jn.dense(3), x) * m.param("scale", jn.initializers.ones, (3,))
      >>> params, state = jn.compose(scaled).init(jax.random.key(0), jn.spec((2, 5)))
      >>> list(params)
      ['dense', 'scale']
    """

    def __init__(self, x, params, state, key, mode: Mode):
        for what, tree in (("params", params), ("state", state)):
            checks.check_dict(current_path(), what, tree)
        self._x, self._key, self._mode = x, key, mode
        self._home = trace_state()
        self._params, self._state = params, dict(state)
        self._names: dict[int, str] = {}
        self._sown: dict[str, PyTree] = {}  # by path
        # Keeps layers alive, since Python may reuse the id of a freed layer.
        self._held: list[Any] = []
        self._counts: dict[str, int] = {}  # number of calls, by name
        self._declared: dict[str, Any] = {}  # what m.param and m.state declared, by name
        self._dtype: Any = None  # dtype of params, once one is requested
        self._wide = False  # whether an entry has more digits than the computation
        self._in_loop = False  # whether this is the m of a turn of m.scan
        self._has_loop = False  # whether m.scan of this m is running
        self._changed: Any = None  # which entries of the state a turn of a loop changed
        self._devices: Any = None  # axes of devices over which they vary after it

    @property
    def train(self) -> bool:
        """Whether this is a call in training."""
        return self._mode.train

    @property
    def _in_training(self) -> bool:
        """The same, for a layer with the same entries in both modes: init then needs only one."""
        return self._mode.train

    @property
    def stream(self) -> Any:
        """How a sequence arrives inside `jn.stream`; None if it arrives as a whole."""
        stream = self._mode.stream
        if stream is None:
            return None
        return stream._replace(dtype=stream.dtype or self._mode.cache_dtype)

    def __call__(
        self,
        layer: Layer | Callable[..., Any],
        /,
        *inputs: PyTree,
        key: jax.Array | None = None,
        **named: PyTree,
    ) -> PyTree:
        """Return the output of a child.

        Args:
          layer: The child.
          *inputs, **named: Its input, or its inputs in order or by name.
          key: Its key, for a call inside a function that JAX traces, such as the body of a scan;
            elsewhere, each call has a key of its own.
        """
        child, layer = layer, as_layer(layer, current_path())
        x = gathered(layer, inputs, named)
        name = self._name(child, layer.name)
        with call(name, x, child=True):
            if key is not None:
                checks.check_key(key, current_path())
            for watch in self._mode.watches:
                if watch.done():
                    self._counts.setdefault(name, 0)  # its entries may be given, as by `tap`
                    return _zeros(_output(layer, x, watch.skipped, self._mode))
            count = self._counted(name)
            key = self._key_of(name, count) if key is None else key
            y = self._run(layer, name, self._rounded(x), key)
            for watch in self._mode.watches:
                y = watch.see(calls()[watch.depth :], layer, x, y)
            return y

    def param(self, name: str, initializer: Callable, shape: Any = ...) -> jax.Array:
        """Return a parameter of this layer.

        Below `jn.cast` it keeps its dtype: what plain operations do with it has a gradient that is
        a sum over examples and positions, for which 16 bits are too few.
        """
        entry = self._entry("params", self._params, name, initializer, shape, None)
        return self._seen(materialized(entry, self._x))

    def kernel(
        self, name: str, initializer: Callable, shape: Any = ..., *, array: bool = False
    ) -> "jax.Array | Stored":
        """Return a parameter as it is stored, for `jn.product` and `jn.rows`.

        Below `jn.quantized` and `jn.lora` it is a node of integers or factors instead of an array,
        unless `array` is True; below `jn.cast` it has the dtype of the computation.
        """
        entry = self._entry("params", self._params, name, initializer, shape, None)
        return self._mode.rounded(materialized(entry, self._x) if array else entry)

    def state(self, name: str, initializer: Callable, shape: Any = ..., dtype=None) -> jax.Array:
        """Return an entry of this layer's state, which `update` changes."""
        return self._seen(self._entry("state", self._state, name, initializer, shape, dtype))

    def update(self, name: str, value: jax.Array) -> None:
        """Give an entry of the state its next value, of the same shape and dtype."""
        if self._is_skipped():
            return
        if name not in self._declared or name not in self._state:
            declared = ", ".join(self._declared.keys() & self._state.keys()) or "none"
            raise ValueError(
                f"{current_path()}: m.update({name!r}) needs an entry that m.state has declared. "
                f"Declared here: {declared}"
            )
        check_state_form(shapes_of({name: self._state[name]}), shapes_of({name: value}))
        self._check_at_home(f"m.update({name!r})")
        self._state[name] = value

    def sow(self, name: str, value: PyTree) -> None:
        """Report a value from inside the net to `jn.collect`."""
        _check_entry_name(name, "m.sow(name, value)")
        if any(watch.sown for watch in self._mode.watches) and not self._is_skipped():
            self._check_at_home(f"m.sow({name!r})")
            self._note(name, value)

    def _is_skipped(self) -> bool:
        """Return whether the values from here on are zeros, since no watch needs them."""
        return any(watch.done() for watch in self._mode.watches)

    def _note(self, path: str, value: PyTree) -> None:
        """Keep a sown value, under the next free name if a layer is called again."""
        self._sown[free_name(path, self._sown)] = value

    def _entry(self, kind: str, tree: dict, name, initializer, shape, dtype) -> jax.Array:
        """Return an entry of the params or of the state."""
        what = kind.removesuffix("s")
        _check_entry_name(name, f"m.{what}(name, initializer, shape)")
        at = f"{current_path()}: m.{what}({name!r})"
        if not callable(initializer):
            raise TypeError(f"{at}: {_not_an_initializer(what, initializer, shape)}")
        checks.check_shape(f"{at}: the shape", shape)
        if dtype is None:
            if self._dtype is None:
                self._dtype = param_dtype(self._x)
            dtype = self._dtype
        needed = jax.ShapeDtypeStruct(tuple(shape), dtype)
        if name in self._names.values():
            raise ValueError(f"{current_path()}: the {what} {name!r} has the name of a child")
        self._declared[name] = needed
        self._counts[name] = 0
        if self._is_skipped():
            return _zeros(needed)
        return self._lookup(kind, tree, name, initializer, needed)

    def _lookup(self, kind: str, tree: dict, name: str, initializer, needed) -> jax.Array:
        """Return an entry of the given params or state."""
        existing = {name: tree[name]} if name in tree else {}
        compare(kind, {name: needed}, existing, self._x)
        return tree[name]

    def key(self, name: str | None = None) -> jax.Array:
        """Return a random key, new at each call; without a name, the layer's own key."""
        if name is None:
            return self._drawn_with(self._checked_key("m.key()", SPLIT.format("m.key()")))
        _check_entry_name(name, "m.key(name)")
        path = f"key/{name}"  # the name of a child never contains '/'
        count = self._counted(path)
        form = f"m.key({name!r})"
        return self._drawn_with(folded(self._checked_key(form, SPLIT.format(form)), path, count))

    def keys(self, name: str, n: int | None = None) -> Any:
        """Return a key for `m(layer, x, key=key)`, or n of them; None in evaluation without a key.

        So a loop of JAX with a key for each turn, `(x, m.keys("turns", n))`, runs in both modes.
        """
        if self._key is None and not self._in_training:
            return None
        key = self.key(name)
        return key if n is None else jax.random.split(key, n)

    def _drawn_with(self, key: Any) -> jax.Array:
        return usable(key, self._mode, self._x)

    def _checked_key(self, form: str, write: str) -> Any:
        write = "it with the m that the body of m.scan gets" if self._has_loop else write
        return key_at(self._home, self._key, form, write)

    def _check_called_once(self, name: str) -> None:
        """Raise for a second call in a stream, where each call keeps something for later chunks."""
        if self._in_loop:
            raise ValueError(
                f"{current_path()}: is called at each turn of m.scan in a stream, where each call "
                "keeps its own state. Write jn.repeat(layer, n), whose copies have params of their "
                "own, or m.whole(layer, x) for a part that gets its whole input at each call"
            )
        if self._counts[name]:
            raise ValueError(
                f"{current_path()}: is called twice in a stream, where each call keeps its own "
                "state; make a second layer"
            )

    def _key_of(self, name: str, count: int) -> Any:
        """Return the key of a call of a child."""
        write = (
            f"m({name}, x, key=key), with key = m.keys({name!r}) or, for turns of a loop, one of "
            f"m.keys({name!r}, n) from outside, or make the loop by m.scan(body, carry, xs)"
        )
        above = "/".join(calls()[:-1])
        return folded(self._checked_key(f"m({name}, x) in {above}", write), name, count)

    def _inline(self, layer: Layer, x: PyTree) -> PyTree:
        """Return the output of a layer that has this layer's entries; for layers around a layer."""
        if callable(layer.inside):
            return layer.inside(self, x)
        self._counts |= dict.fromkeys([*self._params, *self._state], 0)
        key = self._checked_key("m._inline(layer, x)", "the call outside of that function")
        return self._run(layer, None, x, key)

    def scan(
        self,
        body: Callable[["Scope", PyTree, PyTree], tuple[PyTree, PyTree]],
        carry: PyTree,
        xs: PyTree = None,
        length: int | None = None,
        *,
        reverse: bool = False,
        unroll: int = 1,
    ) -> tuple[PyTree, PyTree]:
        """Return the last carry and the stacked outputs of a loop, as `jax.lax.scan` does.

        All turns share the params. Each has a random key of its own, the state goes from turn to
        turn, and sown values are stacked.

        Args:
          body: Function `(m, carry, x) -> (carry, y)`, which applies layers by its own `m`.
          carry: What the first turn gets.
          xs: Arrays with an entry for each turn along their first axis; None gives x = None.
          length: Number of turns, if `xs` does not tell it.
          reverse: Whether the turns go from the last entry of `xs` to the first; the outputs keep
            the order of `xs`.
          unroll: Number of turns that are compiled one after another, for a faster loop and a
            longer compilation.
        """
        checks.check_options(f"{current_path()}: m.scan", reverse=reverse)
        checks.at_least(f"{current_path()}: m.scan", "unroll", unroll)
        turns = number_of_turns(body, xs, length)
        if self.stream is not None and xs is not None:
            raise ValueError(
                f"{current_path()}: m.scan would begin anew with each chunk of a stream. For a "
                "loop over time, write jn.recurrent(cell), whose carry a stream keeps; for a loop "
                "over something else, leave out xs and count the turns in the carry"
            )
        count = self._counts["scan/"] = self._counts.get("scan/", -1) + 1  # no child has this name
        write = (
            "m(loop, x, key=key), with loop = jn.compose(forward) of a function forward(m, x) that "
            "holds the m.scan, and key = m.keys('loop') or one of m.keys('loop', n) from outside"
        )
        key = folded(self._checked_key("m.scan(body, carry, xs)", write), "scan/", count)
        traced: list[Scope] = []  # JAX may trace the body again, with another type of the carry

        def turn(loop, each):
            (carry, state), (i, x) = loop, each
            m = self._in_turn(state, key_of_turn(key, i))
            pair = body(m, carry, x)
            check_pair(pair, "the body of m.scan must return (carry, y)")
            traced[:] = [m]
            after = {name: m._state[name] for name in state}
            m._changed = jax.tree.map(lambda old, new: old is not new, state, after)
            m._devices = jax.tree.map(varying_axes, after)
            return (self._match_carry(pair[0], carry), after), (pair[1], m._sown)

        before = self._carried()
        each = jnp.arange(turns), xs
        marked, self._has_loop = before, True
        if any(map(varying_axes, jax.tree.leaves((carry, each, self._x)))):  # in jax.shard_map
            jax.eval_shape(turn, (carry, before), jax.tree.map(lambda a: a[0], each))
            marked = jax.tree.map(varying_over, before, traced[0]._devices)
        (carry, after), (y, sown) = jax.lax.scan(
            turn, (carry, marked), each, length=turns, reverse=reverse, unroll=unroll
        )
        self._has_loop = False
        self._continue(traced[0], before, after, sown)
        return carry, y

    def _match_carry(self, carry: PyTree, previous: PyTree) -> PyTree:
        """Return a carry, below `jn.cast` in the dtypes in which the turn got it."""
        alike = jax.tree.structure(carry) == jax.tree.structure(previous)
        if not alike or jax.tree.map(jnp.shape, carry) != jax.tree.map(jnp.shape, previous):
            raise ValueError(
                f"{current_path()}: the body of m.scan must return a carry like the one that it "
                f"gets, {describe(previous)}, got {describe(carry)}"
            )
        if self._mode.dtype is None:
            return carry
        return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), carry, previous)

    def _carried(self) -> State:
        """Return the state that goes from turn to turn."""
        return self._state

    def _in_turn(self, state: State, key: Any) -> "Scope":
        """Return the `m` of one turn of a loop."""
        watches = tuple(each for each in self._mode.watches if each.transforms or each.done())
        m = self._in(self._mode_of_child()._replace(watches=watches))
        m._key, m._home, m._sown = key, trace_state(), {}
        m._in_loop, m._has_loop = True, False
        m._state, m._names = {**self._state, **state}, dict(self._names)
        m._counts, m._declared = dict(self._counts), dict(self._declared)
        return m

    def _continue(self, m: "Scope", before: State, after: State, sown: dict[str, PyTree]) -> None:
        """Go on where the last turn ended."""
        self._names, self._counts, self._declared = m._names, m._counts, m._declared
        self._dtype, self._wide = m._dtype, m._wide
        if any(jax.tree.leaves(m._changed)):
            self._check_at_home("m.scan(body, carry, xs), whose layers change their state,")

        def pick(changed, old, new):
            return new if changed else old

        self._state.update(jax.tree.map(pick, m._changed, before, after))
        for path, value in sown.items():
            self._note(path, value)

    def whole(self, layer: Layer | Callable[..., Any], x: PyTree) -> PyTree:
        """Return the output of a child outside the stream, with its whole input at each call."""
        return self._in(self._mode._replace(stream=None))(layer, x)

    def _not_in_stream(self, why: str) -> None:
        """Raise inside a stream, for a layer whose outputs need other parts of the sequence."""
        if self.stream is not None:
            raise ValueError(f"{current_path()}: {why}, so it does not work in a stream")

    def _seen(self, value: jax.Array) -> jax.Array:
        self._wide |= self._mode.rounded(value) is not value
        return value

    def _rounded(self, tree: PyTree, axes: int = 0) -> PyTree:
        """Return what leaves this layer, in the dtype of the computation."""
        return self._mode.rounded(tree, axes) if self._wide else tree

    def _penalize(self, penalty: Callable[[Params], Any]) -> Any:
        """Return a function of all parameters of this layer; 0 in init."""
        return penalty(materialized(self._params))

    def _watched(self, watch: Watch) -> "Scope":
        """Return the same scope with one more watch."""
        return self._in(self._mode.watched(watch))

    def _in(self, mode: Mode) -> "Scope":
        scope = copy.copy(self)
        scope._mode = mode
        return scope

    def _run(self, layer: Layer, name: str | None, x: PyTree, key: Any) -> PyTree:
        """Return the output of a child or, without a name, of a layer with this layer's entries."""
        params = self._part(self._params, name)
        state_before = self._part(self._state, name)
        try:
            y, state = run(layer, params, state_before, x, key, self._mode_of_child())
        except Misfit as error:
            if len(error.path) == len(calls()) and name not in (None, *self._params):
                error.add_note(f"entries given here: {', '.join(self._params)}")
            raise
        if state and _are_other_arrays(state_before, state):
            if self.stream is not None and name is not None:
                self._check_called_once(name)
            sows = any(entry.startswith(SOWN) for entry in state)
            what = "that sows a value, read by jn.collect" if sows else "that changes its state"
            self._check_at_home(f"m({layer.name}, x), a layer {what},")
        for entry in [entry for entry in state if entry.startswith(SOWN)]:
            below = entry.removeprefix(SOWN)
            self._note(below if name is None else f"{name}/{below}", state.pop(entry))
        if state:
            self._state.update(state if name is None else {name: state})
        return y

    def _mode_of_child(self) -> Mode:
        """Return the mode of a call, which knows whether a state that it returns goes on."""
        if self._state and trace_state() != self._home:
            return self._mode._replace(keeps_state=False)
        return self._mode

    def _part(self, tree: dict[str, Any], name: str | None) -> dict[str, Any]:
        """Return the entries of a child or, without a name, those that are not this layer's own."""
        if name is not None:
            return tree.get(name, {})
        return {entry: value for entry, value in tree.items() if entry not in self._declared}

    def _counted(self, name: str) -> int:
        """Return how often a name was called before, and count this call."""
        count = self._counts.get(name, -1) + 1
        self._counts[name] = count
        return count

    def _check_at_home(self, what: str) -> None:
        """Raise in a function that JAX traces, such as the body of a scan: its values end there."""
        if self._has_loop:
            raise ValueError(
                f"{current_path()}: {what} is called by another m than the body of m.scan gets"
            )
        if trace_state() != self._home:
            raise ValueError(
                f"{current_path()}: {what} is called inside a function that JAX traces, such as "
                "the body of jax.lax.scan or of jax.grad, so the value ends with that function. "
                "Make the loop by m.scan(body, carry, xs), which hands the state from turn to "
                "turn; elsewhere return the value from that function, and make the call after it"
            )

    def _name(self, layer: Layer | Callable[..., Any], base: str) -> str:
        """Return the child's name here: its layer's name, with a number if it is taken."""
        if id(layer) not in self._names:
            if base in self._declared:
                raise ValueError(
                    f"{current_path()}: the child {base!r} has the name of a parameter"
                )
            self._held.append(layer)
            self._names[id(layer)] = free_name(base, {*self._names.values(), *self._declared})
        return self._names[id(layer)]

    def _finish(self, all_entries: Callable[[], tuple[Params, State]]) -> State:
        """Return the state after the run; raise if an entry belongs to nothing here.

        Args:
          all_entries: Function that returns the entries of this layer, in training and evaluation.
        """
        trees = {"params": self._params, "state": self._state}
        unused = [
            (what, name) for what in trees for name in trees[what] if name not in self._counts
        ]
        if unused:  # those of the other mode rest in this one
            entries_of = dict(zip(trees, all_entries(), strict=True))
            words = [f"{what}/{name}" for what, name in unused if name not in entries_of[what]]
            if words:
                called = ", ".join(name for name in self._counts if "/" not in name) or "none"
                raise ValueError(
                    f"{current_path()}: unused entries: {', '.join(words)}; layers here: {called}"
                )
        return self._state | {SOWN + path: value for path, value in self._sown.items()}

    if not TYPE_CHECKING:  # otherwise a type checker would accept every name

        def __getattr__(self, name: str) -> Any:
            hint = ""
            if name == "params":
                hint = (
                    ". Params belong to the caller: net.apply(params, state, x). For a penalty on "
                    "them, pass jn.supervised(..., penalty=...)"
                )
            raise AttributeError(
                f"m has no attribute {name!r}; it has m(layer, x), m.param, m.kernel, m.state, "
                "m.update, m.sow, m.key, m.keys, m.train, m.scan, m.whole and m.stream" + hint
            )

    def __dir__(self) -> list[str]:
        """Return the public names, of which Python suggests one for a misspelled name."""
        return [name for name in super().__dir__() if not name.startswith("_")]


class Outline(Scope):
    """The `m` of init: it notes in a plan what a layer asks for, and goes on with zeros."""

    def __init__(self, x, key, plan: Plan, mode: Mode):
        super().__init__(x, {}, {}, key, mode)
        self._plan = plan
        self._asked: list[bool] = []  # whether the forward function looks at the mode

    @property
    def train(self) -> bool:
        self._asked.append(True)
        return self._mode.train

    @property
    def _in_training(self) -> bool:
        return self._mode.train

    def _with_training(self, layer: Layer) -> None:
        """Note what a layer that looks at the mode asks for in training, too.

        What fails there, such as batch norm for an input of one example, does so in training.
        """
        if self._mode.train or not self._asked:
            return
        plan, mode = copied(self._plan), self._mode._replace(train=True)
        try:
            _output_of(layer, other := Outline(self._x, self._key, plan, mode), self._x)
        except Exception:
            return
        self._plan.update(plan)
        names, others = self._drawn_names(), other._drawn_names()
        if moved := [n for n in names.keys() ^ others.keys() if n != (names | others)[n]]:
            raise ValueError(
                f"{current_path()}: {min(moved)!r} is in one of training and evaluation alone, so "
                "the number in its name may be another layer's in the other. Give the layer a name "
                "of its own, as in jn.dense(3, name='head')"
            )

    def _check_initializers(self) -> None:
        """Raise if an initializer returns another shape or dtype than was asked for."""
        for name in self._declared:
            _, draw, _ = self._plan[name]
            jax.eval_shape(draw, key_spec())

    def _drawn_names(self) -> dict[str, str]:
        """Return the names of children that have entries, with the names of their layers."""
        layers = {id(each): each for each in self._held}
        named = {name: getattr(layers[i], "name", name) for i, name in self._names.items()}
        return {name: base for name, base in named.items() if pruned(self._plan.get(name, {}))}

    def sow(self, name: str, value: PyTree) -> None:
        _check_entry_name(name, "m.sow(name, value)")

    def _penalize(self, penalty: Callable[[Params], Any]) -> Any:
        return 0.0

    def _carried(self) -> State:
        return {}  # whose entries are not known before the loop

    def _check_at_home(self, what: str) -> None:
        """Nothing is kept here."""

    def _checked_key(self, form: str, write: str) -> Any:
        return self._key  # nothing is drawn here

    def _drawn_with(self, key: Any) -> Any:
        return key

    def _lookup(self, kind: str, tree: dict, name: str, initializer, needed) -> jax.Array:
        who = current_path()
        is_state = kind == "state"

        def draw(key):
            return checks.initialized(who, name, initializer, key, needed)

        _, _, first = self._plan.setdefault(name, (is_state, draw, needed))
        compare(kind, {name: first}, {name: needed}, self._x)
        if is_state:
            return tree.setdefault(name, _zeros(needed))
        return _zeros(needed)

    def _run(self, layer: Layer, name: str | None, x: PyTree, key: Any) -> PyTree:
        plan = self._plan if name is None else self._plan.setdefault(name, {})
        return _outline(layer, x, key, plan, self._mode)


def _are_other_arrays(before: PyTree, after: PyTree) -> bool:
    """Return whether any array of a tree is another one."""
    old = [id(leaf) for leaf in jax.tree.leaves(before)]
    new = [id(leaf) for leaf in jax.tree.leaves(after)]
    return old != new


def _check_entry_name(name: Any, form: str) -> None:
    if not (isinstance(name, str) and name and "/" not in name):
        raise TypeError(f"{current_path()}: expected {form}, a name without '/', got {name!r:.40}")


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


def _outline(layer: Layer, x: PyTree, key: Any, plan: Plan, mode: Mode) -> PyTree:
    """Return the output of a layer while tracing, with fresh entries, noted in the plan."""
    shape = checks.abstract(x, current_path())
    if not isinstance(layer.inside, LayerTransform):
        m = Outline(x, key, plan, mode)
        try:
            y = _output_of(layer, m, x)
        except Exception:
            m._check_initializers()  # zeros of another dtype than theirs may be the reason
            raise
        m._with_training(layer)
        return y
    reduced = _for_entries(mode)

    def draw(key):
        return begin(layer, key, shape, reduced)

    params, state = draw(key)
    _, first = plan.setdefault("", (draw, shapes_of((params, state))))
    needed_params, needed_state = first
    compare("params", needed_params, params, shape)
    compare("state", needed_state, state, shape)
    y, _ = run(layer, params, state, x, key, mode)
    return y


def _output_of(layer: Layer, m: "Scope", x: PyTree) -> PyTree:
    y = layer.inside(m, x)
    if y is None:
        raise TypeError(
            f"{current_path()}: the function returned None; is its return statement missing?"
        )
    return m._rounded(y, axes=2)  # a loss of each example keeps its digits


def _output(layer: Layer, x: PyTree, memo: Memo, mode: Mode) -> PyTree:
    """Return the shapes of the output of a layer that is not run."""
    shape = checks.abstract(x, current_path())

    def trace(x, key):
        return _outline(layer, x, key, {}, mode._replace(watches=()))

    def make():
        return jax.eval_shape(trace, shape, key_spec())

    return memo.of((calls(), signature(shape)), make)


def _zeros(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def as_layer(value: Any, who: str = "as_layer", what: str = "") -> Layer:
    """Convert a layer, a pair of functions or a plain function to a layer of this library.

    Args:
      value: A layer, or a function of x.
      who: Name of the calling function, for the error.
      what: Name of its argument.

    Returns:
      A layer; a layer is returned as it is.

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
        if value.inside is None:
            return _of_pair(value)
        if not (callable(value.inside) or isinstance(value.inside, LayerTransform)):
            raise TypeError(
                f"{value.name}: `inside` is what jn.compose and jn.transforms.transform give a "
                "layer; for a transform of your own, write jn.transforms.transform(layer, apply, "
                f"kind={value.kind!r}), with apply(run, params, state, x) -> (y, state)"
            )
        return value
    if callable(value):
        name = function_name(value)
        check_holds_no_weights(who, name, value)
        return make_layer(name, "function", lambda m, x: _applied(value, m, x))
    rule = "expected a layer or a function"
    if what:
        rule = f"{what} must be a layer, such as jn.dense(3)"
    hint = ""
    if isinstance(value, list | tuple):
        hint = "; pass several layers one by one, as in jn.serial(a, b, c)"
    raise TypeError(f"{who}: {rule}, got {type(value).__name__}{hint}")


def _of_pair(pair: Layer) -> Layer:
    """Return a pair of functions as a transform of no layer, whose entries are compared."""
    who = pair.kind or "Layer"
    checks.check_name(who, pair.name)
    checks.a_function(who, "init", pair.init, "(key, x)")
    checks.a_function(who, "apply", pair.apply, "(params, state, x, *, key=None, train=False)")

    def apply(run, params, state, x):
        key, withheld = run.call_key, isinstance(run.call_key, Withheld)
        key = None if key is None or withheld else of_device(key, x)
        try:
            result = pair.apply(materialized(params), state, x, key=key, train=run.train)
        except Exception as error:
            if withheld and run.train:  # its own words cannot say why it got no key
                raise ValueError(run.call_key.words()) from error
            raise
        check_pair(result, "apply must return (y, state)")
        y, after = result
        return run.mode.rounded(y), after

    def init(run, key, x):
        return pair.init(key, x)

    def make():
        record = LayerTransform(None, apply, init, new_entries=True)
        return pair, make_layer(pair.name, pair.kind or pair.name, record)

    # A pair that is used twice is the same layer, so it shares its params. It is held next to the
    # ids of its functions, which Python may give to others once they are free.
    ids = tuple(id(field) for field in (pair.init, pair.apply, pair.name, pair.kind))
    _, layer = memo_of(pair.apply).of(ids, make)
    return layer


def _applied(function: Callable[..., Any], m: Scope, x: PyTree) -> PyTree:
    """Return the output of a plain function; raise if it makes layers, or cuts a stream."""
    name = function_name(function)
    uncalled = f"got the function `{name}`, not a layer; did you forget to call it: {name}()?"
    try:
        y = activated(function, x)
    except Exception as error:
        if _makes_layers(function):
            raise TypeError(uncalled) from error
        if not takes(function, 1):
            raise TypeError(f"{name}: must be a function of one argument, x") from error
        raise
    if isinstance(y, Layer):
        raise TypeError(uncalled)
    chunk = () if m.stream is None else m.stream.chunk
    has_steps = bool(chunk) and getattr(x, "shape", ())[:2] == chunk
    if has_steps and getattr(y, "shape", chunk)[:2] != chunk:
        raise ValueError(f"{current_path()}: must keep (batch, time) = {chunk} in a stream")
    return y


def _makes_layers(function: Callable) -> bool:
    try:
        return inspect.signature(function).return_annotation in (Layer, "Layer")
    except (TypeError, ValueError):  # a builtin without a signature
        return False
