"""Checks of scores by step, for the loss and the decoding of labels without an alignment."""

from typing import Any

import jax
import numpy as np

from jaxnet.services.checks.arrays import as_array, check_range
from jaxnet.services.checks.numbers import between


def read_steps(
    who: str, logits: Any, lengths: Any, blank: int, sizes: dict[str, Any]
) -> tuple[jax.Array, jax.Array]:
    """Return checked logits (batch, steps, classes) and lengths (batch,); ... means all steps."""
    logits = as_array(who, "logits", logits, "(batch, steps, classes)", "reals", sizes)
    batch, steps, classes = logits.shape
    between(who, "blank", blank, 0, classes - 1, "the last class")
    if lengths is ...:
        lengths = np.full(batch, steps, np.int32)
    checked = as_array(who, "lengths", lengths, "(batch,)", "integers", sizes)
    check_range(lengths, steps + 1, f"{who}: lengths")
    return logits, checked
