"""Compute the loss and metrics of an objective, and the outputs of a net, batch by batch."""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State, as_layer
from jaxnet.nets import carried_entries
from jaxnet.services import peers, preemption
from jaxnet.services.checks import as_dict, at_least, check_type
from jaxnet.services.checks.keywords import explain_keywords
from jaxnet.services.trees import PyTree, is_float, memo_of, shapes_of
from jaxnet.training import placement
from jaxnet.training.batching import Batching, rows_in
from jaxnet.training.data_adapter import DataAdapter, PreparedData, is_stream
from jaxnet.training.mixing import check_mixing, check_mixing_of
from jaxnet.training.objective import Average, averaged
from jaxnet.training.objective_trace import trace_or_none
from jaxnet.training.targets import check_bytes
from jaxnet.training.train_state import Variables, only
from jaxnet.training.watch import explain_reuse

LOST = "the sums over its batches are lost"
_first_key = jax.jit(lambda: jax.random.key(0))  # nothing is moved to the device


@explain_keywords
def evaluate(
    objective: Layer, params: Params, state: State, data: PyTree, *, batch_size: int = 256
) -> dict[str, float]:
    """Return the mean loss and metrics over all examples, in evaluation mode.

    Args:
      objective: Objective, such as `jn.supervised(net, loss, metrics=...)`.
      params, state: Params and state of the objective; nothing changes.
      data: Pytree of arrays with one example per row, or an iterable of batches.
      batch_size: Number of examples at a time. It changes speed and memory, not the result, unless
        the loss compares the examples of a batch with each other, as contrastive losses do, or the
        net does, of which a warning says so. A loss of one number per batch, such as a root of a
        mean, is averaged over the batches.

    Returns:
      A float per metric, "loss" first. The penalty is part of the loss.

    Raises:
      ValueError: If there are no examples, or if lengths are unequal.
      ValueError: If data have a NaN, or ids without an embedding.

    Example:
      >>> objective = jn.supervised(jn.dense(1), optax.squared_error)
      >>> data = jnp.zeros((7, 3)), jnp.full((7, 1), 2.0)
      >>> params, state = objective.init(jax.random.key(0), data)
      >>> jn.evaluate(objective, params, state, data, batch_size=3)
      {'loss': 4.0}
    """
    words = "an objective first, such as jn.supervised(net, loss)"
    hint = "write evaluate(objective, params, state, data)"
    check_type("evaluate", "", objective, Layer, words, hint)
    at_least("evaluate", "batch_size", batch_size)
    variables = Variables(
        as_dict("evaluate", "params", params), as_dict("evaluate", "state", state)
    )
    with explain_reuse():
        adapter = DataAdapter("evaluate", only(objective), batch_size, stream=is_stream(data))
        parts = adapter.prepare_all(variables, data)
        if isinstance(parts, list):  # not a stream
            check_mixing_of("evaluate", objective, *variables, parts[0].data)
        try:
            return evaluate_prepared("evaluate", objective, variables, parts)
        except peers.Stopped:
            preemption.leave("evaluate", LOST)
            raise


def evaluate_prepared(
    who: str, objective: Layer, variables: Any, parts: Iterable[PreparedData]
) -> dict[str, Any]:
    """Return the mean loss and metrics of an objective over prepared data.

    Args:
      who: Name of the function, for messages.
      objective: Objective to evaluate.
      variables: Train_state, or `Variables` of the objective.
      parts: Prepared parts of the data, one after another.
    """
    params, state = variables.params, variables.state
    placement.agree_on(who, params, f"{who} begins")
    shardings = placement.shardings_of((params, state))
    key = _first_key()  # fixed, so that evaluation with sampling, as in an RBM, is reproducible
    sums = None
    first = 0  # number of the first batch of a part
    for data, batching, carried in parts:
        if who == "evaluate":  # `fit` yields once more, so that the run can be saved
            preemption.leave(who, LOST)
        program = measure(objective, batching, shardings, carried)
        batch_sums, after = program(params, state, data, key, jax.device_put(np.int32(first)))
        sums = batch_sums if sums is None else jax.tree.map(jnp.add, sums, batch_sums)
        state = after if carried else state
        first += batching.steps(data)
    if sums is None:
        raise ValueError(f"{who}: the data yielded no batch")
    averages = means(sums)
    if np.isnan(averages["loss"]):
        for data, batching, _ in parts:  # the batches of a stream are gone
            explain_nan(objective, params, state, data, batching.size)
    return averages


