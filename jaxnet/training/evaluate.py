"""Compute the loss and metrics of an objective, and the outputs of a net, batch by batch."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State, as_layer
from jaxnet.services import peers
from jaxnet.services.checks import as_dict, as_rows, at_least, check_type, to_device
from jaxnet.services.keywords import explain_keywords
from jaxnet.services.trees import PyTree, is_float, memo_of, path_name
from jaxnet.training import placement
from jaxnet.training.look import look
from jaxnet.training.objective import Average, averaged
from jaxnet.training.targets import check_bytes, check_metrics, check_targets, rows_are_in_order
from jaxnet.training.watch import explain_reuse

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
        the loss compares the examples of a batch with each other, as contrastive losses do. A loss
        of one number per batch, such as a root of a mean, is averaged over the batches.

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
    with explain_reuse():
        return measure_all(objective, params, state, data, batch_size, "evaluate")


def measure_all(
    objective: Layer,
    params: Params,
    state: State,
    data: PyTree,
    batch_size: int,
    who: str,
    *,
    checked: bool = False,
) -> dict[str, float]:
    """Do what `evaluate` does for `who`; `checked` if the targets were checked."""
    params, state = as_dict(who, "params", params), as_dict(who, "state", state)
    # A fixed key, so that evaluation with sampling, as in an RBM, is reproducible.
    key = _first_key()
    sums, first, carried, shardings = None, 0, False, placement.shardings_of((params, state))
    accepted = [] if is_stream(data) else None
    placement.agree_on(who, params, f"{who} begins")
    batches_of = iter(data if is_stream(data) else [data])
    while (batch := placement.next_of(who, batches_of, params)) is not placement.END:
        batch = data_on_device(batch, f"{who}: data")
        placement.check_processes(who, params, batch)
        if not checked:
            check_targets(objective, params, state, batch, who, accepted)
        count = jax.tree.leaves(batch)[0].shape[0]
        size = min(batch_size, count)
        if size < count or sums is not None:
            check_metrics(who, objective, params, state, batch)
        whole = count - count % size
        parts = [batch]
        if whole < count and not takes_mask(objective, params, state, batch):
            parts = [jax.tree.map(lambda a, n=n: a[n], batch) for n in np.s_[:whole, whole:]]
        for part in parts:
            n = jax.tree.leaves(part)[0].shape[0]
            batches = placement.check_batch(who, part, min(size, n))
            if sums is None:  # of the first batch, since it may trace
                carried = rows_are_in_order(objective, state, part, min(size, n))
            program = measure(objective, min(size, n), batches, shardings, carried)
            found, after = program(params, state, part, key, jax.device_put(np.int32(first)))
            state, first = after if carried else state, first - (-n // size)
            sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
    if sums is None:
        raise ValueError(f"{who}: the data yielded no batch")
    found = means(sums)
    if np.isnan(found["loss"]) and not is_stream(data) and shardings is None:
        explain_nan(objective, params, state, data_on_device(data, who), batch_size)
    return found


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
    known = all(np.isfinite(leaf).all() for leaf in leaves if is_float(leaf))
    if not known or placement.shardings_of((params, state, data)) is not None:
        return
    key, count = jax.random.key(0), jax.tree.leaves(data)[0].shape[0]
    program = jax.jit(lambda *args: layer.apply(*args, key=key)[0])
    for start in range(0, count, batch_size):
        rows = jax.tree.map(lambda a, start=start: a[start : start + batch_size], data)
        y = program(params, state, rows)
        if any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(y) if is_float(leaf)):
            layer.apply(params, state, rows, key=key)
            return


def measure(
    objective: Layer, size: int, batches: placement.Where, shardings: placement.Where, carried: bool
) -> Callable:
    """Return the program that sums the means of batches times their weights, and the weights.

    Its arguments are params, state, data, key and the number of batches before these. It also
    returns the state after the last batch, if it is carried.

    Args:
      objective: Layer to measure.
      size: Number of examples in a batch.
      batches: Shardings of the data.
      shardings: Shardings of params and state.
      carried: Whether each batch gets the state after the batch before it, as carries need.
    """

    def run(params, state, data, key, first):
        count = jax.tree.leaves(data)[0].shape[0]

        def sums(carry, i, batch):
            given = carry if carried else state
            now = mask_of(i, size, count), jax.random.fold_in(key, first + i)
            found, after = averaged(objective, params, given, batch, *now)
            each = {n: Average(a.mean * a.weight, a.weight) for n, a in found.items()}
            return after if carried else (), each

        after, each = _over_batches(sums, state if carried else (), data, size, batches)
        return jax.tree.map(lambda leaf: leaf.sum(0), each), after

    key = "measure", objective, size, batches, shardings, carried
    make = lambda: placement.placed(run, batches or shardings, keeps=False)  # noqa: E731
    return memo_of(objective.apply).of(key, make)


def mask_of(i: Any, size: int, count: int) -> jax.Array | None:
    """Return the mask of batch `i` of `count` examples; None if `size` divides their number."""
    return (i * size + jnp.arange(size) < count).astype(jnp.float32) if count % size else None


def takes_mask(objective: Layer | None, params, state, batch: PyTree) -> bool:
    """Return whether all values are per example, so that padding can be left out."""
    if objective is None:
        return False
    leaves = jax.tree.leaves(look(objective, params, state, batch).values)
    return all(leaf.ndim > 0 for leaf in leaves)


@explain_keywords
def predict(
    net: Layer, params: Params, state: State, x: PyTree, *, batch_size: int = 256
) -> PyTree:
    """Return the net's outputs for all of x, in evaluation mode, computed batch by batch.

    Args:
      net: Layer to run.
      params, state: Params and state of the net.
      x: Inputs, one example per row.
      batch_size: Number of examples at a time; changes speed and memory, not the result.

    Returns:
      NumPy arrays, one row per example.

    Raises:
      ValueError: If there are no examples, or if lengths are unequal.
      ValueError: If x has a NaN, or ids without an embedding.

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
    net, x = as_layer(net, "predict", "net"), data_on_device(x, "predict: x")
    check_bytes(net, x, "predict")
    size = min(batch_size, jax.tree.leaves(x)[0].shape[0])
    params, state = as_dict("predict", "params", params), as_dict("predict", "state", state)
    placement.check_processes("predict", params, x)
    placement.agree_on("predict", params, f"predict begins, {peers.shapes(x)}")
    batches = placement.check_batch("predict", x, size)
    shardings = placement.shardings_of((params, state))
    with explain_reuse():
        y = jax.device_get(predict_program(net, size, batches, shardings)(params, state, x))
    whole = any(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in jax.tree.leaves(x))
    if whole and any(np.isnan(leaf).any() for leaf in jax.tree.leaves(y) if is_float(leaf)):
        explain_nan(net, params, state, x, size)
    return y


