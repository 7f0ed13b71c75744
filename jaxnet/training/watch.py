"""Watch a run: recompilation, state never updated, values that are not finite, reuse."""

import sys
from contextlib import ContextDecorator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State
from jaxnet.services.checks import explain_memory, explain_spent, is_traced
from jaxnet.services.trees import PyTree, differences, flat
from jaxnet.services.warn import warn
from jaxnet.training.interrupts import give, recover
from jaxnet.training.loss_scale import LossScale
from jaxnet.training.objective import supervised_in
from jaxnet.training.ranges import warn_pixels

LAST_STEP = 2**31 - 1
MANY = 10  # steps in a row without an update, after which the loss scale is 1,000 times smaller


class Watcher:
    """Warns about a trainer's programs, by path.

    Args:
      shapes: Number of batch shapes to expect. Up to this number of compilations, there is no
        warning.
    """

    def __init__(self, shapes: int = 1):
        self.shapes = shapes
        self.traces: dict[str, list[dict[str, str]]] = {}
        self._by_place: dict[Any, list[dict[str, str]]] = {}
        self._still: set[str] = set()
        self._losses: list[jax.Array] = []  # not read yet
        self._patience = 1
        self._below = False  # whether a loss below 0 was told

    def __reduce__(self) -> tuple:  # a copy of a trainer has not compiled anything
        return Watcher, (self.shapes,)

    def traced(self, program: str, place: Any = None, **args: PyTree) -> None:
        """Warn, while a program is traced, which argument made it compile again.

        Args:
          program: Name of the program.
          place: Shardings of the train_state; each mesh has a program of its own.
          args: Arguments of the program.
        """
        if jax.config.jax_disable_jit:  # nothing is compiled
            return
        now = {path: str(jax.typeof(leaf)) for path, leaf in flat(args, None)}
        self.traces.setdefault(program, []).append(now)
        before = self._by_place.setdefault((program, place), [])
        before.append(now)
        if len(before) < 2:
            return
        changed = differences(before[-2], now)
        sources = {name.split("/")[0] for name in changed}
        of_batch = sources <= {"batch", "data"}
        # A second data set is usually meant.
        if of_batch and len(before) <= self.shapes + (sources == {"data"}):
            return
        if changed and all(a and b and a.strip("~") == b.strip("~") for a, b in changed.values()):
            return  # only a weak type, as of jnp.asarray(1e-3), after which nothing compiles again
        changes = [f"{n}: {a or 'nothing'} -> {b or 'nothing'}" for n, (a, b) in changed.items()]
        hint = "; for batches of n shapes, write jn.trainer(..., shapes=n)" if of_batch else ""
        if sources == {"data"}:
            hint = "; for data that grow, pass jn.data.batches(...), whose batches have one shape"
        otherwise = "another batch_size or sharding, a list instead of a tuple, or edited code"
        why = "; ".join(changes[:8]) or otherwise
        warn(f"{program} is compiled again (number {len(before)}), because of {why}{hint}")

    def updated(self, before: State, after: State) -> None:
        """Warn, while a step is traced, about leaves that are returned as the same value.

        Booleans may be: a mask of weights changes between runs, without a compilation.
        """
        if jax.tree.structure(before) != jax.tree.structure(after):
            raise ValueError(
                "step: the objective must return state of the structure it was given, "
                f"{jax.tree.structure(before)}, got {jax.tree.structure(after)}"
            )
        pairs = zip(flat(before, None), jax.tree.leaves(after), strict=True)
        same = {path for (path, old), new in pairs if new is old and old.dtype != bool}
        if new := same - self._still:
            self._still |= new
            warn(
                f"state does not change in training: {', '.join(sorted(new))}; is the net applied "
                "with train=train, and is its new state returned? Keep a constant as an array in "
                "the function of the layer, not in the state. A mask of booleans may stay"
            )

    def stepped(self, train_state: Any, loss: jax.Array, objective: Layer | None = None) -> None:
        """Read losses only after some steps, since reading waits for the device.

        After call 1 it reads the parameters and the loss, later the losses, at least every 256
        calls.
        """
        self._losses.append(loss)
        if len(self._losses) < self._patience:
            return
        unread, self._losses = self._losses, []
        first = self._patience == 1
        self._patience = min(2 * self._patience, 256)
        # For example by a rate inside the optimizer.
        if is_traced((unread[-1], train_state.params)):
            return
        if isinstance(train_state.opt_state, LossScale):
            scale = train_state.opt_state
            warn_skipped(train_state.params, [scale], np.asarray(scale.finite))
            return
        check_count("step", int(train_state.step))
        self._below = self._below or warn_below(objective, np.asarray(unread[-1:]))
        if first:
            warn_pixels("step", objective, float(unread[0]))
        if not first and np.isfinite(unread[-1]):  # a NaN reaches the parameters and stays there
            return
        losses = np.asarray(unread)
        finite = _finite(jax.tree.leaves(train_state.params))
        late = int(np.sum(~np.isfinite(losses))) or 1
        first_step = int(train_state.step) - late + 1
        warn_nonfinite(train_state.params, finite[None], losses[-late:], first_step)


