"""Which entries dropout keeps, in C: the bits of `jax.random.bernoulli`, several times faster."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import compute, instructions
from jaxnet.ops.native.call import Kernel, native_call


@partial(jax.jit, static_argnames=("p", "shape"), inline=True)  # else eager calls compile
def bernoulli(key: jax.Array, p: float, shape: tuple[int, ...]) -> jax.Array:
    """Return what `jax.random.bernoulli` returns.

    Args:
      key: Key.
      p: Probability of True.
      shape: Shape of the result.

    Example:
      >>> bernoulli(jax.random.key(0), 0.5, (4,)).tolist()
      [False, False, True, True]
    """
    is_threefry = str(jax.random.key_impl(key)) == "threefry2x32"
    partitionable = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    usual = is_threefry and partitionable and jnp.result_type(p) == jnp.float32

    def supports(key):
        return usual and instructions() is not None

    def in_jax(key):
        return jax.random.bernoulli(key, p, shape)

    in_c = Kernel(partial(_run, p=p, shape=shape), supports)
    return native_call(in_jax, in_c, key)


def _run(key, *, p, shape):
    below = np.int32(np.ceil(np.float32(p) * 2**23))  # of the 23 bits of a random number
    words = jax.random.key_data(key)
    return compute("jaxnet_keep", [shape], words, dtype=bool, below=below)
