"""Loss scaling: gradients of float16 stay in its range, and steps that overflow are skipped.

float16 holds 6e-8 to 65,504, so small gradients become 0. The trainer multiplies the loss by the
scale, and divides the gradients by it in the dtype of the params.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.services.trees import PyTree

FIRST = 2.0**16
LARGEST = 2.0**24
PERIOD = 2000  # steps without an overflow after which the scale is doubled


class LossScale(NamedTuple):
    """State of loss scaling, which is the `opt_state` of a trainer that scales its loss.

    Fields:
      loss_scale: Number by which the loss is multiplied, a float32 scalar.
      good_steps: Number of steps since the last overflow or change of the scale; after an overflow
        minus the number of overflows in a row.
      skipped: Number of all steps that were skipped.
      finite: Whether the last gradient of each leaf of params was finite, (leaves,).
      optimizer: State of the optax optimizer.
    """

    loss_scale: jax.Array
    good_steps: jax.Array
    skipped: jax.Array
    finite: jax.Array
    optimizer: PyTree


def scales_in(opt_state: PyTree) -> list[LossScale]:
    """Return the states of loss scaling in an `opt_state`, of which `jn.alternate` has several."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, LossScale))
    return [leaf for leaf in leaves if isinstance(leaf, LossScale)]


def started(fixed: float | None, opt_state: PyTree, params: PyTree) -> LossScale:
    """Return the state before the first step.

    Example:
      >>> started(None, (), {"kernel": jnp.ones(3)})[:2]
      (Array(65536., dtype=float32), Array(0, dtype=int32))
    """
    count = len(jax.tree.leaves(params))
    scale = jnp.asarray(FIRST if fixed is None else fixed, jnp.float32)
    return LossScale(
        loss_scale=scale,
        good_steps=jnp.int32(0),
        skipped=jnp.int32(0),
        finite=jnp.ones(count, bool),
        optimizer=opt_state,
    )


def unwrapped(opt_state: PyTree) -> tuple[LossScale | None, PyTree]:
    """Return the state of loss scaling, or None if nothing is scaled, and the optimizer's state.

    Example:
      >>> unwrapped("of an optimizer")
      (None, 'of an optimizer')
    """
    if isinstance(opt_state, LossScale):
        return opt_state, opt_state.optimizer
    return None, opt_state


def scaled(loss: jax.Array, scaling: LossScale | None) -> jax.Array:
    """Return the loss times the scale, if it is scaled."""
    return loss if scaling is None else loss * scaling.loss_scale


def unscaled(grads: PyTree, scaling: LossScale | None) -> PyTree:
    """Return the gradients of a scaled loss divided by the scale, in the dtypes of the params."""
    if scaling is None:
        return grads
    return jax.tree.map(lambda grad: (grad / scaling.loss_scale).astype(grad.dtype), grads)


def skip_if_overflowed(fixed: float | None, before: Any, after: Any, finite: jax.Array) -> Any:
    """Return the train_state after a step, which changes only the scale if a gradient overflowed.

    If nothing is scaled, it is the train_state itself.

    Args:
      fixed: Constant scale, or None.
      before: Train_state before the step.
      after: Train_state after it, whose `opt_state` is the optimizer's.
      finite: Whether each leaf of the gradient is finite.
    """
    last = before.opt_state
    if not isinstance(last, LossScale):
        return after
    fine = finite.all()

    def select(new, old):
        return jax.tree.map(lambda new, old: jnp.where(fine, new, old), new, old)

    params = select(after.params, before.params)
    state = select(after.state, before.state)
    optimizer = select(after.opt_state, last.optimizer)
    good = jnp.where(fine, jnp.maximum(last.good_steps, 0) + 1, jnp.minimum(last.good_steps, 0) - 1)
    scale = last.loss_scale
    if fixed is None:
        growth = jnp.where(good == PERIOD, 2.0, 1.0)
        scale = jnp.clip(scale * jnp.where(fine, growth, 0.5), 1, LARGEST)
        good = jnp.where(good == PERIOD, 0, good)
    scaling = LossScale(
        loss_scale=scale,
        good_steps=good,
        skipped=last.skipped + ~fine,
        finite=finite,
        optimizer=optimizer,
    )
    return after._replace(params=params, state=state, opt_state=scaling)
