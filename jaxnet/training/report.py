"""What a step can report beside loss and metrics: the norm of the gradient, the learning rate."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.ops import at_least_float32
from jaxnet.services.checks import check_list
from jaxnet.services.trees import PyTree
from jaxnet.training.objective import Average

NORM, RATE = "gradient_norm", "learning_rate"
NAMES = (NORM, RATE)


def check_report(report: Any) -> tuple[str, ...]:
    """Return the names of what a trainer reports; raise for others.

    Example:
      >>> check_report(["gradient_norm"])
      ('gradient_norm',)
    """
    names = tuple(check_list("trainer", "report", report, 'names, ("gradient_norm",)'))
    for name in names:
        if name not in NAMES:
            raise ValueError(f"trainer: report may have {' and '.join(NAMES)}, got {name!r:.60}")
    return names


def learning_rate(opt_state: PyTree) -> Any:
    """Return the learning rate that the state of an optimizer holds.

    Args:
      opt_state: State of an optimizer that was made by `optax.inject_hyperparams`.

    Raises:
      ValueError: If it holds none, or several.

    Example:
      >>> optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.5)
      >>> float(learning_rate(optimizer.init({"w": jnp.ones(3)})))
      0.5
    """

    def is_injected(state: Any) -> bool:
        return RATE in getattr(state, "hyperparams", ())

    states = jax.tree.leaves(opt_state, is_leaf=is_injected)
    rates = [state.hyperparams[RATE] for state in states if is_injected(state)]
    if len(rates) == 1:
        return rates[0]
    count = f"{len(rates)} learning rates" if rates else "no learning rate"
    raise ValueError(
        f'trainer: report has "{RATE}", and the optimizer\'s state holds {count}; write '
        "optax.inject_hyperparams(optax.adam)(learning_rate=1e-3), with a number or a schedule"
    )


def reported(
    names: tuple[str, ...], averages: dict[str, Average], grads: PyTree, opt_state: PyTree
) -> dict[str, Average]:
    """Return the averages of a step with what its trainer reports.

    Args:
      names: What to report.
      averages: Averages of the loss and of the metrics.
      grads: Gradient of the mean loss.
      opt_state: State of the optimizer after the step, which holds the rate of the step.

    Raises:
      ValueError: If a metric has one of the names, or the state holds no learning rate.

    Example:
      >>> averages = reported(("gradient_norm",), {}, {"w": jnp.array([3.0, 4.0])}, ())
      >>> float(averages["gradient_norm"].mean)
      5.0
    """
    values = {}
    if NORM in names:
        squares = [jnp.square(abs(at_least_float32(leaf))).sum() for leaf in jax.tree.leaves(grads)]
        values[NORM] = jnp.sqrt(sum(squares))
    if RATE in names:
        values[RATE] = learning_rate(opt_state)
    if twice := [name for name in values if name in averages]:
        raise ValueError(f"trainer: report has {twice[0]!r}, which is the name of a metric too")
    each_step_counts = jnp.float32(1)
    return averages | {
        name: Average(jnp.float32(value), each_step_counts) for name, value in values.items()
    }
