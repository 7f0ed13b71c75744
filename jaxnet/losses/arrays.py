"""Checks and arithmetic shared by losses, penalties, metrics and decoding; not public."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Loss = Callable[[Any, Any], jax.Array]  # (outputs, targets) -> one value per example or entry


def wide(x: Any) -> jax.Array:
    """x in float32 at least: bfloat16 has too few digits for sums and logarithms."""
    return jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32))


def log(p: jax.Array) -> jax.Array:
    """log p, continued below the dtype's epsilon by its tangent, so that it is finite at 0."""
    least = jnp.finfo(p.dtype).eps
    return jnp.log(jnp.maximum(p, least)) + jnp.minimum(p - least, 0) / least


def at_label(values: jax.Array, labels: jax.Array) -> jax.Array:
    """The entry of each label: (batch, ..., classes), (batch, ...) -> (batch, ...).

    NaN for a label outside [0, classes).
    """
    classes = values.shape[-1]
    labels = labels.astype(jnp.int32)
    labels = jnp.where(labels < 0, classes, labels)  # negative indices would count from the end
    return jnp.take_along_axis(values, labels[..., None], axis=-1, mode="fill")[..., 0]


def check_same_shape(who: str, a: jax.Array, b: jax.Array) -> None:
    """Raises a ValueError unless both shapes are equal."""
    if a.shape != b.shape:
        raise ValueError(
            f"{who}: expected two arrays of the same shape, got {a.shape} and {b.shape}. "
            "To drop a last axis of size 1, write outputs[..., 0]"
        )


def check_labels(who: str, outputs: jax.Array, targets: jax.Array) -> None:
    """Raises unless targets are integers (batch, ...) for outputs (batch, ..., classes)."""
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise TypeError(
            f"{who}: expected integer labels as targets, got {targets.dtype}. "
            "For one-hot targets, write targets.argmax(-1)"
        )
    if outputs.ndim == 0 or outputs.shape[:-1] != targets.shape:
        raise ValueError(
            f"{who}: expected outputs (batch, ..., classes) and labels (batch, ...), got "
            f"{outputs.shape} and {targets.shape}"
        )