def explain_nan(layer: Layer, params, state, data: PyTree, batch_size: int) -> None:
    """Raise if a NaN in a result comes from values that layers reject outside of `jit`.

    For example, inside a compiled program an id without an embedding cannot raise. If the params
    contain NaN, or if the data are on a mesh, the function does nothing.

    Raises:
      ValueError: If a layer rejects a value; the error of the layer, with its path.

    Example:
      >>> layer = jn.embedding(5, 2)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((3,), jnp.int32))
      >>> try:
      ...     explain_nan(layer, params, state, jnp.array([1, 9, 2]), 2)
      ... except ValueError as error:
      ...     print(error)
      embedding: ids must be in [0, 5), got 9
    """
    leaves = jax.tree.leaves((params, state))
    all_finite = all(np.isfinite(leaf).all() for leaf in leaves if is_float(leaf))
    if not all_finite or placement.shardings_of((params, state, data)) is not None:
        return
    key = jax.random.key(0)

    @jax.jit
    def program(params, state, rows):
        y, _ = layer.apply(params, state, rows, key=key)
        return y

    for start in range(0, rows_in(data), batch_size):
        rows = jax.tree.map(lambda a, start=start: a[start : start + batch_size], data)
        y = program(params, state, rows)
        if any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(y) if is_float(leaf)):
            layer.apply(params, state, rows, key=key)
            return


def measure(
    objective: Layer, batching: Batching, shardings: placement.Where, carried: bool
) -> Callable:
    """Return the program that sums the means of batches times their weights, and the weights.

    Its arguments are params, state, data, key and the number of batches before these. It also
    returns the state after the last batch, if it is carried.

    Args:
      objective: Layer to measure.
      batching: How the data become batches.
      shardings: Shardings of params and state.
      carried: Whether each batch gets the state after the batch before it, as carries need.
    """

    def run(params, state, data, key, first):
        def sums(carry, i, batch):
            before = carry if carried else state
            mask = batching.mask(data, i)
            batch_key = jax.random.fold_in(key, first + i)
            averages, after = averaged(objective, params, before, batch, mask, batch_key)
            each = {n: Average(a.mean * a.weight, a.weight) for n, a in averages.items()}
            return after if carried else (), each

        after, each = batching.scan(sums, state if carried else (), data)
        return jax.tree.map(lambda leaf: leaf.sum(0), each), after

    return _program(("measure", carried), objective, batching, shardings, run)


@explain_keywords
def predict(
    net: Layer, params: Params, state: State, x: PyTree, *, batch_size: int = 256
) -> PyTree:
    """Return the net's outputs for all of x, in evaluation mode, computed batch by batch.

    Args:
      net: Layer to run.
      params, state: Params and state of the net.
      x: Inputs, one example per row.
      batch_size: Number of examples at a time; changes speed and memory, not the result, unless the
        net combines the examples of a batch, of which a warning says so.

    Returns:
      NumPy arrays, one row per example.

    Raises:
      ValueError: If there are no examples, or if lengths are unequal.
      ValueError: If x has a NaN, or ids without an embedding.
      ValueError: If the net changes its state in evaluation, as a stream does.

    Example:
      >>> net = jn.serial(jn.dense(2, use_bias=False), jax.nn.softmax)
      >>> params = {"dense": {"kernel": jnp.array([[1.0, 0.0], [0.0, 1.0]])}}
      >>> x = np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]], np.float32)
      >>> jn.predict(net, params, {}, x, batch_size=2).round(2)
      array([[0.88, 0.12],
             [0.5 , 0.5 ],
             [0.27, 0.73]], dtype=float32)
    """
    at_least("predict", "batch_size", batch_size)
    net = as_layer(net, "predict", "net")
    params = as_dict("predict", "params", params)
    state = as_dict("predict", "state", state)
    adapter = DataAdapter("predict", only(None), batch_size, data_name="predict: x")
    x, batching, _ = adapter.prepare(Variables(params, state), x)
    check_bytes(net, x, "predict")
    check_mixing("predict", net, params, state, x)
    placement.agree_on("predict", params, f"predict begins, {peers.shapes(x)}")
    preemption.leave("predict", "its outputs are not computed")
    program = predict_program(net, batching, placement.shardings_of((params, state)))
    with explain_reuse():
        y = jax.device_get(program(params, state, x))
    has_ids = any(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(x))
    if has_ids and _has_nan(y):
        explain_nan(net, params, state, x, batching.size)
    return y


