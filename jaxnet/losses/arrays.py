"""Checks of outputs and targets, and entries at targets, for losses and metrics; not public."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services import checks
from jaxnet.services.trees import describe

Loss = Callable[[Any, Any], jax.Array]  # (outputs, targets) -> one value per example or entry


def at_label(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the entry of each label: (batch, ..., classes), (batch, ...) -> (batch, ...).

    The entry of a label outside [0, classes) is NaN.
    """
    classes = values.shape[-1]
    labels = labels.astype(jnp.promote_types(labels.dtype, jnp.int32))
    # Negative indices would count from the end, and 64-bit indices could overflow.
    outside = (labels < 0) | (labels >= classes)
    labels = jnp.where(outside, classes, labels)
    picked = jnp.take_along_axis(values, labels[..., None], axis=-1, mode="fill")
    return picked[..., 0]


def at_target(values: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the entry of each label, or the mean of the entries by their probabilities.

    A class of probability 0 does not count, even if its entry is infinite.
    """
    if targets.shape != values.shape:
        return at_label(values, targets)
    p = targets.astype(values.dtype)
    return times(p, values).sum(-1)


@jax.custom_jvp
def times(p: jax.Array, values: jax.Array) -> jax.Array:
    """Return p * values, and 0 where p is 0 and the value is not finite.

    Elsewhere the gradient by p is the value, also at 0, for targets that are learned.
    """
    return p * _counted(p, values)


def _counted(p: jax.Array, values: jax.Array) -> jax.Array:
    is_left_out = (p == 0) & ~jnp.isfinite(values)
    return jnp.where(is_left_out, 0, values)


# By hand, since a gradient by the values would read them again for the mask.
times.defjvps(lambda dp, _, p, values: dp * _counted(p, values), lambda dv, _, p, values: p * dv)


def read_same(who: str, outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Return two checked arrays of one shape, as floats."""
    outputs = checks.as_array(who, "outputs", outputs, dtype="reals")
    targets = checks.as_array(who, "targets", targets, dtype="reals")
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{who}: expected outputs and targets of the same shape, got {outputs.shape} and "
            f"{targets.shape}. To drop a last axis of size 1, write outputs[..., 0]"
        )
    return outputs, targets


