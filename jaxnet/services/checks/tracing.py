"""Whether values are known while JAX traces."""

from typing import Any

import jax
import numpy as np

from jaxnet.services.trees import PyTree, leaves_of


def concrete_values(array: Any) -> np.ndarray | None:
    """Return the values of an array on the host, or None if they are traced or on other hosts.

    Example:
      >>> concrete_values(jnp.arange(3))
      array([0, 1, 2], dtype=int32)
      >>> jax.eval_shape(lambda x: print(concrete_values(x)), jn.spec((3,)))
      None
    """
    if is_traced(array) or not getattr(array, "is_fully_addressable", True):
        return None
    return np.asarray(array)


# Types of leaves that were seen. JAX writes into its error where a traced array comes from, for
# which it walks over all operations so far: in a large net that takes milliseconds, so each type
# is tried once.
_CONCRETE: set[type] = set()
_TRACED: set[type] = set()


def is_traced(tree: PyTree) -> bool:
    """Return whether `jit`, `grad`, `vmap` or `scan` traces a leaf, so that its value is not known.

    Example:
      >>> is_traced({"x": jnp.ones(3)})
      False
    """
    leaves = leaves_of(tree)
    types = set(map(type, leaves))
    if _CONCRETE.issuperset(types):
        return False
    if not _TRACED.isdisjoint(types):
        return True
    for leaf in leaves:
        try:
            getattr(leaf, "devices", list)()
        except jax.errors.ConcretizationTypeError:
            _TRACED.add(type(leaf))
            return True
        _CONCRETE.add(type(leaf))
    return False