def _has_nan(y: PyTree) -> bool:
    return any(np.isnan(leaf).any() for leaf in jax.tree.leaves(y) if is_float(leaf))


def predict_program(net: Layer, batching: Batching, shardings: placement.Where) -> Callable:
    """Return the program (params, state, x) -> outputs, one row each; arguments as of `measure`."""

    def run(params, state, x):
        def outputs(_, i, batch):
            y, after = net.apply(params, state, batch)
            if any(map(operator.is_not, jax.tree.leaves(after), jax.tree.leaves(state))):
                _check_forgets(net, params, state, batch)
            _check_outputs(net, params, state, batch, y, batching.size)
            return (), y

        _, y = batching.scan(outputs, (), x)
        # Not -1, which an array without entries does not determine.
        padded = batching.steps(x) * batching.size

        def joined(leaf):
            return leaf.reshape(padded, *leaf.shape[2:])[: rows_in(x)]

        return jax.tree.map(joined, y)

    return _program("predict", net, batching, shardings, run)


def _check_outputs(
    net: Layer, params: Params, state: State, batch: PyTree, y: PyTree, size: int
) -> None:
    """Raise unless each output of `predict` begins with the axis of the examples."""
    if any(jnp.shape(leaf)[:2] == (size, size) for leaf in jax.tree.leaves(y)):
        # Another number of examples shows which of the two axes is theirs.
        more = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((size + 1, *a.shape[1:]), a.dtype), batch
        )
        traced = trace_or_none(jax.eval_shape, net.apply, *shapes_of((params, state)), more)
        if traced is not None:
            size, (y, _) = size + 1, traced
    for leaf in jax.tree.leaves(y):
        _check_per_example(net, jnp.shape(leaf), size)


def _check_per_example(net: Layer, shape: tuple[int, ...], size: int) -> None:
    """Raise unless an output of `predict` begins with the axis of the examples."""
    if shape[:1] == (size,):
        return
    write = "for one value of all examples, write net.apply(params, state, x)"
    if shape[1:2] == (size,):
        mean = "jn.serial(net, lambda y: y.mean(0))"
        trees = f"{{{net.name!r}: params}}, {{{net.name!r}: state}}"
        write = (
            "for the mean over an axis before it, as that of jn.ensemble, write "
            f"jn.predict({mean}, {trees}, x)"
        )
    raise ValueError(
        f"predict: expected one output per example from {net.name}, (batch, ...), got {shape} for "
        f"{size} examples. Keep the batch axis first; {write}"
    )


def _check_forgets(net: Layer, params: Params, state: State, batch: PyTree) -> None:
    """Raise if an output depends on the calls before it: here each batch would be the first."""
    if carried := carried_entries(net, params, state, batch):
        raise ValueError(
            f"predict: {net.name} changes its state in evaluation, {', '.join(carried)}, as a "
            "stream does, and each batch would begin anew. Write y, state = net.apply(params, "
            "state, chunk) for each chunk or, for whole sequences, pass the net without jn.stream"
        )


def _program(
    kind: Any, layer: Layer, batching: Batching, shardings: placement.Where, run: Callable
) -> Callable:
    """Return the program of a function of batched data, which is compiled once per layer.

    Args:
      kind: What tells programs of one layer and batching apart.
      layer: Layer that the program runs.
      batching: How the data become batches.
      shardings: Shardings of params and state.
      run: Function to compile.
    """

    def make():
        return placement.placed(run, batching.shardings or shardings, keeps=False)

    return memo_of(layer.apply).of((kind, layer, batching, shardings), make)


def means(sums: dict[str, Average]) -> dict[str, Any]:
    """Return the means of summed averages, "loss" first, as floats if they are scalars."""
    averages = {}
    for name, average in loss_first(sums).items():
        total, weight = map(np.asarray, average)
        mean = total / np.where(weight == 0, 1, weight)
        averages[name] = float(mean) if mean.ndim == 0 else mean
    return averages


def loss_first(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the same dict, sorted, with "loss" at the beginning."""
    return {
        name: metrics[name] for name in sorted(metrics, key=lambda name: (name != "loss", name))
    }
