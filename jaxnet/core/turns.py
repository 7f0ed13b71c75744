"""The turns of `m.scan`: how many there are, and what goes from one to the next."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core.errors import current_path
from jaxnet.services import checks
from jaxnet.services.jax_versions import as_varying, varying_axes
from jaxnet.services.trees import PyTree


def number_of_turns(body: Any, xs: PyTree, length: int | None) -> int:
    """Return the number of turns of a loop."""
    checks.a_function(current_path(), "the body of m.scan", body, "(m, carry, x)")
    sizes = {size for leaf in jax.tree.leaves(xs) for size in np.shape(leaf)[:1]}
    sizes |= set() if length is None else {length}
    if len(sizes) == 1:
        return sizes.pop()
    if sizes:
        raise ValueError(f"{current_path()}: m.scan needs one number of turns, got {sorted(sizes)}")
    raise TypeError(
        f"{current_path()}: m.scan needs xs or length=, as in m.scan(body, x, length=8)"
    )


def varying_over(a: jax.Array, axes: frozenset) -> jax.Array:
    return as_varying(jnp.asarray(a), tuple(axes - varying_axes(a)))