def read_unit(who: str, outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Return the arrays of `read_same`, and raise if known targets are outside [0, 1]."""
    arrays = read_same(who, outputs, targets)
    check_unit(who, "targets", targets)
    return arrays


def read_labels(who: str, outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Return checked outputs (batch, ..., classes) and integer labels (batch, ...)."""
    if _are_swapped(outputs, targets):
        raise TypeError(
            f"{who}: outputs and targets are swapped: got {describe(outputs)} first. Write "
            f"{who}(outputs, targets)"
        )
    outputs = checks.as_array(who, "outputs", outputs, "(batch, ..., classes)", "reals")
    targets = checks.as_array(who, "targets", targets, "(batch, ...)", "integers")
    if outputs.shape[:-1] != targets.shape:
        raise ValueError(
            f"{who}: expected outputs (batch, ..., classes) and targets (batch, ...), got "
            f"{outputs.shape} and {targets.shape}"
        )
    return outputs, targets.astype(jnp.promote_types(targets.dtype, jnp.int32))


def _are_swapped(outputs: Any, targets: Any) -> bool:
    """Return whether the first array looks like labels of the second."""
    shape = getattr(outputs, "shape", None)
    other = getattr(targets, "shape", ())
    has_one_axis_less = bool(other) and other[:-1] == shape
    return has_one_axis_less and not jnp.issubdtype(outputs.dtype, jnp.floating)


def one_logit(who: str, shape: tuple[int, ...], write: str) -> ValueError:
    """Return the error of outputs with one class."""
    return ValueError(
        f"{who}: expected two classes or more, got outputs {shape}. For one logit per example, "
        f"take {write}"
    )


def are_probabilities(outputs: Any, targets: Any) -> bool:
    """Return whether targets are class probabilities, in the shape of the outputs."""
    shape = getattr(targets, "shape", None)
    alike = bool(shape) and shape == getattr(outputs, "shape", None)
    return alike and jnp.issubdtype(targets.dtype, jnp.floating)


def read_targets(who: str, outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Return the arrays of `read_labels`, or outputs and class probabilities of one shape."""
    if not are_probabilities(outputs, targets):
        return read_labels(who, outputs, targets)
    check_distribution(who, outputs, targets)
    return read_same(who, outputs, targets)


def read_classes(who: str, outputs: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    """Return the arrays of `read_targets`, and raise if known labels are not classes.

    While tracing, `at_label` gives NaN for such labels.
    """
    arrays = read_targets(who, outputs, targets)
    if not are_probabilities(outputs, targets):
        check_labels(who, targets, arrays[0].shape[-1])
    return arrays


def read_weights(who: str, what: str, weights: Any, form: str = "(...)") -> Any:
    """Return checked weights of classes: finite and at least 0 unless they are traced."""
    if checks.is_traced(weights):
        return checks.as_array(who, what, weights, form, "reals")
    weights = checks.on_host(who, what, weights, form)
    are_fine = np.isfinite(weights) & (weights >= 0)
    if not are_fine.all():
        raise ValueError(f"{who}: {what} must be finite and at least 0, got {weights}")
    return checks.native(who, what, weights)


def check_labels(who: str, labels: Any, classes: int) -> None:
    """Raise if known labels are not classes."""
    values = checks.concrete_values(labels)
    if values is None:
        return
    wrong = values[(values < 0) | (values >= classes)]
    if not wrong.size:
        return
    label, largest = int(wrong.flat[0]), int(values.max())
    hint = ""
    if largest == classes and values.min() > 0:
        hint = f"Labels start at 0; if yours are 1 to {classes}, write labels - 1. "
    elif classes <= largest <= 2 * classes:
        hint = f"For labels up to {largest}, the last layer needs {largest + 1} outputs. "
    raise checks.WrongValues(
        f"{who}: targets must be labels in [0, {classes}) for {classes} outputs, got {label}. "
        f"{hint}To leave a label out of the loss, write "
        f"jn.losses.weighted(loss, ignore_label={label})"
    )


def check_unit(who: str, what: str, values: Any) -> None:
    """Raise if known values are outside [0, 1]."""
    values = checks.concrete_values(values)
    if values is None:
        return
    inside = (values >= 0) & (values <= 1)  # not NaN
    wrong = values[~inside]
    if wrong.size:
        hint = ". For images of 8 bits, write x / 255" if wrong.max() > 1.5 else ""
        raise checks.WrongValues(f"{who}: {what} must be in [0, 1], got {wrong.flat[0]}{hint}")


def check_distribution(who: str, outputs: Any, targets: Any) -> None:
    """Raise if known rows of targets, in the shape of outputs, are not probabilities."""
    values = checks.concrete_values(targets)
    if values is None or values.shape != jnp.shape(outputs):
        return
    check_unit(who, "targets", targets)
    sums = values.astype(np.float32).sum(-1)
    are_one = abs(sums - 1) < 0.02  # the rounding error of bfloat16; not NaN
    wrong = sums[~are_one]
    if wrong.size:
        raise checks.WrongValues(
            f"{who}: each row of targets must sum to 1, got {wrong.flat[0]:.3g}. For several "
            "labels per example, take optax.sigmoid_binary_cross_entropy; to leave rows out, "
            "jn.losses.masked(loss)"
        )


def split_pair(who: str, what: str, value: Any) -> Any:
    """Return the two parts of an argument, such as (labels, mask)."""
    is_sequence = isinstance(value, tuple | list)
    if is_sequence and len(value) == 2:
        return value
    got = type(value).__name__
    if is_sequence:
        got = f"{len(value)} entries"
    elif isinstance(value, jax.Array | np.ndarray):
        got = f"one array of shape {value.shape}"
    raise TypeError(f"{who}: {what}, got {got}")
