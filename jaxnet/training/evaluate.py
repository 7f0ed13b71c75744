"""Evaluation: the loss and metrics of an objective, and the outputs of a net, batch by batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.checks import at_least, check_data, to_device
from jaxnet.core import Layer, Memo, Params, PyTree, State, as_layer, key_spec, path_name
from jaxnet.core.contract import shapes_of
from jaxnet.core.messages import all_native
from jaxnet.keywords import explain_keywords
from jaxnet.training.objective import Average, averages
from jaxnet.training.placement import (
    automatic,
    check_batch,
    check_processes,
    everywhere,
    in_batches,
    on_host,
    places,
    stay,
)
from jaxnet.training.targets import check_targets
from jaxnet.training.watch import explain_reuse

_PROGRAMS = Memo()  # of nets that are evaluated or used for prediction outside of `fit`


@explain_keywords
def evaluate(
    objective: Layer, params: Params, state: State, data: PyTree, *, batch_size: int = 256
) -> dict[str, float]:
    """The mean loss and metrics over all examples, in evaluation mode.

    Args:
      objective: such as `jn.supervised(net, loss, metrics=...)`.
      params, state: of the objective; nothing changes.
      data: a pytree of arrays with one example per row, or an iterable of batches.
      batch_size: examples at a time; changes speed and memory, not the result.

    Returns:
      A float per metric, "loss" first. The penalty is part of the loss.

    Raises:
      ValueError: for no examples, unequal lengths, data with a NaN, or ids without an embedding.

    Example:
      >>> objective = jn.supervised(jn.dense(1), optax.squared_error)
      >>> data = jnp.zeros((7, 3)), jnp.full((7, 1), 2.0)
      >>> params, state = objective.init(jax.random.key(0), data)
      >>> jn.evaluate(objective, params, state, data, batch_size=3)
      {'loss': 4.0}
    """
    if not isinstance(objective, Layer):
        raise TypeError(
            "evaluate: expected an objective first, such as jn.supervised(net, loss), got "
            f"{type(objective).__name__}; write evaluate(objective, params, state, data)"
        )
    at_least("evaluate", "batch_size", batch_size)
    with explain_reuse():
        return measure_all(objective, _PROGRAMS, params, state, data, batch_size, "evaluate")


def measure_all(
    objective: Layer,
    programs: Memo,
    params: Params,
    state: State,
    data: PyTree,
    batch_size: int,
    who: str,
    *,
    checked: bool = False,
) -> dict[str, float]:
    """`evaluate`, with the memory of its compiled programs; `checked` if the targets were."""
    params, state = all_native((params, state), who)
    key = jax.random.key(0)  # evaluation that samples (an RBM's, say) is the same every time
    sums, where = None, places((params, state))
    accepted = [] if is_stream(data) else None
    for batch in data if is_stream(data) else [data]:
        batch = on_device(batch, f"{who}: data")
        check_processes(who, params, batch)
        if not checked:
            check_targets(objective, params, state, batch, who, accepted)
        count = jax.tree.leaves(batch)[0].shape[0]
        size = min(batch_size, count)
        whole = count - count % size
        parts = [batch]
        if whole < count and not takes_mask(objective, programs, params, state, batch):
            parts = [jax.tree.map(lambda a, n=n: a[n], batch) for n in np.s_[:whole, whole:]]
        for part in parts:
            n = jax.tree.leaves(part)[0].shape[0]
            split = in_batches(check_batch(who, part, min(size, n)))
            program = measure(objective, programs, min(size, n), split, where)
            found = program(params, state, part, key)
            sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
    if sums is None:
        raise ValueError(f"{who}: the data yielded no batch")
    found = means(sums)
    if np.isnan(found["loss"]) and not is_stream(data) and where is None:
        explain_nan(objective, params, state, on_device(data, who), batch_size)
    return found


def explain_nan(layer: Layer, params, state, data: PyTree, batch_size: int) -> None:
    """Raises where the NaN of a result come from values that layers refuse outside of `jit`.

    An id without an embedding is one: inside a program its value is not known. Where params have a
    NaN themselves, or the data lie on a mesh, nothing is looked for.

    Raises:
      ValueError: of the layer, with its path.

    Example:
      >>> layer = jn.embedding(5, 2)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((3,), jnp.int32))
      >>> try:
      ...     explain_nan(layer, params, state, jnp.array([1, 9, 2]), 2)
      ... except ValueError as error:
      ...     print(error)
      embedding: ids must be in [0, 5), got 9
    """
    known = all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves((params, state)) if _float(leaf)
    )
    if not known or places((params, state, data)) is not None:
        return
    key, count = jax.random.key(0), jax.tree.leaves(data)[0].shape[0]
    program = jax.jit(lambda *args: layer.apply(*args, key=key)[0])
    for start in range(0, count, batch_size):
        rows = jax.tree.map(lambda a, start=start: a[start : start + batch_size], data)
        y = program(params, state, rows)
        if any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(y) if _float(leaf)):
            layer.apply(params, state, rows, key=key)
            return


def _float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def measure(
    objective: Layer,
    programs: Memo,
    size: int,
    split: tuple | None = None,
    where: tuple | None = None,
):
    """The program (params, state, data, key) -> sums of mean * weight, and of the weights.

    Batches are `split` as the data are; `where` the params lie.
    """
    place = ("measure", objective, size, split, where)
    if place in programs:
        return programs[place]

    def run(params, state, data, key):
        count = jax.tree.leaves(data)[0].shape[0]
        steps = -(-count // size)

        def body(carry, now):
            i, batch = now
            mask = None
            if count % size:
                mask = (i * size + jnp.arange(size) < count).astype(jnp.float32)
            output, _ = objective.apply(
                params, state, batch, key=jax.random.fold_in(key, i), train=False
            )
            found = averages(output, batch, mask, objective.name)
            return carry, {n: Average(a.mean * a.weight, a.weight) for n, a in found.items()}

        _, each = jax.lax.scan(
            body, None, (jnp.arange(steps), stay(_batches(data, steps, size), split))
        )
        return everywhere(jax.tree.map(lambda leaf: leaf.sum(0), each), split or where)

    programs[place] = jax.jit(automatic(run, split or where))
    return programs[place]


def takes_mask(objective: Layer, programs: Memo, params, state, batch: PyTree) -> bool:
    """Whether all values of the objective are per example, so that padding can be left out."""
    if (place := ("takes mask", objective)) not in programs:

        def apply(params, state, batch, key):
            return objective.apply(params, state, batch, key=key, train=False)[0]

        specs = shapes_of((params, state, batch))
        values, metrics = jax.eval_shape(apply, *specs, key_spec())
        programs[place] = all(leaf.ndim > 0 for leaf in jax.tree.leaves((values, metrics)))
    return programs[place]


@explain_keywords
def predict(
    net: Layer, params: Params, state: State, x: PyTree, *, batch_size: int = 256
) -> PyTree:
    """The net's outputs for all of x, in evaluation mode, computed batch by batch.

    Args:
      net: the layer.
      params, state: of the net.
      x: inputs, one example per row.
      batch_size: examples at a time; changes speed and memory, not the result.

    Returns:
      NumPy arrays, one row per example.

    Raises:
      ValueError: for no examples, unequal lengths, a NaN in x, or ids without an embedding.

    Example:
      >>> net = jn.dense(2)
      >>> params, state = net.init(jax.random.key(0), jn.spec((1, 3)))
      >>> jn.predict(net, params, state, np.ones((7, 3), np.float32), batch_size=4).shape
      (7, 2)
    """
    at_least("predict", "batch_size", batch_size)
    net, x = as_layer(net), on_device(x, "predict: x")
    size = min(batch_size, jax.tree.leaves(x)[0].shape[0])
    params, state = all_native((params, state), "predict")
    check_processes("predict", params, x)
    split = in_batches(check_batch("predict", x, size))
    where = split or places((params, state))
    with explain_reuse():
        y = on_host(predict_program(net, size, split, where)(params, state, x))
    whole = any(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(x))
    if whole and any(np.isnan(leaf).any() for leaf in jax.tree.leaves(y) if _float(leaf)):
        explain_nan(net, params, state, x, size)
    return y


def predict_program(net: Layer, size: int, split: tuple | None, where: tuple | None):
    """The program (params, state, x) -> outputs, one row per example.

    Batches are `split` as the inputs are; `where` the params lie.
    """
    if (place := ("predict", net, size, split, where)) in _PROGRAMS:
        return _PROGRAMS[place]

    def run(params, state, x):
        count = jax.tree.leaves(x)[0].shape[0]
        steps = -(-count // size)

        def outputs(batch):
            y, _ = net.apply(params, state, batch)
            for leaf in jax.tree.leaves(y):
                if jnp.shape(leaf)[:1] != (size,):
                    raise ValueError(
                        f"predict: expected one output per example from {net.name}, (batch, ...), "
                        f"got {jnp.shape(leaf)} for {size} examples. Keep the batch axis first; "
                        "for one value of all examples, write net.apply(params, state, x)"
                    )
            return y

        y = jax.lax.map(outputs, stay(_batches(x, steps, size), split))
        return jax.tree.map(lambda a: a.reshape(steps * size, *a.shape[2:])[:count], y)

    _PROGRAMS[place] = jax.jit(automatic(run, split or where))
    return _PROGRAMS[place]


def _batches(data: PyTree, steps: int, size: int) -> PyTree:
    """(steps, size, ...), padded with copies of the last example, which are finite."""

    def leaf(a):
        pad = [(0, steps * size - a.shape[0])] + [(0, 0)] * (a.ndim - 1)
        return jnp.pad(a, pad, mode="edge").reshape(steps, size, *a.shape[1:])

    return jax.tree.map(leaf, data)


def is_stream(data: Any) -> bool:
    """Whether data is an iterable of batches rather than arrays in memory."""
    arrays = isinstance(data, tuple | list | dict) or hasattr(data, "shape")
    if not arrays and not hasattr(data, "__iter__"):
        raise TypeError(
            "data must be arrays, such as (x, y), or an iterable of batches, "
            f"got {type(data).__name__}"
        )
    return not arrays


def on_device(data: PyTree, who: str) -> PyTree:
    """Validates the arrays and moves them to the default device."""
    check_data(data, who)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: to_device(who, path_name(path) or "the array", leaf), data
    )


def means(sums: dict[str, Average]) -> dict[str, Any]:
    """The means of summed averages, "loss" first, as floats where they are scalars."""
    names = sorted(sums, key=lambda name: (name != "loss", name))
    found = {}
    for name in names:
        total, weight = (np.asarray(leaf) for leaf in sums[name])
        mean = total / np.where(weight == 0, 1, weight)
        found[name] = float(mean) if mean.ndim == 0 else mean
    return found
