"""Names of the layers inside a layer: a name that is taken gets a number."""

import itertools
from collections.abc import Container


def free_name(base: str, used: Container[str]) -> str:
    """Return a name that is not taken: the base itself, or with the next number.

    Example:
      >>> free_name("dense", {"dense", "dense_1"})
      'dense_2'
    """
    numbered = (f"{base}_{n}" for n in itertools.count(1))
    return next(name for name in itertools.chain([base], numbered) if name not in used)
