"""Which functions called this one: whether JAX did, and whether each turn of a loop has one key."""

import os
import sys
from collections.abc import Container
from types import CodeType
from typing import Any

import jax

# With the separator at its end, so that the path of jaxnet does not match.
_JAX = os.path.join(os.path.dirname(jax.__file__), "")
_LOOPS = os.path.join("control_flow", "loops.py")
_OURS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
# Where a layer applies another one with its own key.
_ON_MESHES = os.path.join("services", "meshes.py")
_LAYERS = tuple(
    _OURS + room for room in ("core", "transforms", "layers", "composition.py", _ON_MESHES)
)


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


def same_at_each_turn(applies: Container[CodeType], child: CodeType) -> bool:
    """Return whether a forward function runs inside of a loop of JAX, where all turns have one key.

    It looks at the functions that called, up to the `apply` that got the key from outside. A loop
    of this library has a key for each turn, in a variable called `own_key`.

    Args:
      applies: Code of the functions that are the `apply` of a layer.
      child: Code of the function by which a layer calls another one.

    Example:
      >>> same_at_each_turn({}, None)
      False
    """
    frame: Any = sys._getframe(2)
    looped = applied = own = skipped = False  # own: the next loop has a key for each turn
    while frame is not None:
        code = frame.f_code
        path = code.co_filename
        if path.startswith(_JAX):
            # jax.jacfwd maps tangents alone: what they belong to is computed once.
            looped = code.co_name != "jacfun" and (looped or (not own and _is_loop(code)))
            skipped = own
        elif path.startswith(_OURS):
            if applied and not path.startswith(_LAYERS):
                return False
            if "own_key" in code.co_varnames:
                looped, own, skipped = False, True, False
            elif skipped:
                own = skipped = False
            applied = code is not child and (applied or code in applies)
        elif applied or looped:
            return looped and not applied
        frame = frame.f_back
    return False


def _is_loop(code: CodeType) -> bool:
    return code.co_name in ("vmap_f", "pmap_f") or code.co_filename.endswith(_LOOPS)
