"""Arrays that an objective's function captures: they look like weights, and nothing trains them."""

from typing import Any

import jax

from jaxnet.core import Layer
from jaxnet.services.jaxprs import weights_in
from jaxnet.services.trees import PyTree, describe, floats_of, memo_of, shapes_of, signature
from jaxnet.services.warn import warn
from jaxnet.training.objective import traced


def program_of(objective: Layer, params: PyTree, state: PyTree, batch: PyTree) -> Any:
    """Return the jaxpr of an objective, traced once; None if it raises, as `step` will."""
    given = shapes_of((params, state, batch))

    def trace():
        try:
            return traced(objective, *given)[0]
        except Exception:
            return None

    return memo_of(objective.apply).of(("program", signature(given)), trace)


def check_captured(objective: Layer, params: PyTree, program: Any) -> None:
    """Raise if there is nothing to train; warn of arrays that were perhaps to be trained."""
    found = [] if program is None else weights_in(program)
    sizes = ", ".join(describe(array) for array in found[:8])
    write = (
        "To train them, draw them in init, as jn.stateless(init, apply) does or, for a module of "
        "another library, the functions of jn.interop"
    )
    if not jax.tree.leaves(floats_of(params)):
        held = f", but its function captures {sizes}. {write}" if found else ""
        raise ValueError(f"trainer.init: {objective.name} has no params to train{held}")
    if found:
        warn(
            f"trainer.init: {objective.name} captures arrays from outside, {sizes}, which are not "
            f"trained. {write}. If they are constants (a teacher, a projection, a mask), write "
            "jax.lax.stop_gradient(array) where they are used"
        )
