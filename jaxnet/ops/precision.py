"""Dtypes of sums: compute in at least float32, return in the dtype of the input."""

from typing import Any

import jax
import jax.numpy as jnp


def at_least_float32(x: jax.Array) -> jax.Array:
    """Return x in at least float32: bfloat16 and float16 have too few digits for sums.

    Returns:
      x if its dtype has at least 32 bits and is inexact, else x as float32.

    Example:
      >>> [str(at_least_float32(jnp.ones(3, d)).dtype) for d in (jnp.bfloat16, jnp.uint8)]
      ['float32', 'float32']
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return x.astype(dtype)


def lifted(x: jax.Array) -> jax.Array:
    """Return x in float32 if it is of 16 bits, else x; integers stay exact.

    Returns:
      x or x as float32.

    Example:
      >>> lifted(jnp.ones(3, jnp.float16)).dtype, lifted(jnp.arange(3)).dtype
      (dtype('float32'), dtype('int32'))
    """
    if x.dtype in (jnp.bfloat16, jnp.float16):
        return x.astype(jnp.float32)
    return x


def output_dtype(x: Any) -> Any:
    """Return the output dtype of a layer without parameters: x's dtype, or float32 for integers.

    Example:
      >>> output_dtype(jnp.ones(3, jnp.bfloat16)), output_dtype(jnp.ones(3, jnp.uint8))
      (dtype(bfloat16), dtype('float32'))
    """
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return x.dtype
    return jnp.dtype(jnp.float32)
