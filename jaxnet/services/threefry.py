"""Keys derived from a key on the host, which compiles nothing.

`jax.random.fold_in` is compiled in each new process, and dispatched for each key.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services.checks import is_traced

THREEFRY = "threefry2x32"  # JAX's usual kind of key
WORD = 2**32 - 1
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def fold_paths(key: jax.Array, paths: Sequence[tuple[int, ...]]) -> list[jax.Array]:
    """Return a key for each path of numbers, as `jax.random.fold_in` makes it, number by number.

    It is computed on the host if that is possible: for one key of JAX's usual kind whose value is
    known and that belongs to no particular device or mesh.

    Args:
      key: A random key, typed or as words.
      paths: Integers in [0, 2^32) of each path. Paths with the same beginning share its hashes.

    Returns:
      Keys of the same kind, in the order of the paths.

    Example:
      >>> first, second = fold_paths(jax.random.key(0), [(3,), (3, 5)])
      >>> bool(first == jax.random.fold_in(jax.random.key(0), 3))
      True
      >>> bool(second == jax.random.fold_in(first, 5))
      True
    """
    words = _words(key)
    if words is None:
        return _along(paths, key, lambda key, number: jax.random.fold_in(key, np.uint32(number)))
    folded = _along(paths, words, lambda words, number: hashed(words, (0, number)))
    # One transfer of many arrays costs little more than that of one array.
    arrays = jax.device_put([np.array(words, np.uint32) for words in folded])
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return arrays
    return [jax.random.wrap_key_data(array, impl=THREEFRY) for array in arrays]


def _along(paths: Sequence[tuple[int, ...]], start: Any, fold: Callable[[Any, int], Any]) -> list:
    """Return what folding gives at the end of each path."""
    reached: dict[tuple[int, ...], Any] = {(): start}
    for path in paths:
        for length in range(1, len(path) + 1):
            if path[:length] not in reached:
                before = reached[path[: length - 1]]
                reached[path[:length]] = fold(before, path[length - 1])
    return [reached[path] for path in paths]


def _words(key: jax.Array) -> tuple[int, int] | None:
    """Return the two words of a key; None if JAX is to fold it."""
    if not isinstance(key, jax.Array) or is_traced(key):
        return None
    if str(jax.random.key_impl(key)) != THREEFRY:
        return None
    data = jax.random.key_data(key)  # traced inside `jit`, even if the key is not
    if is_traced(data) or data.shape != (2,) or not jax.sharding.get_abstract_mesh().empty:
        return None
    if data.committed or len(data.devices()) > 1:
        return None
    first, second = np.asarray(data).tolist()
    return first, second


def hashed(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Return Threefry-2x32 with 20 rounds, the hash behind JAX's usual keys.

    Example:
      >>> [f"{word:08x}" for word in hashed((0, 0), (0, 0))]
      ['6b200159', '99ba4efe']

    Reference: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3".
    """
    schedule = (*key, key[0] ^ key[1] ^ PARITY)
    a, b = (counter[0] + key[0]) & WORD, (counter[1] + key[1]) & WORD
    for i in range(5):
        for bits in ROTATIONS[i % 2]:
            a = (a + b) & WORD
            b = a ^ (b << bits & WORD | b >> 32 - bits)
        a = (a + schedule[(i + 1) % 3]) & WORD
        b = (b + schedule[(i + 2) % 3] + i + 1) & WORD
    return a, b
