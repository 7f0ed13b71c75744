"""Which functions called this one: whether JAX did, and how many of its loops."""

import os
import sys
from collections.abc import Container
from types import CodeType
from typing import Any

import jax

# With the separator at its end, so that the path of jaxnet does not match.
_JAX = os.path.join(os.path.dirname(jax.__file__), "")
_LOOPS = os.path.join("control_flow", "loops.py")


def inside_jax(below: Container[CodeType]) -> bool:
    """Return whether JAX runs the caller, such as the body of a scan.

    Args:
      below: Code of the functions at which the search ends.

    Example:
      >>> seen = []
      >>> _ = jax.eval_shape(lambda: seen.append(inside_jax({})))
      >>> inside_jax({}), seen
      (False, [True])
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_code not in below:
        path = frame.f_code.co_filename
        if path.startswith(_JAX) and "tree" not in os.path.basename(path):
            return True
        frame = frame.f_back
    return False


def loops_around() -> int:
    """Return how many frames of JAX's loops run the caller: each traces a body once for all turns.

    Example:
      >>> seen = []
      >>> _ = jax.vmap(lambda x: seen.append(loops_around()))(jnp.ones(2))
      >>> seen[0] - loops_around()
      1
    """
    frame: Any = sys._getframe(1)
    count, mapped = 0, False  # mapped: the frames since a loop only pass a call on
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_JAX):
            # jax.jacfwd maps tangents alone: what they belong to is computed once.
            loop = code.co_name in ("vmap_f", "pmap_f") or code.co_filename.endswith(_LOOPS)
            count += loop - (mapped and code.co_name == "jacfun")
            mapped = code.co_name == "vmap_f" or mapped and "traceback" in code.co_filename
        else:
            mapped = False
        frame = frame.f_back
    return count
