"""Epochs: the user's loop on top, one compiled program below.

The data lie on the device. Shuffling, batching and augmentation happen inside the program, which
runs many steps a dispatch and sums up the metrics; they come to the host once an epoch. How many
steps a dispatch takes is an argument of the program, not part of it, so it is tuned while training
runs, and nothing compiles twice.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, PyTree, State, describe
from jaxnet.progress import progress_bar
from jaxnet.training.step import Step, TrainState, next_key, warn_nonfinite

REFRESH = 0.2  # seconds of work in one dispatch, so that the progress bar moves


class Epoch(NamedTuple):
    """What `fit` gives after each epoch; prints as one line.

    Fields:
      number: from 1 to epochs.
      epochs: how many there will be.
      train_state: after this epoch; it stays valid, whatever `fit` does later.
      train: mean of each metric over the epoch's examples, while the parameters changed.
      test: the same on the `evaluate` data, with the parameters after the epoch; None without.
      losses: (steps,), the loss of every step.
      seconds: of training, evaluation included, compilation too in the first epoch.
    """

    number: int
    epochs: int
    train_state: TrainState
    train: dict[str, float]
    test: dict[str, float] | None
    losses: np.ndarray
    seconds: float

    def __str__(self) -> str:
        width = len(str(self.epochs))
        parts = [f"epoch {self.number:{width}}/{self.epochs}", _words(self.train)]
        if self.test is not None:
            parts.append("test " + _words(self.test))
        return "  |  ".join([*parts, f"{self.seconds:.3g} s"])


def _words(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {np.array2string(np.asarray(v), precision=4, floatmode='fixed')}"
                     for name, v in metrics.items())  # fmt: skip


def fit(
    train_state: TrainState,
    step: Step,
    data: PyTree | Iterable[PyTree],
    *,
    epochs: int,
    batch_size: int = 64,
    evaluate: PyTree | None = None,
    augment: Callable[[jax.Array, PyTree], PyTree] | None = None,
    shuffle: bool = True,
    steps_per_dispatch: int | None = None,
    progress: bool = True,
) -> Iterator[Epoch]:
    """Trains, and gives an `Epoch` after each pass over the data: the loop is yours.

    Stopping early, saving and plotting are ordinary statements in it. The `train_state` that goes
    in stays valid, and so does each epoch's.

    Args:
      train_state: where to start, from `init_training` or an earlier epoch.
      step: from `make_step`.
      data: a pytree of arrays with the examples along the first axis, `(x, y)` mostly, which is put
        on the device whole; or an iterable of batches that can be gone through once an epoch, for
        data that do not fit.
      epochs: passes over the data, at least 1.
      batch_size: examples a step. The last batch is filled up with examples from the epoch's
        beginning; `supervised`, and any objective that takes `mask`, leaves them out.
      evaluate: data like `data`, measured after each epoch.
      augment: `(key, batch) -> batch`, applied to each training batch inside the program.
      shuffle: whether the order is drawn anew each epoch.
      steps_per_dispatch: None measures while running, so that a dispatch takes about 0.2 s.
      progress: whether a bar runs, in a terminal or a notebook.

    Raises:
      ValueError: for no epochs, no examples, unequal lengths, or data with a NaN.

    Example:
      >>> x, y = jnp.eye(4), jnp.array([0, 1, 0, 1])
      >>> net, optimizer = jn.dense(2), optax.sgd(1.0)
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> step = jn.make_step(jn.supervised(net, loss), optimizer)
      >>> train_state = jn.init_training(net, optimizer, jax.random.key(0), (x, y))
      >>> for epoch in jn.fit(train_state, step, (x, y), epochs=9, batch_size=3):
      ...     if epoch.train["loss"] < 0.5:
      ...         break
      >>> epoch.number < 9, int(epoch.train_state.step) == 2 * epoch.number
      (True, True)
    """
    if epochs < 1:
        raise ValueError(f"fit: epochs must be at least 1, got {epochs}")
    if batch_size < 1:
        raise ValueError(f"fit: batch_size must be at least 1, got {batch_size}")
    if steps_per_dispatch is not None and steps_per_dispatch < 1:
        raise ValueError(f"fit: steps_per_dispatch must be at least 1, got {steps_per_dispatch}")
    if not isinstance(step, Step):
        raise TypeError(f"fit: the step must come from jn.make_step, got {type(step).__name__}")
    if not isinstance(train_state, TrainState):
        raise TypeError(
            f"fit: needs a TrainState from jn.init_training, got {type(train_state).__name__}"
        )
    if evaluate is not None and not is_stream(evaluate):
        evaluate = on_device(evaluate, "fit: evaluate")
    if is_stream(data):
        source = _Stream(step, data, batch_size, augment)
    else:
        source = _Resident(step, on_device(data, "fit: data"), batch_size, augment, shuffle)
    pace = _Pace(steps_per_dispatch)
    return _epochs(train_state, step, source, pace, epochs, evaluate, progress)


def _epochs(train_state, step, source, pace, epochs, evaluate_data, progress) -> Iterator[Epoch]:
    warned = False  # what is not finite mostly stays so
    for number in range(1, epochs + 1):
        start = time.perf_counter()
        first = int(train_state.step) + 1
        # A copy is donated, so that the caller's train_state stays whole.
        train_state = jax.device_put(train_state, may_alias=False)
        with progress_bar(source.steps, f"epoch {number}/{epochs}", progress) as bar:
            train_state, totals = source.run(train_state, bar, pace)
        flags, losses = np.asarray(totals.finite), np.asarray(totals.losses)
        warned = warned or warn_nonfinite(train_state.params, flags, losses, first)
        train = _means(totals.sums, totals.weight)
        test = None
        if evaluate_data is not None:
            test = evaluate(train_state, step, evaluate_data, batch_size=source.size)
        seconds = time.perf_counter() - start
        yield Epoch(number, epochs, train_state, train, test, losses, seconds)


class _Totals(NamedTuple):
    """What an epoch sums up on the device."""

    sums: PyTree  # of each metric times the number of examples
    weight: jax.Array  # the number of examples
    losses: jax.Array  # (steps,)
    finite: jax.Array  # (steps, leaves of the gradient)


class _Resident:
    """Data on the device: the whole epoch is one program with a number of steps as argument."""

    def __init__(self, step: Step, data: PyTree, size: int, augment: Any, shuffle: bool):
        self.step, self.data, self.augment, self.shuffle = step, data, augment, shuffle
        self.count = jax.tree.leaves(data)[0].shape[0]
        self.size = min(size, self.count)
        self.steps = -(-self.count // self.size)

    def run(self, train_state: TrainState, bar: Any, pace: "_Pace"):
        train_state, order, totals = begin(
            self.step, train_state, self.data, self.size, self.augment, self.shuffle
        )
        done = 0
        while done < self.steps:
            stop = min(done + pace.steps, self.steps)
            with pace.timing(stop - done):
                span = np.int32(done), np.int32(stop)
                train_state, totals = advance(
                    self.step, train_state, totals, self.data, order, *span, self.size, self.augment
                )
                jax.block_until_ready(totals.weight)
            bar.update(stop - done)
            done = stop
        return train_state, totals


@partial(jax.jit, static_argnums=(0, 3, 4, 5))
def begin(step, train_state, data, size, augment, shuffle):
    """The order of an epoch's examples, filled up to whole batches, and empty totals."""
    count = jax.tree.leaves(data)[0].shape[0]
    steps = -(-count // size)
    train_state, order_key = next_key(train_state)
    order = jax.random.permutation(order_key, count) if shuffle else jnp.arange(count)
    order = jnp.resize(order, (steps, size))  # begins anew where the examples end
    one = partial(_one_step, step, data=data, order=order, size=size, augment=augment)
    _, metrics, finite, weight = jax.eval_shape(one, train_state, jnp.int32(0))
    totals = _Totals(
        jax.tree.map(lambda m: jnp.zeros(m.shape, jnp.result_type(m.dtype, jnp.float32)), metrics),
        jnp.zeros(weight.shape, weight.dtype),
        jnp.zeros(steps, metrics["loss"].dtype),
        jnp.ones((steps, *finite.shape), bool),
    )
    return train_state, order, totals


@partial(jax.jit, static_argnums=(0, 7, 8), donate_argnums=(1, 2))
def advance(step, train_state, totals, data, order, start, stop, size, augment):
    """Steps start to stop of an epoch."""
    step.note_trace("fit", train_state=train_state, data=data)

    def body(i, carry):
        train_state, totals = carry
        train_state, metrics, finite, weight = _one_step(
            step, train_state, i, data=data, order=order, size=size, augment=augment
        )
        sums = jax.tree.map(lambda s, m: s + weight * m, totals.sums, metrics)
        losses = totals.losses.at[i].set(metrics["loss"])
        flags = totals.finite.at[i].set(finite)
        return train_state, _Totals(sums, totals.weight + weight, losses, flags)

    return jax.lax.fori_loop(start, stop, body, (train_state, totals))


# Jitted by itself, so that begin's look at the shapes and advance's loop trace it once.
@partial(jax.jit, static_argnums=(0,), static_argnames=("size", "augment"))
def _one_step(step: Step, train_state, i, *, data, order, size, augment):
    count = jax.tree.leaves(data)[0].shape[0]
    batch = jax.tree.map(lambda leaf: leaf[order[i]], data)
    mask, weight = None, jnp.float32(size)
    if count % size:
        mask = (i * size + jnp.arange(size) < count).astype(jnp.float32)
        weight = mask.sum()
    return _augmented_update(step, train_state, batch, mask, weight, augment)


def _augmented_update(step, train_state, batch, mask, weight, augment):
    if augment is not None:
        train_state, augment_key = next_key(train_state)
        try:
            batch = augment(augment_key, batch)
        except Exception as error:
            error.add_note(
                f"in augment, which gets (key, batch), batch {describe(batch)}; one that takes "
                "(key, images) is written augment=jn.data.on_inputs(...)"
            )
            raise
    return *step.update(train_state, batch, mask), weight


class _Stream:
    """Batches from an iterable; a short one is filled up with its own examples and masked."""

    def __init__(self, step: Step, batches: Iterable[PyTree], size: int, augment: Any):
        self.step, self.batches, self.size, self.augment = step, batches, size, augment
        self.steps = len(batches) if hasattr(batches, "__len__") else None  # type: ignore[arg-type]

    def run(self, train_state: TrainState, bar: Any, pace: "_Pace"):
        seen, weights, flags = [], [], []
        size = None
        for batch in self.batches:
            batch = on_device(batch, "fit: a batch")
            count = jax.tree.leaves(batch)[0].shape[0]
            size = size or count
            if count > size:
                raise ValueError(f"fit: the first batch had {size} examples, a later one {count}")
            mask = None
            if count < size:
                batch = jax.tree.map(
                    lambda leaf, n=size: jnp.resize(leaf, (n, *leaf.shape[1:])), batch
                )
            if self.step.takes_mask:
                mask = jnp.asarray(np.arange(size) < count, jnp.float32)
            train_state, metrics, finite, _ = _stream_step(
                self.step, train_state, batch, mask, self.augment
            )
            seen.append(metrics)
            weights.append(count)
            flags.append(finite)
            bar.update(1)
        if not seen:
            raise ValueError(
                "fit: the data gave no batch; an iterator can be gone through once only, "
                "so hand over something that begins anew each epoch, such as a list or a loader"
            )
        seen = jax.device_get(seen)
        sums = jax.tree.map(lambda *m: sum(w * a for w, a in zip(weights, m, strict=True)), *seen)
        losses = np.array([metrics["loss"] for metrics in seen])
        return train_state, _Totals(sums, np.float32(sum(weights)), losses, np.stack(flags))  # type: ignore[arg-type]


@partial(jax.jit, static_argnums=(0, 4), donate_argnums=1)
def _stream_step(step, train_state, batch, mask, augment):
    step.note_trace("fit from batches", train_state=train_state, batch=batch)
    return _augmented_update(step, train_state, batch, mask, 0, augment)


def evaluate(
    train_state: TrainState, step: Step, data: PyTree, *, batch_size: int = 256
) -> dict[str, float]:
    """The mean loss and metrics over all examples, in evaluation mode.

    Args:
      train_state: its params and state are used; nothing changes.
      step: from `make_step`: its objective is measured.
      data: a pytree of arrays, examples along the first axis, or an iterable of batches.
      batch_size: examples at a time; changes speed and memory, not the result.

    Returns:
      A float for each metric, "loss" among them. The penalty is part of the loss.

    Raises:
      ValueError: for no examples, unequal lengths, or data with a NaN.

    Example:
      >>> net, optimizer = jn.dense(1), optax.sgd(0.1)
      >>> data = jnp.zeros((7, 3)), jnp.full((7, 1), 2.0)
      >>> step = jn.make_step(jn.supervised(net, optax.squared_error), optimizer)
      >>> train_state = jn.init_training(net, optimizer, jax.random.key(0), data)
      >>> jn.evaluate(train_state, step, data, batch_size=3)
      {'loss': 4.0}
    """
    if batch_size < 1:
        raise ValueError(f"evaluate: batch_size must be at least 1, got {batch_size}")
    key = jax.random.key(0)  # evaluation that samples (an RBM's, say) is the same every time
    sums, weight = None, 0
    batches = data if is_stream(data) else [data]
    for batch in batches:
        batch = on_device(batch, "evaluate: data")
        count = jax.tree.leaves(batch)[0].shape[0]
        size = min(batch_size, count)
        whole = count - count % size
        parts = [batch]
        if not step.takes_mask and whole < count:  # such an objective cannot be padded
            parts = [jax.tree.map(lambda a, n=n: a[n], batch) for n in np.s_[:whole, whole:]]
        for part in parts:
            n = jax.tree.leaves(part)[0].shape[0]
            found = measure(step, train_state.params, train_state.state, part, key, min(size, n))
            sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
        weight += count
    if sums is None:
        raise ValueError("evaluate: the data gave no batch")
    return _means(sums, weight)


@partial(jax.jit, static_argnums=(0, 5))
def measure(step: Step, params: Params, state: State, data: PyTree, key: jax.Array, size: int):
    """Sums of the metrics over all examples."""
    count = jax.tree.leaves(data)[0].shape[0]
    steps = -(-count // size)
    padded = jax.tree.map(lambda a: _pad(a, steps * size).reshape(steps, size, *a.shape[1:]), data)

    def body(carry, batch):
        i, batch = batch
        mask = (
            None if count % size == 0 else (i * size + jnp.arange(size) < count).astype(jnp.float32)
        )
        weight = size if mask is None else mask.sum()
        metrics = step.measure(params, state, batch, jax.random.fold_in(key, i), mask)
        return carry, jax.tree.map(lambda m: weight * m, metrics)

    _, each = jax.lax.scan(body, None, (jnp.arange(steps), padded))
    return jax.tree.map(lambda m: m.sum(0), each)


def predict(
    net: Layer, params: Params, state: State, x: PyTree, *, batch_size: int = 256
) -> PyTree:
    """The net's outputs for all of x, in evaluation mode, computed batch by batch.

    Args:
      net: the layer.
      params, state: of it.
      x: inputs, examples along the first axis.
      batch_size: examples at a time; changes speed and memory, not the result.

    Returns:
      NumPy arrays, examples along the first axis.

    Raises:
      ValueError: for no examples, unequal lengths, or a NaN in x.

    Example:
      >>> net = jn.dense(2)
      >>> params, state = net.init(jax.random.key(0), jn.spec((1, 3)))
      >>> jn.predict(net, params, state, np.ones((7, 3), np.float32), batch_size=4).shape
      (7, 2)
    """
    if batch_size < 1:
        raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}")
    x = on_device(x, "predict: x")
    count = jax.tree.leaves(x)[0].shape[0]
    return jax.device_get(_predict(net, params, state, x, min(batch_size, count)))


@partial(jax.jit, static_argnums=(0, 4))
def _predict(net: Layer, params: Params, state: State, x: PyTree, size: int):
    count = jax.tree.leaves(x)[0].shape[0]
    steps = -(-count // size)
    x = jax.tree.map(lambda a: _pad(a, steps * size).reshape(steps, size, *a.shape[1:]), x)
    y = jax.lax.map(lambda batch: net.apply(params, state, batch)[0], x)
    return jax.tree.map(lambda a: a.reshape(steps * size, *a.shape[2:])[:count], y)


def _pad(a: jax.Array, count: int) -> jax.Array:
    """Filled up with copies of the last example, which are finite where the data are."""
    return jnp.pad(a, [(0, count - a.shape[0])] + [(0, 0)] * (a.ndim - 1), mode="edge")


def is_stream(data: Any) -> bool:
    """Whether data are an iterable of batches and not arrays in memory."""
    arrays = isinstance(data, tuple | list | dict) or hasattr(data, "shape")
    if not arrays and not hasattr(data, "__iter__"):
        raise TypeError(
            "data must be arrays, such as (x, y), or an iterable of batches, "
            f"got {type(data).__name__}"
        )
    return not arrays


def on_device(data: PyTree, who: str) -> PyTree:
    """The arrays on the default device, after a look at their lengths and values.

    Raises:
      ValueError: for no examples, unequal lengths, or a NaN or Inf.

    Example:
      >>> on_device((np.ones((3, 2)), np.ones(4)), "fit: data")
      Traceback (most recent call last):
      ...
      ValueError: fit: data: all arrays need as many examples, got (3, 2) and (4,)
    """
    leaves, structure = jax.tree.flatten(data)
    shapes = [np.shape(leaf) for leaf in leaves]
    if not leaves or any(len(shape) == 0 for shape in shapes):
        raise ValueError(f"{who}: arrays with the examples along the first axis are needed")
    if len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            f"{who}: all arrays need as many examples, got {' and '.join(map(str, shapes))}"
        )
    if shapes[0][0] == 0:
        raise ValueError(f"{who}: there are no examples, shapes {' and '.join(map(str, shapes))}")
    for leaf in leaves:
        # Only what comes from the host: arrays on the device were computed, or looked at before.
        if not isinstance(leaf, jax.Array) and np.issubdtype(np.asarray(leaf).dtype, np.floating):
            finite = np.isfinite(np.asarray(leaf)).reshape(len(leaf), -1).all(axis=1)
            if not finite.all():
                raise ValueError(
                    f"{who}: {(~finite).sum()} of {len(leaf)} examples hold a NaN or Inf, "
                    f"the first is number {int(np.argmin(finite))}"
                )
    return jax.tree.unflatten(structure, [jnp.asarray(leaf) for leaf in leaves])


def _means(sums: PyTree, weight: Any) -> dict[str, Any]:
    means = jax.tree.map(lambda s: np.asarray(s) / np.asarray(weight), sums)
    names = sorted(means, key=lambda name: (name != "loss", name))
    return {
        name: float(means[name]) if np.ndim(means[name]) == 0 else means[name] for name in names
    }


class _Pace:
    """Steps a dispatch, from the time that the last one took."""

    def __init__(self, fixed: int | None):
        self.fixed, self.steps = fixed, fixed or 1
        self.seen = 0

    def timing(self, steps: int):
        return _Timing(self, steps)


class _Timing:
    def __init__(self, pace: _Pace, steps: int):
        self.pace, self.steps = pace, steps

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *error):
        self.pace.seen += 1
        if self.pace.fixed is None and self.pace.seen > 1:  # the first one compiles
            rate = self.steps / max(time.perf_counter() - self.start, 1e-6)
            # At most 8 times more at once: a short dispatch is a poor clock.
            self.pace.steps = int(np.clip(rate * REFRESH, 1, 8 * self.pace.steps))
