"""Integers of 8 or 4 bits and their scales, as kernels in few bits are stored."""

import jax
import jax.numpy as jnp
import numpy as np


def unpacked(numbers: jax.Array, length: int) -> jax.Array:
    """Return the integers, one per value; uint8 holds two numbers of 4 bits along the last axis.

    Args:
      numbers: Integers; in uint8, the first of two is in the low bits.
      length: Size of the last axis, since the last number may only fill a byte.

    Example:
      >>> unpacked(jnp.array([0x21, 0x0F], jnp.uint8), 3).tolist()
      [1, 2, -1]
    """
    if numbers.dtype != jnp.uint8:
        return numbers
    both = numbers.astype(jnp.int32)
    low = both & 15  # ONNX supports these operations
    high = jax.lax.div(both, np.int32(16))
    *before, size = both.shape
    pairs = jnp.stack([low, high], -1).reshape(*before, 2 * size)
    numbers = pairs[..., :length]
    return jnp.where(numbers > 7, numbers - 16, numbers)


def scales_of_values(scale: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the scale of each value, or a shape that broadcasts to it.

    Args:
      scale: Scales; each belongs to the same number of neighbors along an axis, except for the last
        of them.
      shape: Shape of the values.

    Example:
      >>> scales_of_values(jnp.array([1.0, 2.0]), (3,)).tolist()
      [1.0, 1.0, 2.0]
    """
    for axis, (groups, length) in enumerate(zip(scale.shape, shape, strict=True)):
        if groups not in (1, length):
            size = -(-length // groups)
            scale = jnp.repeat(scale, size, axis)
            scale = jax.lax.slice_in_dim(scale, 0, length, axis=axis)
    return scale


def scaled(numbers: jax.Array, scale: jax.Array) -> jax.Array:
    """Return each number times its scale.

    Args:
      numbers: Integers as floats.
      scale: Scales as in `scales_of_values`.

    Example:
      >>> scaled(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([1.0, 10.0])).tolist()
      [1.0, 2.0, 30.0, 40.0]
    """
    shape = numbers.shape
    for axis, (groups, length) in enumerate(zip(scale.shape, shape, strict=True)):
        if groups not in (1, length) and length % groups == 0:
            # Spread scales are constants, which exporters store instead of the scales.
            before, after = shape[:axis], shape[axis + 1 :]
            cut = numbers.reshape(*before, groups, length // groups, *after)
            multiplied = cut * jnp.expand_dims(scale, axis + 1)
            return multiplied.reshape(shape)
    return numbers * scales_of_values(scale, shape)
