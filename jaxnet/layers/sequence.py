"""The forms of a sequence, and layers built from sequence layers.

A sequence has one of these forms, and a sequence layer returns the form it got:

    in                                                out
    x                    (batch, time, ...)           y
    (x, lengths)         lengths (batch,) integers    (y, lengths)
    {"x": x, ...}        with optional "lengths"      {"x": y, "final": carry, ...}
                         and "initial": carry         with "lengths" if given

So `serial(lstm(8), lstm(8))` accepts all three, and the dict passes carries in and out. Steps
beyond a sequence's length influence nothing, and outputs there are zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, as_layer, compose, transformed
from jaxnet.services.checks import a_function, check_values, is_traced
from jaxnet.services.trees import PyTree


class Sequence(NamedTuple):
    """The parts of a sequence of any form.

    Fields:
      x: Values (batch, time, ...).
      lengths: Integers (batch,) in [0, time], or None if all steps count.
      initial: Carry before the first step, or None for zeros.
      given: Sequence in its original form.
    """

    x: Any
    lengths: Any
    initial: PyTree
    given: PyTree

    def mask(self) -> jax.Array | None:
        """Return booleans (batch, time), True within the lengths; None without lengths."""
        if self.lengths is None:
            return None
        return jnp.arange(self.x.shape[1])[None] < self.lengths[:, None]

    def without_padding(self) -> jax.Array:
        """Return x with zeros beyond the lengths, so that the padding may even be NaN."""
        mask = self.mask()
        if mask is None:
            return self.x
        return jnp.where(_beside(mask, self.x.ndim), self.x, 0)

    def fill(self, dtype: Any) -> Any:
        """What stands for a missing step: 0, and NaN if the length is out of range under jit."""
        if not is_traced(self.lengths) or not jnp.issubdtype(dtype, jnp.floating):
            return 0  # known lengths were checked
        lengths = self.lengths.astype(jnp.int32)  # of 8 bits, they wrap beyond 255 steps
        fits = (lengths >= 0) & (lengths <= self.x.shape[1])
        return jnp.where(fits, 0, jnp.nan).astype(dtype)

    def write(self, y: PyTree, final: PyTree = None) -> PyTree:
        """The output y (batch, time, ...) in the form of the input, zero beyond the lengths.

        All of a sequence is NaN if its length is out of range, which only jit lets through.
        """
        mask = self.mask()
        fill = self.fill(y.dtype)
        if mask is not None:
            if not isinstance(fill, int):
                fits = fill == 0
                mask = mask & fits[:, None]
                fill = _beside(fill[:, None], y.ndim)
            y = jnp.where(_beside(mask, y.ndim), y, fill)
        if isinstance(self.given, tuple | list):
            return y, self.given[1]
        if not isinstance(self.given, dict):
            return y
        out = {"x": y}
        if self.lengths is not None:
            out["lengths"] = self.lengths
        if final is not None:
            out["final"] = final
        return out


def read_sequence(given: PyTree, who: str, *, rank: int = 3, passing: bool = False) -> Sequence:
    """Split a sequence into its parts and check them; specs are accepted as well.

    Args:
      given: Array, (x, lengths) or dict.
      who: Name of the layer, for messages.
      rank: Rank, 3 for x (batch, time, features); 2 for any x (batch, time, ...).
      passing: Whether a dict may contain "final", from the previous layer.

    Returns:
      A `Sequence`. Its `write` gives the output of the layer the form in which the input came.

    Raises:
      TypeError: If the input has the wrong form, or lengths are not integers.
      ValueError: If a shape is wrong, steps are missing, or an entry is unknown.
      ValueError: If lengths are out of range. Under jit they are unknown, and `Sequence.write`
        fills such sequences with NaN.

    Example:
      >>> read_sequence((jnp.ones((2, 5, 3)), jnp.array([4, 1])), "lstm").mask().sum(1).tolist()
      [4, 1]
    """
    axes = "(batch, time, features)" if rank > 2 else "(batch, time, ...)"
    x: Any = given
    lengths = initial = None
    if isinstance(given, dict):
        allowed = {"x", "lengths", "initial"}
        if passing:
            allowed.add("final")
        if "x" not in given or set(given) - allowed:
            hint = ""
            if "final" in given:
                hint = "; to stack layers, write jn.layers.stack_rnn(a, b)"
            raise ValueError(
                f"{who}: a dict needs 'x' {axes} and may have 'lengths' (batch,) and 'initial' "
                f"(a carry), got the entries {sorted(map(str, given))}{hint}"
            )
        x, lengths, initial = given["x"], given.get("lengths"), given.get("initial")
    elif isinstance(given, tuple | list):
        if len(given) != 2:
            raise ValueError(f"{who}: a tuple is (x, lengths), got {len(given)} entries")
        x, lengths = given
    if not hasattr(x, "shape"):
        raise TypeError(
            f"{who}: expected x {axes}, (x, lengths) or a dict of x, lengths and initial, "
            f"got {type(x).__name__} for x"
        )
    if len(x.shape) < rank or (rank > 2 and len(x.shape) != rank):
        raise ValueError(
            f"{who}: expected x of shape {axes}, got {tuple(x.shape)}. For a single sequence, pass "
            "x[None]; for a single step of a batch, x[:, None]; for tokens, put jn.embedding first"
        )
    if x.shape[1] < 1:
        raise ValueError(f"{who}: needs at least one time step, got x of shape {tuple(x.shape)}")
    if lengths is not None:
        _check_lengths(lengths, x.shape, who)
    return Sequence(x, lengths, initial, given)


def read_chunk(mode: Any, inputs: PyTree, who: str, *, rank: int = 3) -> Sequence:
    """Call `read`, in a stream with the steps of this chunk that count as its lengths.

    Raises:
      ValueError: As in `read`.
      ValueError: If a carry is given in a stream, since the state has it.
    """
    sequence = read_sequence(inputs, who, rank=rank)
    if mode.stream is None:
        return sequence
    if sequence.initial is not None:
        raise ValueError(f"{who}: in a stream the carry is in the state; leave out 'initial'")
    steps = mode.stream.steps
    return sequence if steps is None else sequence._replace(lengths=steps)


def _check_lengths(lengths: Any, shape: tuple[int, ...], who: str) -> None:
    if not hasattr(lengths, "dtype") or not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(
            f"{who}: lengths must be an array of integers, one per sequence, got "
            f"{getattr(lengths, 'dtype', type(lengths).__name__)}. For a mask, pass mask.sum(1)"
        )
    if lengths.shape != shape[:1]:
        raise ValueError(
            f"{who}: lengths must be (batch,) = {shape[:1]} for x of shape {tuple(shape)}, "
            f"got {lengths.shape}"
        )
    if not isinstance(lengths, jax.ShapeDtypeStruct) and not is_traced(lengths):
        check_values(who, "lengths, in steps of x,", np.asarray(lengths), f"[0, {shape[1]}]")


def time_distributed(layer: Layer | Callable, *, name: str | None = None) -> Layer:
    """Apply an array layer to the `x` of a sequence; lengths and carries pass through.

    The layer gets x with its padding, (batch, time, ...), so it should treat each step separately,
    as `dense`, `dropout`, `embedding` and `jax.nn.relu` do. Its outputs beyond the lengths are set
    to zero. The params and state are the params and state of `layer`.

    Args:
      layer: Layer or plain function of arrays.
      name: Name of the new layer; the name of `layer` by default.

    Returns:
      A layer from a sequence (batch, time, ...) to a sequence of as many steps.

    Raises:
      ValueError: If the input is not a sequence.
      ValueError: If the output does not have the axes batch and time.

    Example:
      >>> net = jn.serial(time_distributed(jnp.tanh), lambda s: s[0].sum(1))
      >>> y, _ = net.apply({}, {}, (jnp.ones((2, 5, 3)), jnp.array([4, 1])))
      >>> y[:, 0].round(2).tolist()
      [3.04..., 0.75...]
    """
    inner = as_layer(layer, "time_distributed", "layer")
    name = inner.name if name is None else name

    def init(run, key, inputs):
        return run.init(key, read_sequence(inputs, name, rank=2, passing=True).x)

    def apply(run, params, state, inputs):
        sequence = read_sequence(inputs, name, rank=2, passing=True)
        y, state = run(params, state, sequence.x)
        if not hasattr(y, "shape") or y.shape[:2] != sequence.x.shape[:2]:
            raise ValueError(
                f"{name}: time_distributed needs a layer that keeps the axes (batch, time) = "
                f"{sequence.x.shape[:2]}, got {getattr(y, 'shape', type(y).__name__)}"
            )
        out = sequence.write(y)
        if isinstance(inputs, dict):
            out = {**inputs, **out}
        return out, state

    return transformed(inner, apply, kind="time_distributed", init=init, name=name, inputs=())


def last_step(*, name: str = "last_step") -> Layer:
    """Take the value at each sequence's last step: (batch, time, ...) to (batch, ...).

    A sequence of length 0 gives zeros. After `bidirectional`, the backward half at the last step
    depends on that step alone; use the entry "final" of the dict form, which depends on all steps.

    Args:
      name: Name of the layer.

    Returns:
      A layer from a sequence (batch, time, ...) to (batch, ...).

    Raises:
      ValueError: If the input is not a sequence.

    Example:
      >>> x = jnp.arange(10.0).reshape(2, 5, 1)
      >>> y, _ = last_step().apply({}, {}, (x, jnp.array([4, 1])))
      >>> y.ravel().tolist()
      [3.0, 5.0]
    """

    def forward(m, inputs):
        sequence = read_sequence(inputs, name, rank=2, passing=True)
        x, lengths = sequence.x, sequence.lengths
        m._not_in_stream("takes the last step")
        if lengths is None:
            return x[:, -1]
        is_last = jnp.arange(1, 1 + x.shape[1])[None] == lengths[:, None]  # (batch, time)
        y = jnp.where(_beside(is_last, x.ndim), x, 0).sum(1, dtype=x.dtype)
        fill = sequence.fill(x.dtype)
        if isinstance(fill, int):
            return y
        ones = (1,) * (y.ndim - 1)
        return y + fill.reshape(-1, *ones)

    return compose(forward, name=name, kind="last_step")


def stack_rnn(*layers: Layer, name: str = "stack_rnn") -> Layer:
    """Chain sequence layers, as `serial` does, with the carries of all of them.

    In the dict form, "initial" and "final" are tuples with one entry per layer. Dropout between two
    layers belongs to one of them:
    `stack_rnn(lstm(8), serial(time_distributed(dropout(0.5)), lstm(8)))`.

    Args:
      layers: Layers such as `lstm`, `bidirectional` or `recurrent`, at least one.
      name: Name of the layer.

    Returns:
      A layer from a sequence to a sequence, in the array or the dict form, as the first layer
      takes it.

    Raises:
      ValueError: If there are no layers.
      ValueError: If "initial" does not have one entry per layer.

    Example:
      Two layers, and another step from where they stopped:

      >>> net = stack_rnn(jn.lstm(4), jn.gru(7))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> y, _ = net.apply(params, state, {"x": jnp.ones((2, 5, 3))})
      >>> y, _ = net.apply(params, state, {"x": jnp.ones((2, 1, 3)), "initial": y["final"]})
      >>> y["x"].shape, y["final"][0]["c"].shape, y["final"][1].shape
      ((2, 1, 7), (2, 4), (2, 7))
    """
    if not layers:
        raise ValueError("stack_rnn: needs at least one layer, such as stack_rnn(lstm(8), lstm(8))")
    layers = tuple(as_layer(layer, "stack_rnn", f"layer {i}") for i, layer in enumerate(layers))

    def forward(m, inputs):
        if not isinstance(inputs, dict):
            for layer in layers:
                inputs = m(layer, inputs)
            return inputs
        initial = read_sequence(inputs, name, rank=2).initial
        if initial is None:
            initial = (None,) * len(layers)
        if not isinstance(initial, tuple | list) or len(initial) != len(layers):
            got = f"{len(initial)} entries" if hasattr(initial, "__len__") else initial
            raise ValueError(
                f"{name}: 'initial' must be a tuple of {len(layers)} carries, one per layer, got "
                f"{got}"
            )
        final = []
        for layer, carry in zip(layers, initial, strict=True):
            out = m(layer, _with_initial(inputs, carry))
            inputs = {**inputs, "x": out["x"]}
            final.append(out["final"])
        return _with_initial(inputs, None) | {"final": tuple(final)}

    return compose(forward, name=name, kind="stack_rnn")


def bidirectional(
    forward: Layer,
    backward: Layer | None = None,
    *,
    merge: Callable[[jax.Array, jax.Array], jax.Array] = lambda a, b: jnp.concatenate([a, b], -1),
    name: str = "bidirectional",
) -> Layer:
    """Run two sequence layers, one forward and one backward in time, merged at each step.

    The backward direction starts at each sequence's own last step, never in the padding, and its
    outputs are reversed again, so that both halves of an output belong to the same step. In the
    dict form, "initial" and "final" are {"forward": carry, "backward": carry}; the backward
    direction ends at the first step, so its final carry belongs to that step.

    Each output has read the whole sequence, so do not train it to predict the next step: it would
    copy the answer.

    Args:
      forward: Sequence layer.
      backward: Layer of the other direction; the same as `forward` by default, with separate
        params.
      merge: Function that combines the outputs of the two directions, each (batch, time, ...). By
        default they are concatenated along the features; `merge=jnp.add` keeps their number.
      name: Name of the layer.

    Params:
      forward, backward: params of the two layers.

    Returns:
      A layer with the merged outputs of both directions, in the form of its input.

    Raises:
      ValueError: If the input is not a sequence.
      ValueError: If "initial" does not have the two directions.

    Example:
      >>> net = bidirectional(jn.gru(4))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> (y, lengths), _ = net.apply(params, state, (jnp.ones((2, 5, 3)), jnp.array([5, 3])))
      >>> np.asarray(y[1, :, jnp.array([0, 4])]).round(2)  # a feature forward, one backward
      array([[0.51, 0.61, 0.65, 0.  , 0.  ],
             [0.52, 0.44, 0.36, 0.  , 0.  ]], dtype=float32)

    Reference: Schuster and Paliwal 1997, "Bidirectional Recurrent Neural Networks".
    """
    a_function(name, "merge", merge, "(forward, backward)")
    ahead = as_layer(forward, name, "forward").replace(name="forward")
    behind = forward if backward is None else backward
    back = as_layer(behind, name, "backward").replace(name="backward")

    def both(m, inputs):
        m._not_in_stream("reads each sequence from its end")
        sequence = read_sequence(inputs, name, rank=2)
        x, lengths, initial, _ = sequence
        if initial is None:
            initial = {"forward": None, "backward": None}
        if not isinstance(initial, dict) or set(initial) != {"forward", "backward"}:
            got = sorted(initial) if isinstance(initial, dict) else type(initial).__name__
            raise ValueError(
                f"{name}: 'initial' must be {{'forward': carry, 'backward': carry}}, got {got}"
            )

        def run(layer, x):
            """Return the outputs and the last carry of a layer."""
            if isinstance(inputs, dict):
                out = m(layer, _with_initial({**inputs, "x": x}, initial[layer.name]))
                return out["x"], out["final"]
            if lengths is None:
                return m(layer, x), None
            y, _ = m(layer, (x, lengths))
            return y, None

        a, last = run(ahead, x)
        b, first = run(back, _reversed(x, lengths))
        merged = merge(a, _reversed(b, lengths))
        return sequence.write(merged, {"forward": last, "backward": first})

    return compose(both, name=name, kind="bidirectional")


def _reversed(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """Return each sequence from its last step to its first; the padding stays in place."""
    if lengths is None:
        return jnp.flip(x, 1)
    t = jnp.arange(x.shape[1])[None]
    n = jnp.clip(lengths.astype(jnp.int32), 0, x.shape[1])[:, None]
    places = jnp.where(t < n, n - 1 - t, t)  # (batch, time), each step once

    def take(row, place):
        return row.at[place].get(mode="promise_in_bounds", unique_indices=True)

    return jax.vmap(take)(x, places)


def _beside(mask: jax.Array, ndim: int) -> jax.Array:
    """Return a mask (batch, time) with trailing axes of size 1, for an array with `ndim` axes."""
    return mask.reshape(mask.shape + (1,) * (ndim - 2))


def _with_initial(inputs: dict, initial: PyTree) -> dict:
    """Return the dict with a different initial carry; None removes it."""
    rest = {key: value for key, value in inputs.items() if key != "initial"}
    return rest if initial is None else {**rest, "initial": initial}
