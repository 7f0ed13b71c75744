"""The trace of an objective: made with shapes, once for each, before anything is computed.

It shows the form of the values, what is computed in float16, and arrays that the function of the
objective captures: they look like weights, and nothing trains them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, State
from jaxnet.services.checks import WrongValues
from jaxnet.services.jaxprs import arrays_behind, weights_in
from jaxnet.services.trees import (
    PyTree,
    describe,
    is_float,
    key_spec,
    memo_of,
    shapes_of,
    signature,
)
from jaxnet.services.warn import warn
from jaxnet.training.objective import hint_of_batch
from jaxnet.transforms.stream import batch_axes


class ObjectiveTrace(NamedTuple):
    """What a trace of an objective shows, apart from its state.

    Fields:
      program: Closed jaxpr.
      values: Shapes of the pair `(values, metrics)`.
    """

    program: Any
    values: Any

    @property
    def per_row(self) -> bool:
        """Whether each value has one number per row, so that a mask can leave padding out."""
        return all(leaf.ndim > 0 for leaf in jax.tree.leaves(self.values))

    @property
    def uses_float16(self) -> bool:
        """Whether anything is computed in float16 for the loss; a metric does not count.

        Example:
          >>> net, x = jn.cast(jn.dense(2), jnp.float16), jnp.ones((5, 3))
          >>> trace_objective(net, *net.init(jax.random.key(0), x), x).uses_float16
          True
        """
        jaxpr = self.program.jaxpr
        losses = self.values[0] if isinstance(self.values, tuple) else self.values
        count = len(jax.tree.leaves(losses))
        are_losses = [i < count for i in range(len(jaxpr.outvars))]
        return any(array.dtype == jnp.float16 for array in arrays_behind(jaxpr, are_losses))


def trace_objective(
    objective: Layer, params: Params, state: State, batch: Any, *, train: bool = False
) -> ObjectiveTrace:
    """Return what an objective shows for batches of these shapes; raise what it raises.

    Example:
      >>> net, x = jn.dense(2), jnp.ones((5, 3))
      >>> trace_objective(net, *net.init(jax.random.key(0), x), x).values.shape
      (5, 2)
    """

    def trace() -> ObjectiveTrace:
        def run(params, state, batch, key):
            values, _ = objective.apply(params, state, batch, key=key, train=train)
            return values

        shapes = shapes_of((params, state, batch))
        with hint_of_batch(objective, batch):
            program, values = jax.make_jaxpr(run, return_shape=True)(*shapes, key=key_spec())
        return ObjectiveTrace(program, values)

    # An objective makes its params and state for the shapes of a batch.
    return memo_of(objective.apply).of(("trace", train, signature(batch)), trace)


def trace_or_none(trace: Callable[..., Any], *args: Any) -> Any:
    """Return what a trace returns; None if it raises, as the step will, which says where.

    A trace may also fail where a step does not: on all data instead of a batch, or in evaluation.
    Wrong values are raised, and warnings that are errors.

    Example:
      >>> trace_or_none(jnp.sin, "a")
    """
    try:
        return trace(*args)
    except (WrongValues, Warning):
        raise
    except Exception:
        return None


def rows_are_in_order(objective: Layer, state: State, data: PyTree, size: int) -> bool:
    """Return whether the state has entries per row of a batch, such as carries.

    Each batch then continues the previous batch, row by row.

    Args:
      objective: Objective that gets the data.
      state: State of the objective.
      data: All examples.
      size: Number of examples in a batch.

    Example:
      >>> net = jn.serial(jn.gru(4), jn.layers.time_distributed(jn.dense(7)))
      >>> objective = jn.training.truncated_bptt(net, jn.losses.masked())
      >>> data = (jnp.ones((6, 5, 3)), jnp.ones(6)), (jnp.ones((6, 5), int), jnp.ones((6, 5)))
      >>> _, state = objective.init(jax.random.key(0), jax.tree.map(lambda a: a[:2], data))
      >>> rows_are_in_order(objective, state, data, 2)
      True
    """
    if all(size not in leaf.shape for leaf in jax.tree.leaves(state)):
        return False  # the usual case, without a trace
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), data)

    def axes_or_none():  # None if the objective takes no other number of rows
        return trace_or_none(batch_axes, objective, batch)

    axes = memo_of(objective.apply).of(("batch axes", signature(batch)), axes_or_none)
    return any(axis >= 0 for axis in jax.tree.leaves(axes))


def check_captured(objective: Layer, params: Params, seen: ObjectiveTrace | None) -> None:
    """Raise if there is nothing to train; warn of arrays that were perhaps to be trained."""
    captured = [] if seen is None else weights_in(seen.program)
    sizes = ", ".join(describe(array) for array in captured[:8])
    write = (
        "To train them, draw them in init, as jn.stateless(init, apply) does or, for a module of "
        "another library, the functions of jn.interop"
    )
    if not any(map(is_float, jax.tree.leaves(params))):
        held = f", but its function captures {sizes}. {write}" if captured else ""
        raise ValueError(f"trainer.init: {objective.name} has no params to train{held}")
    if captured:
        warn(
            f"trainer.init: {objective.name} captures arrays from outside, {sizes}, which are not "
            f"trained. {write}. If they are constants (a teacher, a projection, a mask), write "
            "jax.lax.stop_gradient(array) where they are used"
        )
