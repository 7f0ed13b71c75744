"""An average of params over training steps, as an optax transform."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet.services.checks import within


class EmaState(NamedTuple):
    """State of `ema`.

    Fields:
      step: Number of updates.
      ema: Average of the params so far; zeros before the first update.
    """

    step: jax.Array
    ema: Any


_LAST = (
    "ema: expected the updates of an optimizer, got the gradients or updates that a later part "
    "changes; write optax.chain(optimizer, jn.ema()), with jn.ema last"
)


def check_last(opt_state: Any) -> None:
    """Raise if anything comes after `ema` in a chain with this state."""

    def is_average(state):
        return isinstance(state, EmaState)

    while type(opt_state) is tuple and opt_state:  # of a chain
        *before, opt_state = opt_state
        if any(map(is_average, jax.tree.leaves(before, is_leaf=is_average))):
            raise ValueError(_LAST)


def ema(decay: float = 0.999) -> optax.GradientTransformationExtraArgs:
    """Return an exponential moving average of the params, the last transform of an `optax.chain`.

    The updates pass through it. After each, ema = d * ema + (1 - d) * params, where d is `decay`
    but at most (1 + step) / (10 + step), so that early params soon lose their weight. The average
    is part of the optimizer's state, so it is saved, resumed and placed with it:
    `optax.tree.get(train_state.opt_state, "ema")`. The average of params of 16 bits is in float32.

    Running statistics, such as the averages of batch norm, do not fit the averaged params. To
    refresh them, run some batches of training data through the net with `train=True`, see the
    guide. With `optax.MultiSteps`, put both into it, as in `optax.MultiSteps(optax.chain(optimizer,
    jn.ema()), 4)`: after it, the average would move at each small step.

    Args:
      decay: Weight of the old average, in [0, 1).

    Returns:
      An optax transformation to put at the end of a chain. Its state has the averages as `ema`.

    Raises:
      ValueError: If `decay` is outside [0, 1).
      ValueError: In the update, if params are missing.
      ValueError: In a trainer, if it comes before the optimizer.

    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), jn.ema(0.9))
      >>> params = {"w": jnp.array(4.0)}
      >>> opt_state = optimizer.init(params)
      >>> for _ in range(3):
      ...     updates, opt_state = optimizer.update({"w": jnp.array(1.0)}, opt_state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> float(params["w"]), float(optax.tree.get(opt_state, "ema")["w"])
      (1.0, 1.295...)

    Reference: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging";
    the warm-up as in TensorFlow's ExponentialMovingAverage.
    """
    within("ema", "decay", decay, "[0, 1)")

    def init(params):
        def zeros(param):
            # 16 bits would round small changes away.
            return jnp.zeros_like(param, jnp.result_type(param, jnp.float32))

        return EmaState(step=jnp.zeros([], jnp.int32), ema=jax.tree.map(zeros, params))

    def update(updates, state, params=None, *, grad=None, **_):
        if params is None:
            raise ValueError("ema: needs the params; write optimizer.update(grads, state, params)")
        if updates is grad:  # a trainer also passes the gradients
            raise ValueError(_LAST)
        new = optax.apply_updates(params, updates)
        step = state.step
        rate = jnp.minimum(decay, (1 + step) / (10 + step))
        rate = jnp.where(step == 0, 0, rate)  # the average starts as the first params

        def mixed(old, now):
            return (rate * old + (1 - rate) * now).astype(old.dtype)

        # Not beyond the last integer: a negative count would start the average anew.
        return updates, EmaState(
            step=jnp.asarray(optax.safe_increment(step)), ema=jax.tree.map(mixed, state.ema, new)
        )

    return optax.GradientTransformationExtraArgs(init, update)