def _finite(leaves: list[jax.Array]) -> np.ndarray:
    """Return whether each array is finite, on CPU by numpy: programs would compile for a second."""
    kinds = {device.platform for leaf in leaves for device in leaf.devices()}
    if kinds <= {"cpu"} and all(leaf.is_fully_addressable for leaf in leaves):
        return np.array([np.isfinite(leaf).all() for leaf in leaves], bool)
    flags = jax.jit(lambda leaves: jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))
    return np.asarray(flags(leaves))


def check_count(who: str, step: int) -> None:
    """Raise if the count of steps has left its 32 bits, as after 30 hours of a small step.

    Example:
      >>> check_count("fit", 5)
    """
    if not 0 <= step < LAST_STEP:
        raise OverflowError(
            f"{who}: train_state.step counts to {LAST_STEP:,} in 32 bits, and is {step:,}; start a "
            "new count by train_state._replace(step=jnp.int32(0))"
        )


def warn_skipped(params: Params, scales: list[LossScale], finite: np.ndarray) -> bool:
    """Warn if the last steps were all skipped, since their gradients overflowed.

    Args:
      params: Params, for the paths.
      scales: States of loss scaling.
      finite: Whether the last gradients are finite, (leaves of the gradient,).

    Returns:
      Whether it warned.
    """
    pairs = [jax.device_get((each.good_steps, each.loss_scale)) for each in scales]
    good, scale = min(pairs, key=lambda pair: pair[0])
    if good > -MANY:
        return False
    warn(
        f"the last {-good} steps changed nothing, since their gradient is not finite: "
        f"{_named(params, finite)}. The loss scale is {scale:g}, and float16 ends at 65,504; find "
        "the layer with jn.inspect.first_nonfinite, or cast the net to jnp.bfloat16"
    )
    return True


def _named(params: Params, finite: np.ndarray) -> str:
    """Return the paths of the leaves whose gradient is not finite."""
    which = [path for (path, _), fine in zip(flat(params, None), finite, strict=True) if not fine]
    more = f" and {len(which) - 8} more" if len(which) > 8 else ""
    return ", ".join(which[:8]) + more


def warn_nonfinite(params: Params, finite: np.ndarray, losses: np.ndarray, first: int) -> bool:
    """Warn about the first step whose gradient, or else whose loss, has a NaN or Inf.

    Args:
      params: Params, for the paths.
      finite: Whether gradients are finite, (steps, leaves of the gradient).
      losses: Losses (steps,).
      first: Number of the first of these steps.

    Returns:
      Whether it warned.
    """
    steep = np.flatnonzero(~finite.all(axis=1))
    high = np.flatnonzero(~np.isfinite(losses))
    if steep.size:
        warn(
            f"the gradient is not finite at step {first + steep[0]}: "
            + _named(params, finite[steep[0]])
            + "; find the layer with jn.inspect.first_nonfinite, or try a smaller learning rate"
        )
    elif high.size:  # optax's cross entropy is NaN for a label that is not a class
        of_labels = "are the labels 0 to n - 1 for n outputs?"
        of_rate = "try a smaller learning rate."
        warn(
            f"the loss is not finite at step {first + high[0]}, but its gradient is; "
            + (of_labels if np.isnan(losses[high[0]]) else of_rate)
            + " jn.inspect.first_nonfinite may help"
        )
    return bool(steep.size or high.size)


def warn_below(objective: Layer | None, losses: np.ndarray) -> bool:
    """Warn about a loss of outputs and targets below 0, and return whether it did.

    A cross entropy has no lower bound if its targets are -1 and 1. Losses of this library check
    their targets.
    """
    parts = supervised_in(objective)
    checked = parts is None or parts.checks_targets or parts.penalty is not None
    below = not checked and losses.min() < -1e-3  # more than rounding
    if below:
        warn(
            f"the loss is {losses.min():.4g}. Few losses of outputs and targets are below 0: log "
            "densities, as of a Gaussian, and negative similarities. A cross entropy or an error "
            "is not, so look at its targets: -1 and 1 need (targets + 1) / 2, pixels and "
            "probabilities must be in [0, 1], and class numbers need a loss of labels"
        )
    return below


class explain_reuse(ContextDecorator):
    """Add to JAX's errors about a deleted array, or one in two places, what to write instead.

    It runs at each step. `contextlib.contextmanager` would cost two microseconds.
    """

    def __init__(self, train_state: Any = None):
        self.train_state = train_state

    def __enter__(self) -> None: ...

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if error is not None and "has been deleted" in str(error):
            self._offer(error)
        explain_spent(error)
        explain_memory(error)
        if error and ("Gloo" in str(error) or "NCCL" in str(error)):
            error.add_note("perhaps another process ended; see what it printed")
        if error is not None and "donate the same buffer twice" in str(error):
            places: dict[int, list[str]] = {}
            for path, leaf in flat(self.train_state, None):
                places.setdefault(id(leaf), []).append(path)
            twice = [" and ".join(paths) for paths in places.values() if len(paths) > 1]
            error.add_note(
                f"one array is in two places of the train_state: {', '.join(twice[:3])}. Copy one "
                "of them, as in train_state._replace(params=jax.tree.map(jnp.copy, params))"
            )

    def _offer(self, error: BaseException) -> None:
        """Give an error the newest train_state of the same net that the last error has left."""
        last = getattr(sys, "last_value", None)
        if last is None or self.train_state is None:
            return
        newest = recover(last)
        if jax.tree.map(np.shape, newest) == jax.tree.map(np.shape, self.train_state):
            give(error, newest)
