"""Checks of the targets of optax losses, which optax does not check itself."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxnet.losses.arrays import Loss, check_distribution, check_labels, check_unit
from jaxnet.losses.form import check_form, unwrapped
from jaxnet.services.checks import WrongValues, concrete_values
from jaxnet.services.functions import function_name
from jaxnet.services.trees import describe
from jaxnet.services.warn import warn


def checked(loss: Any, who: str = "supervised", what: str = "loss") -> Loss:
    """Return the same loss or metric, which raises if it would misread its targets.

    Losses of this library check their own targets. For a function of the user, known labels that
    are not classes cause a warning, since the function may leave them out or be a regression.

    Args:
      loss: Function of (outputs, targets).
      who: Function that takes it, for messages.
      what: Name of the argument. If it is not "loss", targets are not checked.

    Example:
      >>> loss = checked(optax.hinge_loss)
      >>> loss(jnp.ones(2), jnp.array([0, 1]))
      Traceback (most recent call last):
      ...
      ValueError: hinge_loss: targets must be -1 or 1, got 0. For ...
    """
    check_form(who, what, loss)
    function, _, options = unwrapped(loss)
    if hasattr(function, "lower"):  # by jax.jit
        function = function.__wrapped__
    if str(getattr(function, "__module__", "")).startswith("jaxnet."):
        return loss
    moved = "axis" in options or "where" in options
    in_table = isinstance(function, type(checked)) and function in _CHECKS
    check = _CHECKS[function] if in_table else _unknown
    name = function_name(function)

    @functools.wraps(function)
    def checked_loss(outputs: Any, targets: Any) -> Any:
        if what == "loss" and not moved:
            check(name, outputs, targets)
        values = loss(outputs, targets)
        if callable(values):
            raise TypeError(
                f"{who}: {what} must return values, but {name} returned a function. Pass that "
                f"function: {name}(...)"
            )
        return values

    return checked_loss


def _labels(who: str, outputs: Any, targets: Any) -> None:
    *rest, classes = jnp.shape(outputs) or (None,)
    wanted = tuple(rest)
    is_integer = jnp.issubdtype(jnp.result_type(targets), jnp.integer)
    if jnp.shape(targets) == (*wanted, classes):
        write = "targets.argmax(-1), or take optax.softmax_cross_entropy"
    elif jnp.shape(targets) != wanted:
        return  # optax raises
    elif not is_integer:
        write = "targets.astype(int)"
    else:
        if classes is not None:
            check_labels(who, targets, classes)
        return
    raise TypeError(
        f"{who}: targets must be integer labels {wanted}, got {describe(targets)}. Write {write}"
    )


def _unknown(who: str, outputs: Any, targets: Any) -> None:
    shape: Any = getattr(outputs, "shape", ())
    has_classes = len(shape) > 1 and shape[-1] > 1
    if not has_classes or getattr(targets, "shape", None) != shape[:-1]:
        return
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        return
    values = concrete_values(targets)
    if values is None:
        return
    wrong = values[(values < 0) | (values >= shape[-1])]
    if wrong.size:
        label = wrong.flat[0]
        warn(
            f"{who}: targets hold {label}, which is not a class of {shape[-1]} outputs. JAX takes "
            "-1 for the last class; if the loss leaves this label out, say so by "
            f"jn.losses.weighted(loss, ignore_label={label})"
        )


def _distribution(who: str, outputs: Any, targets: Any) -> None:
    """Raise for labels, which optax would broadcast against the classes."""
    got, wanted = jnp.shape(targets), jnp.shape(outputs)
    looks_like_labels = got in (wanted[:-1], (*wanted[:-1], 1))
    if wanted and looks_like_labels and got != wanted:
        where = "targets[..., 0]" if len(got) == len(wanted) else "targets"
        raise ValueError(
            f"{who}: targets must be probabilities {wanted}, got {describe(targets)}. For labels, "
            f"write jax.nn.one_hot({where}, {wanted[-1]}), or take "
            "optax.softmax_cross_entropy_with_integer_labels"
        )
    check_distribution(who, outputs, targets)


def _unit(who: str, outputs: Any, targets: Any) -> None:
    check_unit(who, "targets", targets)


def _sign(who: str, outputs: Any, targets: Any) -> None:
    values = concrete_values(targets)
    if values is None:
        return
    wrong = values[abs(values.astype(np.float32)) != 1]
    if wrong.size:
        raise WrongValues(
            f"{who}: targets must be -1 or 1, got {wrong.flat[0]}. For labels 0 and 1, write "
            "2 * targets - 1"
        )


_CHECKS: dict[Callable, Callable[[str, Any, Any], None]] = {
    optax.losses.softmax_cross_entropy_with_integer_labels: _labels,
    optax.losses.multiclass_hinge_loss: _labels,
    optax.losses.multiclass_perceptron_loss: _labels,
    optax.losses.sigmoid_binary_cross_entropy: _unit,
    optax.losses.sigmoid_focal_loss: _unit,
    optax.losses.softmax_cross_entropy: _distribution,
    optax.losses.safe_softmax_cross_entropy: _distribution,
    optax.losses.poly_loss_cross_entropy: _distribution,
    optax.losses.hinge_loss: _sign,
    optax.losses.perceptron_loss: _sign,
}
