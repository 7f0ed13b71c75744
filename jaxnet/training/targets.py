"""Find targets and ids that a layer would misread: a lookup would take -1 for the last class."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.services.checks import WrongValues, at_data, concrete_values
from jaxnet.services.trees import PyTree, flat, is_float, key_spec, memo_of, shapes_of
from jaxnet.services.warn import warn
from jaxnet.training.evaluation_trace import output_shapes
from jaxnet.training.objective import Supervised, supervised_in
from jaxnet.training.objective_trace import trace_objective, trace_or_none
from jaxnet.training.ranges import check_probabilities, note_pixels


def check_targets(
    objective: Layer,
    params: Params,
    state: State,
    data: PyTree,
    who: str,
    accepted: list[frozenset[int]] | None = None,
    *,
    train: bool = False,
) -> None:
    """Raise what an objective's losses say about targets, and its embeddings about ids.

    The objective is traced with the inputs as shapes and with targets and ids as values, so each
    loss and each embedding in it checks them, wherever it is. Nothing is computed.

    Args:
      objective: Objective that gets the data.
      params, state: Params and state of the objective.
      data: Pair (x, targets), all examples or a batch. Other data count as targets as a whole.
      who: Name of the function, for the message.
      accepted: Integers found so far in each array of a stream's ids and targets, empty at first.
        Later batches are only checked if they have new integers.
      train: Whether the objective is traced in training, where it may change the batch. Targets
        that it makes itself are not checked.

    Raises:
      ValueError: If a loss would misread a target, or an embedding has no row for an id; this is
        the error that the layer raises.

    Example:
      >>> objective = jn.supervised(jn.dense(3), optax.softmax_cross_entropy_with_integer_labels)
      >>> data = jnp.ones((2, 4)), jnp.array([0, -1])
      >>> check_targets(objective, *objective.init(jax.random.key(0), data), data, "fit")
      Traceback (most recent call last):
      ...
      ValueError: softmax_cross_entropy_with_integer_labels: targets ...
    """
    parts = supervised_in(objective)
    x, targets, batch_of = _divided(parts, data)
    seen_by_net = parts.entries.split(data)[0] if parts and parts.entries else x
    check_bytes(parts.net if parts else objective, seen_by_net, who)
    if parts is not None:
        note_pixels(parts.net, seen_by_net)
    inputs, structure_of_inputs = jax.tree.flatten(x)
    are_ids = list(map(_may_be_ids, inputs))
    ids = [leaf for leaf, is_ids in zip(inputs, are_ids, strict=True) if is_ids]
    leaves, structure = jax.tree.flatten((ids, targets))
    if accepted is not None:
        integers = list(map(_integers, leaves))
        if accepted and all(map(frozenset.issuperset, accepted, integers)):
            return
        before = accepted or [frozenset()] * len(integers)
        accepted[:] = [a | b for a, b in zip(before, integers, strict=True)]
    values = [_values(leaf, alone=len(leaves) == 1) for leaf in leaves]

    def run(params, state, inputs, leaves, key):
        checked = [leaf if v is None else v for v, leaf in zip(values, leaves, strict=True)]
        ids, targets = jax.tree.unflatten(structure, checked)
        ids = iter(ids)
        inputs = [next(ids) if is_ids else a for a, is_ids in zip(inputs, are_ids, strict=True)]
        batch = batch_of(jax.tree.unflatten(structure_of_inputs, inputs), targets)
        output, _ = objective.apply(params, state, batch, key=key, train=train)
        return output

    def trace(state):
        return jax.eval_shape(run, *shapes_of((params, state, inputs, leaves)), key_spec())

    def trace_afresh():  # the state may have one entry per row, for different rows
        _, fresh = jax.eval_shape(objective.init, key_spec(), shapes_of(data))
        return trace(fresh)

    by_losses = not ids and all(value is not None for value in values)
    try:
        with at_data():
            if by_losses and _losses_look(objective, params, state, data, values):
                pass
            elif trace_or_none(trace, state) is None:
                trace_or_none(trace_afresh)
    except WrongValues as error:
        error.add_note(f"{who} looked at the data first: nothing was computed with them")
        raise
    if parts is not None and objective.kind in ("supervised", "augmented"):
        check_probabilities(who, parts, params, state, data)


def _losses_look(
    objective: Layer, params: Params, state: State, data: PyTree, values: list
) -> bool:
    """Return whether loss and metrics could look at targets without another trace of their net.

    The shapes of its outputs are known from a trace in evaluation, which the trainer makes.
    """
    parts = supervised_in(objective)
    if parts is None or objective.inside is not parts:
        return False
    x, targets = parts.split(data)
    outputs = output_shapes(parts.net, params, state, x)
    if outputs is None:
        return False
    targets = jax.tree.unflatten(jax.tree.structure(targets), values)

    def run(outputs):
        pair = outputs, targets
        return [layer.apply({}, {}, pair) for layer in (parts.loss, *parts.metrics.values())]

    return trace_or_none(jax.eval_shape, run, outputs) is not None


def _divided(
    parts: Supervised | None, data: PyTree
) -> tuple[PyTree, PyTree, Callable[[PyTree, PyTree], PyTree]]:
    """Return inputs and targets of data, and the function that puts them together again.

    Data that are no pair count as targets as a whole.
    """
    entries = None if parts is None else parts.entries
    if entries is not None:
        return data, entries.split(data)[1], entries.with_targets
    if isinstance(data, tuple | list) and len(data) == 2:
        x, targets = data
        return x, targets, lambda x, targets: (x, targets)
    return (), data, lambda x, targets: targets


def _may_be_ids(leaf: Any) -> bool:
    """Return whether an input may hold rows of a table; bytes are more often pixels."""
    return jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.dtype != np.uint8


def check_bytes(net: Layer, x: PyTree, who: str) -> None:
    """Warn of bytes for a net that saw floats in [0, 1] first, as far as this process knows.

    Example:
      >>> net = jn.dense(2)
      >>> check_bytes(net, np.ones((3, 4)), "fit")
      >>> check_bytes(net, np.ones((3, 4), np.uint8), "fit")
    """
    for path, leaf in flat(x):
        values = concrete_values(leaf)
        if values is None or not values.size:
            continue
        in_unit = partial(_are_in_unit, values)
        seen = memo_of(net.apply).of(("floats in [0, 1]", path), in_unit)
        if seen and values.dtype == np.uint8 and values.max() > 1:
            warn(f"{who}: x is uint8, but {net.name} saw floats in [0, 1] first; write x / 255")


def _are_in_unit(values: np.ndarray) -> bool:
    """Return whether these are floats in [0, 1]."""
    return is_float(values) and 0 <= values.min() <= values.max() <= 1


def _values(leaf: Any, alone: bool) -> Any:
    """Return the array if its values are available, or the extremes of one on several hosts."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return jnp.asarray(leaf)
    if not (alone and jnp.issubdtype(leaf.dtype, jnp.integer)):
        return None
    extremes = np.array([leaf.min(), leaf.max()])  # these are the same in all processes
    return jnp.asarray(np.resize(extremes, leaf.shape))


