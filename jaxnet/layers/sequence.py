"""What a sequence is, and layers that make sequence layers of other layers.

A sequence is one of these, and a layer of sequences gives back the same form:

    in                                                out
    x                    (batch, time, ...)           y
    (x, lengths)         lengths (batch,) of integers (y, lengths)
    {"x": x, ...}        and, where known,            {"x": y, "final": carry, ...}
                         "lengths", "initial": carry  and "lengths" where given

So `serial(lstm(8), lstm(8))` works on each, and the dict is how states go in and out. With lengths,
what lies beyond a sequence's own length has no influence on anything, and outputs there are zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, PyTree, checked, compose, stateless


class Sequence(NamedTuple):
    """The parts of a sequence, whichever form it came in.

    Fields:
      x: (batch, time, ...).
      lengths: (batch,) integers in [0, time], or None where every sequence has all steps.
      initial: the states before the first step, or None for zeros.
      given: the sequence as it came.
    """

    x: Any
    lengths: Any
    initial: PyTree
    given: PyTree

    def mask(self) -> jax.Array | None:
        """(batch, time), True at the steps that count; None without lengths."""
        if self.lengths is None:
            return None
        return jnp.arange(self.x.shape[1]) < self.lengths[:, None]

    def write(self, y: PyTree, final: PyTree = None) -> PyTree:
        """The output y (batch, time, ...) in the form of the input, zero beyond the lengths."""
        mask = self.mask()
        if mask is not None:
            y = jnp.where(mask.reshape(mask.shape + (1,) * (y.ndim - 2)), y, 0)
        if isinstance(self.given, tuple | list):
            return y, self.lengths
        if isinstance(self.given, dict):
            rest = {} if self.lengths is None else {"lengths": self.lengths}
            return {"x": y, **rest} | ({} if final is None else {"final": final})
        return y


def read(given: PyTree, who: str, *, rank: int = 3, passing: bool = False) -> Sequence:
    """The parts of a sequence, checked; also for specs in place of arrays.

    Args:
      given: array, (x, lengths) or dict.
      who: the layer's name, for messages.
      rank: the least number of axes of x.
      passing: whether a dict may hold "final", from the layer before.

    Raises:
      TypeError: for another form, or lengths that are no integers.
      ValueError: for a wrong shape, no steps, an unknown entry, or lengths out of range, which is
        looked at only where lengths are known numbers (not under jit).

    Example:
      >>> read((jnp.ones((2, 5, 3)), jnp.array([4, 1])), "lstm").mask().sum(1).tolist()
      [4, 1]
    """
    axes = "(batch, time, features)" if rank > 2 else "(batch, time, ...)"
    x, lengths, initial = given, None, None
    if isinstance(given, dict):
        known = {"x", "lengths", "initial"} | ({"final"} if passing else set())
        if "x" not in given or set(given) - known:
            raise ValueError(
                f"{who}: a dict needs 'x' {axes} and may have 'lengths' (batch,) and 'initial' "
                f"(a carry), got the entries {sorted(map(str, given))}"
            )
        x, lengths, initial = given["x"], given.get("lengths"), given.get("initial")
    elif isinstance(given, tuple | list):
        if len(given) != 2:
            raise ValueError(f"{who}: a tuple is (x, lengths), got {len(given)} entries")
        x, lengths = given
    if not hasattr(x, "shape"):
        raise TypeError(
            f"{who}: needs x {axes}, (x, lengths) or a dict of x, lengths and initial, "
            f"got {type(x).__name__} for x"
        )
    if len(x.shape) < rank or (rank > 2 and len(x.shape) != rank):
        raise ValueError(
            f"{who}: needs x {axes}, got {tuple(x.shape)}; one sequence alone is x[None], one step "
            "of a batch x[:, None], and tokens go through jn.embedding first"
        )
    if x.shape[1] < 1:
        raise ValueError(f"{who}: needs at least one time step, got x of {tuple(x.shape)}")
    if lengths is not None:
        lengths = _checked_lengths(lengths, x.shape, who)
    return Sequence(x, lengths, initial, given)


def _checked_lengths(lengths: Any, shape: tuple[int, ...], who: str) -> Any:
    if not hasattr(lengths, "dtype") or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"{who}: lengths must be an array of integers, one a sequence, got "
            f"{getattr(lengths, 'dtype', type(lengths).__name__)}; a mask becomes lengths by "
            "mask.sum(1)"
        )
    if lengths.shape != shape[:1]:
        raise ValueError(
            f"{who}: lengths must be (batch,) = {shape[:1]} for x of {tuple(shape)}, "
            f"got {tuple(lengths.shape)}"
        )
    if isinstance(lengths, jax.ShapeDtypeStruct):
        return lengths
    try:
        known = np.asarray(lengths)
    except jax.errors.TracerArrayConversionError:  # under jit values are not known
        return lengths
    if known.size and not (0 <= known.min() and known.max() <= shape[1]):
        raise ValueError(
            f"{who}: lengths must be in [0, {shape[1]}], the steps of x, "
            f"got {known.min()} to {known.max()}"
        )
    return lengths


def time_distributed(layer: Layer | Callable, *, name: str | None = None) -> Layer:
    """A layer for arrays, put among layers of sequences: it maps x, the rest goes by.

    The layer gets x as it is, (batch, time, ...), padding included, so it should act on each step
    alone, as `dense`, `dropout`, `embedding` and `jax.nn.relu` do. Its outputs beyond the lengths
    are set to zero. Its params are those of the layer.

    Args:
      layer: a layer or plain function for arrays.
      name: of the layer; by default the name of the one inside.

    Raises:
      ValueError: for an input that is no sequence, or an output without the axes batch and time.

    Example:
      >>> net = jn.serial(time_distributed(jnp.tanh), lambda s: s[0].sum(1))
      >>> y, _ = net.apply({}, {}, (jnp.ones((2, 5, 3)), jnp.array([4, 1])))
      >>> y[:, 0].round(2).tolist()
      [3.04..., 0.75...]
    """
    if isinstance(layer, Layer):
        inner = layer
    else:
        called = getattr(layer, "__name__", "time_distributed").strip("<>")
        inner = stateless(lambda key, x: {}, lambda params, x: layer(x), name=called)
    name = name or inner.name

    def init(key, given):
        return inner.init(key, read(given, name, rank=2, passing=True).x)

    def apply(params, state, given, *, key=None, train=False):
        sequence = read(given, name, rank=2, passing=True)
        y, state = inner.apply(params, state, sequence.x, key=key, train=train)
        if not hasattr(y, "shape") or y.shape[:2] != sequence.x.shape[:2]:
            raise ValueError(
                f"{name}: time_distributed needs a layer that keeps the axes (batch, time) = "
                f"{sequence.x.shape[:2]}, got {getattr(y, 'shape', type(y).__name__)}"
            )
        out = sequence.write(y)
        return ({**given, **out} if isinstance(given, dict) else out), state

    return checked(Layer(init, apply, name))


def last_step(*, name: str = "last_step") -> Layer:
    """The value at each sequence's last step: (batch, time, ...) to (batch, ...).

    A sequence of length 0 gives zeros. After `bidirectional`, the backward half of it has seen one
    step only; there the entry "final" of the dict form is what has seen everything.

    Args:
      name: of the layer.

    Raises:
      ValueError: for an input that is no sequence.

    Example:
      >>> x = jnp.arange(10.0).reshape(2, 5, 1)
      >>> y, _ = last_step().apply({}, {}, (x, jnp.array([4, 1])))
      >>> y.ravel().tolist()
      [3.0, 5.0]
    """

    def apply(params, given):
        x, lengths, _, _ = read(given, name, rank=2, passing=True)
        if lengths is None:
            return x[:, -1]
        here = jnp.arange(x.shape[1]) == lengths[:, None] - 1  # (batch, time)
        here = here.reshape(here.shape + (1,) * (x.ndim - 2))
        return jnp.where(here, x, 0).sum(1, dtype=x.dtype)

    return stateless(lambda key, x: {}, apply, name=name)


def stack_rnn(*layers: Layer, name: str = "stack_rnn") -> Layer:
    """Layers of sequences one after another, as `serial`, with the states of all of them.

    In the dict form, "initial" and "final" are tuples with one entry a layer. Dropout between two
    layers is part of one of them: `stack_rnn(lstm(8), serial(time_distributed(dropout(0.5)), lstm(8)))`.

    Args:
      layers: such as `lstm`, `bidirectional` or `recurrent`.
      name: of the layer.

    Raises:
      ValueError: without layers, or where "initial" has not one entry a layer.

    Example:
      Two layers, and one more step that goes on from where they stopped:

      >>> net = stack_rnn(jn.lstm(4), jn.gru(7))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> y, _ = net.apply(params, state, {"x": jnp.ones((2, 5, 3))})
      >>> y, _ = net.apply(params, state, {"x": jnp.ones((2, 1, 3)), "initial": y["final"]})
      >>> y["x"].shape, y["final"][0]["c"].shape, y["final"][1].shape
      ((2, 1, 7), (2, 4), (2, 7))
    """
    if not layers:
        raise ValueError("stack_rnn: needs at least one layer, such as stack_rnn(lstm(8), lstm(8))")

    def forward(m, given):
        if not isinstance(given, dict):
            for layer in layers:
                given = m(layer, given)
            return given
        sequence = read(given, name, rank=2)
        initial = sequence.initial
        if initial is None:
            initial = (None,) * len(layers)
        if not isinstance(initial, tuple | list) or len(initial) != len(layers):
            raise ValueError(
                f"{name}: 'initial' must be a tuple of {len(layers)} carries, one a layer, got "
                f"{f'{len(initial)} entries' if hasattr(initial, '__len__') else initial}"
            )
        final = []
        for layer, carry in zip(layers, initial, strict=True):
            out = m(layer, _with(given, carry))
            given, final = {**given, "x": out["x"]}, [*final, out["final"]]
        return {k: v for k, v in given.items() if k != "initial"} | {"final": tuple(final)}

    return compose(forward, name=name)


def bidirectional(
    forward: Layer,
    backward: Layer | None = None,
    *,
    merge: Callable[[jax.Array, jax.Array], jax.Array] = lambda a, b: jnp.concatenate([a, b], -1),
    name: str = "bidirectional",
) -> Layer:
    """A layer from left to right and another from right to left, so each step sees all others.

    The backward direction starts at each sequence's own last step, never in the padding; its
    outputs are turned round again, so that both halves of an output belong to the same step. In the
    dict form, "initial" and "final" are {"forward": carry, "backward": carry}; the final carry of
    the backward direction is that at the first step.

    Args:
      forward: a layer of sequences.
      backward: the other direction's layer; by default the same kind, with params of its own.
      merge: makes one output of the two directions' (batch, time, ...); they are joined along the
        features by default, and `merge=jnp.add` keeps their number.
      name: of the layer.

    Params:
      forward, backward: those of the two layers.

    Raises:
      ValueError: for an input that is no sequence, or "initial" without the two directions.

    Example:
      >>> net = bidirectional(jn.gru(4))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> (y, lengths), _ = net.apply(params, state, (jnp.ones((2, 5, 3)), jnp.array([5, 3])))
      >>> y.shape, bool((y[1, 3:] == 0).all())
      ((2, 5, 8), True)

    Reference: Schuster and Paliwal 1997, "Bidirectional Recurrent Neural Networks".
    """
    ahead = forward._replace(name="forward")
    back = (backward or forward)._replace(name="backward")

    def both(m, given):
        sequence = read(given, name, rank=2)
        x, lengths, initial, _ = sequence
        if initial is None:
            initial = {"forward": None, "backward": None}
        if not isinstance(initial, dict) or set(initial) != {"forward", "backward"}:
            raise ValueError(
                f"{name}: 'initial' must be {{'forward': carry, 'backward': carry}}, got "
                f"{sorted(initial) if isinstance(initial, dict) else type(initial).__name__}"
            )
        turned = _turned(x, lengths)
        if isinstance(given, dict):
            a = m(ahead, _with(given, initial["forward"]))
            b = m(back, _with({**given, "x": turned}, initial["backward"]))
            final = {"forward": a["final"], "backward": b["final"]}
            y = merge(a["x"], _turned(b["x"], lengths))
        elif lengths is not None:
            y = merge(m(ahead, given)[0], _turned(m(back, (turned, lengths))[0], lengths))
            final = None
        else:
            y, final = merge(m(ahead, x), _turned(m(back, turned), None)), None
        return sequence.write(y, final)

    return compose(both, name=name)


def _turned(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Each sequence from its last step to its first; what lies beyond stays where it is."""
    if lengths is None:
        return jnp.flip(x, 1)
    t, n = jnp.arange(x.shape[1]), jnp.clip(lengths, 0, x.shape[1])[:, None]
    places = jnp.where(t < n, n - 1 - t, t)  # (batch, time), each step once
    return jax.vmap(
        lambda row, place: row.at[place].get(mode="promise_in_bounds", unique_indices=True)
    )(x, places)


def _with(given: dict, initial: PyTree) -> dict:
    """The dict with another initial carry, or with none."""
    rest = {key: value for key, value in given.items() if key != "initial"}
    return rest if initial is None else {**rest, "initial": initial}