def predict_program(
    net: Layer, size: int, batches: placement.Where, shardings: placement.Where
) -> Callable:
    """Return the program (params, state, x) -> outputs, one row each; arguments as of `measure`."""

    def run(params, state, x):
        count = jax.tree.leaves(x)[0].shape[0]

        def outputs(_, i, batch):
            y, _ = net.apply(params, state, batch)
            for leaf in jax.tree.leaves(y):
                if jnp.shape(leaf)[:1] != (size,):
                    raise ValueError(
                        f"predict: expected one output per example from {net.name}, (batch, ...), "
                        f"got {jnp.shape(leaf)} for {size} examples. Keep the batch axis first; "
                        "for one value of all examples, write net.apply(params, state, x)"
                    )
            return (), y

        _, y = _over_batches(outputs, (), x, size, batches)
        return jax.tree.map(lambda a: a.reshape(len(a) * size, *a.shape[2:])[:count], y)

    key = "predict", net, size, batches, shardings
    make = lambda: placement.placed(run, batches or shardings, keeps=False)  # noqa: E731
    return memo_of(net.apply).of(key, make)


def _over_batches(
    function: Callable, carry: PyTree, data: PyTree, size: int, shardings: Any
) -> tuple[PyTree, PyTree]:
    """Scan a function (carry, i, batch) -> (carry, y), and fill the last batch.

    It is filled with copies of the last example, which are finite.

    On one device a batch is read when its turn comes. On a mesh the data are divided once: rows
    that are taken by their numbers would be collected from all devices.
    """
    count = jax.tree.leaves(data)[0].shape[0]
    numbers = jnp.arange(-(-count // size))

    def batch(i):
        rows = jnp.minimum(i * size + jnp.arange(size), count - 1)
        return jax.tree.map(lambda a: a[rows], data)

    if shardings is None:
        return jax.lax.scan(lambda carry, i: function(carry, i, batch(i)), carry, numbers)

    def divided(a):
        pad = [(0, len(numbers) * size - count)] + [(0, 0)] * (a.ndim - 1)
        return jnp.pad(a, pad, mode="edge").reshape(len(numbers), size, *a.shape[1:])

    parts = placement.constrain(jax.tree.map(divided, data), shardings, axes=1)
    return jax.lax.scan(lambda carry, each: function(carry, *each), carry, (numbers, parts))


def is_stream(data: Any) -> bool:
    """Return whether data is an iterable of batches rather than arrays in memory.

    Containers that JAX knows, such as registered dataclasses, hold arrays.
    """
    if hasattr(data, "shape") or not jax.tree_util.all_leaves([data]):
        return False
    if isinstance(data, Mapping) or not hasattr(data, "__iter__"):
        raise TypeError(
            "data must be arrays, such as (x, y), or an iterable of batches, "
            f"got {type(data).__name__}" + "; write dict(data)" * isinstance(data, Mapping)
        )
    return True


def data_on_device(data: PyTree, who: str, items: str = "examples") -> PyTree:
    """Check the arrays and move them to the default device."""
    move = lambda path, leaf: to_device(who, path_name(path) or "the array", leaf)  # noqa: E731
    return jax.tree_util.tree_map_with_path(move, as_rows(data, who, items))


def means(sums: dict[str, Average]) -> dict[str, Any]:
    """Return the means of summed averages, "loss" first, as floats if they are scalars."""
    found = {}
    for name, average in loss_first(sums).items():
        total, weight = map(np.asarray, average)
        mean = total / np.where(weight == 0, 1, weight)
        found[name] = float(mean) if mean.ndim == 0 else mean
    return found


def loss_first(found: dict[str, Any]) -> dict[str, Any]:
    """Return the same dict, sorted, with "loss" at the beginning."""
    return {name: found[name] for name in sorted(found, key=lambda name: (name != "loss", name))}
