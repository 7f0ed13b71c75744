"""What training changes, a `TrainState`, and the keys that a run draws from it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.services import checks
from jaxnet.services.table import html_line
from jaxnet.services.trees import PyTree
from jaxnet.training.interrupts import is_spent
from jaxnet.training.watch import explain_reuse


class TrainState(NamedTuple):
    """Everything that training changes: a pytree to save and resume as a whole.

    Fields:
      step: Number of steps made, an int32 scalar. It counts those that a loss scale skipped, which
        schedules of the optimizer do not see: they are at `step - opt_state.skipped`.
      params: Nested dicts that the optimizer changes.
      state: Nested dicts that `apply` changes, e.g. running statistics.
      opt_state: State of the optax optimizer.
      key: Random key of the run. A step draws from it and from the number of steps. It is stored as
        key data (uint32), since typed keys make jitted calls slower.
    """

    step: jax.Array
    params: Params
    state: State
    opt_state: PyTree
    key: jax.Array

    def __repr__(self) -> str:
        if is_spent(self):
            return "TrainState(used up by a step; continue with the one that the step returned)"
        traced = checks.is_traced(self.step)
        has_value = isinstance(self.step, jax.Array | np.ndarray | int) and not traced
        with explain_reuse():
            parts = [f"step={self.step if has_value else type(self.step).__name__}"]
        for name in ("params", "state", "opt_state"):
            leaves = jax.tree.leaves(getattr(self, name))
            parts.append(f"{name}: {sum(map(np.size, leaves)):,} in {len(leaves)} arrays")
        return f"TrainState({', '.join(parts)})"  # the arrays would fill pages

    def _repr_html_(self) -> str:
        return html_line(repr(self))


class Variables(NamedTuple):
    """Params and state of a layer: what a train_state has of a net that is not trained.

    Fields:
      params: Params of the layer.
      state: State of the layer.
    """

    params: Params
    state: State


class BoundObjective(NamedTuple):
    """An objective with its params and state, as a train_state has them.

    Fields:
      objective: Objective.
      params: Params of the objective.
      state: State of the objective.
    """

    objective: Layer
    params: Params
    state: State


# Function (variables, data) -> objectives that get the data. Variables are a train_state, or
# `Variables`.
Objectives = Callable[[Any, PyTree], list[BoundObjective]]


def only(objective: Layer | None) -> Objectives:
    """Return the function that binds one objective to variables, whatever the data are.

    Example:
      >>> net = jn.dense(2)
      >>> variables = Variables(*net.init(jax.random.key(0), jnp.ones((1, 3))))
      >>> [found.objective for found in only(net)(variables, None)]
      [Layer('dense', kind='dense')]
      >>> only(None)(variables, None)
      []
    """

    def objectives(variables: Any, data: PyTree) -> list[BoundObjective]:
        if objective is None:
            return []
        return [BoundObjective(objective, variables.params, variables.state)]

    return objectives


def check_train_state(who: str, train_state: Any) -> None:
    """Raise unless it is a TrainState of arrays, whose params are floats.

    Example:
      >>> check_train_state("fit", 3)
      Traceback (most recent call last):
      ...
      TypeError: fit: train_state must be the result of trainer.init(key, batch), got int
    """
    words = "the result of trainer.init(key, batch)"
    of_a_file = "if it was saved, write jn.load(path, like=train_state)"
    hint = of_a_file if issubclass(type(train_state), dict) else ""
    checks.check_type(who, "train_state", train_state, TrainState, words, hint)
    checks.check_arrays(f"{who}: train_state", train_state)
    checks.as_array(who, "train_state.step", train_state.step, "()", "integers")
    for path, leaf in jax.tree_util.tree_leaves_with_path(train_state.params):
        if not (jnp.issubdtype(leaf.dtype, jnp.inexact) or leaf.dtype in (jnp.int8, jnp.uint8)):
            raise TypeError(
                f"{who}: train_state.params{jax.tree_util.keystr(path)} must hold floats, or int8 "
                f"and uint8 as in jn.quantized, got {leaf.dtype}"
            )
    check_stored_key(who, train_state)


def check_stored_key(who: str, train_state: TrainState) -> None:
    """Raise unless the key is one that `trainer.init` makes: one typed key, or its data.

    Example:
      >>> state = TrainState(jnp.int32(0), {}, {}, (), np.zeros(3, np.uint32))
      >>> check_stored_key("step", state)
      Traceback (most recent call last):
      ...
      TypeError: step: train_state.key must be the key from trainer.init, got uint32 of shape (3,)
    """
    key = train_state.key
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", None)
    if checks.is_key(key):
        is_right = shape == ()
    else:
        is_right = dtype == np.uint32 and shape == words_of_a_key()
    if not is_right:
        got = f"{key!r:.60}" if dtype is None else f"{dtype} of shape {shape}"
        raise TypeError(f"{who}: train_state.key must be the key from trainer.init, got {got}")


def words_of_a_key() -> tuple[int, ...]:
    """Return the shape of the data of a key of JAX's usual kind.

    Example:
      >>> words_of_a_key()
      (2,)
    """
    return jax.eval_shape(jax.random.PRNGKey, 0).shape


def without_weak_types(tree: PyTree) -> PyTree:
    """Return the tree without weak types, so that the first step does not compile twice."""

    def leaf(a):
        if not getattr(a, "weak_type", False):  # so of all keys, which cannot be converted
            return a
        if checks.is_traced(a):
            return jax.lax.convert_element_type(a, a.dtype)
        return checks.on_device(np.asarray(a))

    return jax.tree.map(leaf, tree)


def as_stored(key: jax.Array) -> jax.Array:
    """Return a key as a train_state stores it: its data if it is of JAX's usual kind, else itself.

    Example:
      >>> as_stored(jax.random.key(0))
      Array([0, 0], dtype=uint32)
    """
    usual = jax.random.key_impl(key) == jax.random.key_impl(jax.random.key(0))
    return jax.random.key_data(key) if usual else key


def step_key(train_state: TrainState) -> jax.Array:
    """Return the key of the next step: a hash of the stored key and the number of steps.

    The stored key stays as it is, since advancing it would cost a GPU a launch in each step.

    Example:
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
      >>> train_state = trainer.init(jax.random.key(0), (jn.spec((5, 3)), jn.spec((5, 2))))
      >>> step_key(train_state).shape
      ()
    """
    check_stored_key("step", train_state)
    key, step = train_state.key, train_state.step
    if checks.is_key(key):  # not JAX's default kind of key
        return jax.random.fold_in(key, step)
    data = key + _last(key) * jnp.uint32(step)
    # XLA drops the hash if nothing is drawn, which it could not do with a split.
    return jax.random.fold_in(jax.random.wrap_key_data(data), 0)


def next_key(train_state: TrainState) -> tuple[TrainState, jax.Array]:
    """Return the train_state with its stored key advanced, and a key to use outside of steps.

    The sum of the stored key and of the steps grows with either, so no key is drawn twice.

    Example:
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
      >>> train_state = trainer.init(jax.random.key(0), (jn.spec((5, 3)), jn.spec((5, 2))))
      >>> train_state, key = next_key(train_state)
      >>> key.shape, train_state.key.shape
      ((), (2,))
    """
    key = train_state.key
    current = step_key(train_state)
    if checks.is_key(key):
        advanced, _ = jax.random.split(key)
    else:
        advanced = key + _last(key)
    return train_state._replace(key=advanced), current


def _last(key: jax.Array) -> np.ndarray:
    # On CPU, an addition at one place takes 20 microseconds longer than that of these numbers.
    return (np.arange(key.size) == key.size - 1).astype(np.uint32)


def key_of(data: Any, train_state: TrainState) -> jax.Array:
    """Return a key from its data, of the kind that a train_state has.

    Example:
      >>> trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
      >>> train_state = trainer.init(jax.random.key(0), (jn.spec((5, 3)), jn.spec((5, 2))))
      >>> key_of(train_state.key, train_state).shape
      ()
    """
    own = train_state.key
    impl = jax.random.key_impl(own) if checks.is_key(own) else None
    words = jax.random.key_data(own).shape if checks.is_key(own) else words_of_a_key()
    if data.shape != words:
        raise ValueError(
            f"fit: the key of position has shape {data.shape}, but keys of this train_state have "
            f"{words}; pass both from the same epoch"
        )
    return jax.random.wrap_key_data(data, impl=impl)
