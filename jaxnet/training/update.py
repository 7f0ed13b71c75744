"""One update of a train_state, in the order of its arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.core import Layer
from jaxnet.services.trees import PyTree, floats_of, with_floats
from jaxnet.training.accumulate import accumulated
from jaxnet.training.averages import check_last
from jaxnet.training.batching import check_has_rows, rows_in
from jaxnet.training.loss_scale import scaled, skip_if_overflowed, unscaled, unwrapped
from jaxnet.training.objective import Average, averaged
from jaxnet.training.objective_trace import rows_are_in_order
from jaxnet.training.report import reported
from jaxnet.training.targets import check_metrics
from jaxnet.training.train_state import TrainState, step_key
from jaxnet.training.watch import Watcher


@dataclass(frozen=True, eq=False)
class Update:
    """A pure function `(train_state, batch, mask) -> (train_state, averages, finite)`.

    Fields:
      objective: Objective that is trained.
      optimizer: Optax optimizer.
      accumulate: Number of parts of a batch, as in `jn.trainer`.
      loss_scale: Constant scale of the loss; None for a dynamic scale, or for none.
      watcher: Warns, while an update is traced, about state that does not change.
      report: What to add to the averages, as in `jn.trainer`.
    """

    objective: Layer
    optimizer: optax.GradientTransformationExtraArgs
    accumulate: int
    loss_scale: float | None
    watcher: Watcher
    report: tuple[str, ...] = ()

    def __call__(
        self, train_state: TrainState, batch: PyTree, mask: jax.Array | None = None
    ) -> tuple[TrainState, dict[str, Average], jax.Array]:
        """Make one update.

        Args:
          train_state: Train_state before the update.
          batch: Batch for the objective.
          mask: Array (batch,) of 0 and 1, 0 for padding; None if all examples count.

        Returns:
          The next train_state, the average of the loss and of each metric, and whether the
          gradient of each leaf of the params is finite, (leaves,).
        """
        check_has_rows("step", batch)
        # Integers, such as the params of `quantized`, do not change.
        floats = floats_of(train_state.params)
        scaling, opt_state = unwrapped(train_state.opt_state)
        self._check_opt_state(floats, opt_state)
        key = step_key(train_state)

        def loss(floats, state=train_state.state, batch=batch, mask=mask, key=key):
            params = with_floats(train_state.params, floats)
            averages, after = averaged(self.objective, params, state, batch, mask, key, train=True)
            self.watcher.updated(state, after)
            return scaled(averages["loss"].mean, scaling), (after, averages)

        gradient, mean_loss = self._functions(loss, train_state, batch, mask, key)
        (_, (state, averages)), grads = gradient(floats)
        # The direction of ascent, which optax expects; JAX's gradient is its conjugate.
        grads = unscaled(jax.tree.map(jnp.conj, grads), scaling)
        extra = {"value": averages["loss"].mean, "grad": grads, "value_fn": mean_loss}
        with jax.named_scope("optimizer"):
            updates, opt_state = _updates(self.optimizer, grads, opt_state, floats, extra)
            params = with_floats(train_state.params, optax.apply_updates(floats, updates))
        finite = _finite(with_floats(train_state.params, grads))
        averages = reported(self.report, averages, grads, opt_state)
        step = train_state.step + 1
        after = train_state._replace(step=step, params=params, state=state, opt_state=opt_state)
        return skip_if_overflowed(self.loss_scale, train_state, after, finite), averages, finite

    def _functions(
        self, loss: Callable, train_state: TrainState, batch: PyTree, mask: Any, key: jax.Array
    ) -> tuple[Callable, Callable]:
        """Return two functions of the floats among the params: the gradient, and the mean loss.

        The gradient function also returns values, as `jax.value_and_grad` does: ((value, (state,
        averages)), gradient).
        """
        gradient = jax.value_and_grad(loss, has_aux=True)
        if self.accumulate > 1:
            self._check_accumulate(train_state, batch)
            gradient = accumulated(loss, train_state.state, batch, mask, key, self.accumulate)

        def mean_loss(floats):
            if self.accumulate == 1:
                _, (_, averages) = loss(floats)
            else:
                (_, (_, averages)), _ = gradient(floats)
            return averages["loss"].mean

        return gradient, mean_loss

    def _check_accumulate(self, train_state: TrainState, batch: PyTree) -> None:
        """Raise if the parts of a batch cannot be averaged, or continue parts of another batch."""
        params, state = train_state.params, train_state.state
        check_metrics("step", self.objective, params, state, batch)
        if rows_are_in_order(self.objective, state, batch, rows_in(batch) // self.accumulate):
            raise ValueError(
                "step: each row of a batch continues a row of the batch before it, and "
                f"accumulate={self.accumulate} cuts batches by rows; leave accumulate= out"
            )

    def _check_opt_state(self, floats: PyTree, opt_state: PyTree) -> None:
        """Raise unless opt_state is a state of this optimizer."""
        fresh = jax.eval_shape(self.optimizer.init, floats)
        check_last(fresh)
        needed = jax.tree.structure(fresh)
        structure = jax.tree.structure(opt_state)
        if structure != needed:
            raise ValueError(
                "step: opt_state belongs to another optimizer; initialize with this trainer: "
                f"trainer.init(key, batch)\n  expected {needed}\n  got      {structure}"
            )


def _finite(grads: PyTree) -> jax.Array:
    """Return whether each gradient is finite, (leaves,)."""
    # NaN and infinity times 0 are NaN. On CPU this is faster than isfinite(leaf).all().
    return jnp.array([jnp.isfinite((0 * leaf).sum()) for leaf in jax.tree.leaves(grads)], bool)


def _updates(optimizer: Any, grads: PyTree, opt_state: PyTree, params: PyTree, extra: dict) -> Any:
    """Return what an optimizer returns, which gets those of the extra arguments that it takes.

    A chain hands all of them to its parts, so only a call tells.
    """
    try:
        return optimizer.update(grads, opt_state, params, **extra)
    except TypeError as error:
        accepted = {n: v for n, v in extra.items() if f"keyword argument '{n}'" not in str(error)}
        if accepted == extra:
            raise
        return _updates(optimizer, grads, opt_state, params, accepted)
    except AttributeError as error:
        raise TypeError(
            f"trainer: the optimizer does not take a dict of params ({error}). optax.lookahead "
            "needs params of its own; for an average of params, append jn.ema() by optax.chain"
        ) from error