def _integers(leaf: Any) -> frozenset[int]:
    """Return the integers in an array; none if it holds other numbers."""
    is_addressable = getattr(leaf, "is_fully_addressable", True)
    if not (is_addressable and leaf.size and jnp.issubdtype(leaf.dtype, jnp.integer)):
        return frozenset()
    values = np.asarray(leaf, np.int64).ravel()
    low = values.min()
    if values.max() - low < 2**16:  # counting is faster than sorting
        return frozenset((np.flatnonzero(np.bincount(values - low)) + low).tolist())
    return frozenset(np.unique(values).tolist())


def check_metrics(who: str, objective: Layer, params, state, batch: PyTree) -> None:
    """Raise if a metric is one number per batch, since several are averaged.

    An objective of one's own whose loss is one number per batch has means as its metrics, too.
    """
    parts = supervised_in(objective)
    if parts and not parts.metrics:
        return
    values = trace_or_none(lambda: trace_objective(objective, params, state, batch).values)
    shaped = isinstance(values, tuple) and isinstance(values[-1], dict)  # or the step says why not
    if not shaped or (parts is None and getattr(values[0], "shape", None) == ()):
        return
    for name, value in values[1].items():
        if not isinstance(value, tuple) and value.ndim == 0:
            raise ValueError(
                f"{who}: metrics[{name!r}] is one number per batch, and the mean over batches is "
                "another number than that of all examples. Leave out .mean(), so that there is one "
                "value per example, or return a pair (totals, weights). For precision, recall or "
                "F1, take jn.metrics.scores of a sum of jn.metrics.confusion, or hand the outputs "
                "of jn.predict to scikit-learn"
            )
