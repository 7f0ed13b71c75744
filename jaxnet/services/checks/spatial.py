"""Batches with any number of spatial axes: series, pictures, volumes."""

from collections.abc import Sequence
from typing import Any

import jax

from jaxnet.services.checks.arrays import as_array
from jaxnet.services.warn import warn

NAMES = {1: ("time",), 2: ("height", "width"), 3: ("depth", "height", "width")}
SMALLEST_SIDE = 8  # of a picture; less is a number of channels


def form_of(axes: int) -> str:
    """Return the shape of a batch with this number of spatial axes in words.

    Example:
      >>> form_of(1), form_of(3)
      ('(batch, time, channels)', '(batch, depth, height, width, channels)')
    """
    names = NAMES.get(axes) or [f"side {i + 1}" for i in range(axes)]
    return f"(batch, {', '.join(names)}, channels)"


def as_spatial(
    who: str,
    what: str,
    x: Any,
    dtype: str = "booleans or numbers",
    sizes: dict[str, Any] | None = None,
) -> jax.Array:
    """Check a batch with at least one spatial axis, and return it as a JAX array.

    Three axes are a batch of series. If they look like pictures without channels, or like one
    picture without a batch axis, a warning says what to write.

    Args:
      who: Name of the function.
      what: Name of the argument.
      x: Series (batch, time, channels), pictures (batch, height, width, channels), volumes (batch,
        depth, height, width, channels), or data with more spatial axes.
      dtype, sizes: Options of `as_array`.

    Raises:
      TypeError: If `x` is not an array, or does not fit `dtype`.
      ValueError: If `x` has fewer than three axes.

    Example:
      >>> as_spatial("random_flip", "inputs", jnp.zeros((2, 3, 4, 5, 1))).shape
      (2, 3, 4, 5, 1)
    """
    axes = getattr(x, "ndim", 0) - 2
    if hasattr(x, "shape") and axes < 1:
        as_array(who, what, x, dtype=dtype)
        raise ValueError(
            f"{who}: {what} must have shape {form_of(2)}, or {form_of(1)} for series and "
            f"{form_of(3)} for volumes, got {tuple(x.shape)}"
        )
    array = as_array(who, what, x, form_of(max(axes, 1)), dtype, sizes)
    if remedy := _remedy(array.shape):
        warn(f"{who}: {what} {array.shape} are changed as series (batch, time, channels). {remedy}")
    return array


def _remedy(shape: Sequence[int]) -> str:
    """Return what to write if series may be pictures, or one of them; otherwise ""."""
    if without_channels(shape):
        return "For pictures write x[..., None]"
    if len(shape) == 3 and shape[0] == shape[1] >= SMALLEST_SIDE and shape[2] in (1, 3):
        return "For one picture write x[None]"
    return ""


def without_channels(shape: Sequence[int]) -> bool:
    """Return whether a batch of this shape may be pictures without their axis of channels.

    Example:
      >>> without_channels((60, 28, 28)), without_channels((60, 28, 3))
      (True, False)
    """
    return len(shape) == 3 and shape[1] == shape[2] >= SMALLEST_SIDE
