"""Products of few rows with a matrix in C, which read 16-bit floats and integers as they are."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxnet.ops.integers import scaled, unpacked
from jaxnet.ops.native import compute, countable, instructions
from jaxnet.ops.native.call import Kernel, native_call

MOST_ROWS = 4  # of the kernels in C
BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "uint8": 4, "int4": 4}  # of each number


def is_few(x: jax.Array, kernel: jax.Array) -> bool:
    """Return whether x has so few rows, and the kernel so many numbers, that reading it takes long.

    Example:
      >>> is_few(jnp.ones((4, 1024)), jnp.ones((1024, 1024)))
      True
      >>> is_few(jnp.ones((1, 576)), jnp.ones((576, 96), jnp.uint8))  # 192 outputs of 4 bits
      True
    """
    sizes = *x.shape, *kernel.shape
    if not all(isinstance(size, int) for size in sizes):  # symbolic sizes of an export
        return False
    many = 2**16 if _is_floating(kernel) else 2**12
    return x.shape[0] <= _most(kernel) and kernel.size >= many


def _is_floating(kernel: jax.Array) -> bool:
    return jnp.issubdtype(kernel.dtype, jnp.floating)


def _most(kernel: jax.Array) -> int:
    """Return the most rows that C multiplies faster than XLA, which makes floats of integers."""
    return MOST_ROWS if _is_floating(kernel) else 2 * MOST_ROWS


@partial(jax.jit, static_argnames=("transposed", "in_jax"), inline=True)  # else eager calls compile
def few_rows(
    x: jax.Array,
    kernel: jax.Array,
    scale: jax.Array | None = None,
    *,
    transposed: bool = False,
    in_jax: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Return x @ kernel, or x @ kernel.T, for a kernel of integers times their scales, or floats.

    The kernels in C run for one to four rows, of integers for up to eight. Then only the kernel's
    own bytes are read. With 4 bits in groups of 32, or of whole 32s, each 32 neighbors of x are
    rounded to 2**21 steps up to their largest one, as finely as floats round their sum, and
    multiplied as integers; NaN or infinity among them gives NaN in the whole row.

    Args:
      x: Array (rows, inputs).
      kernel: Kernel (inputs, outputs), or transposed (outputs, inputs). Floats, int8, int4, or
        uint8 with two numbers of 4 bits per byte along the last axis, the first in the low bits.
      scale: Scales (groups, outputs), or transposed (outputs, groups), of integers; each belongs to
        the same number of neighboring inputs, except for the last group.
      transposed: Whether the kernel is transposed.
      in_jax: The same function of the arrays in JAX, for other devices and for derivatives.

    Returns:
      (rows, outputs), in the dtype of x.

    Example:
      >>> kernel = jnp.array([[1, 2, 3], [4, 5, 6]], jnp.int8)
      >>> few_rows(jnp.ones((1, 2)), kernel, jnp.array([[1.0, 1.0, 0.5]]))
      Array([[5. , 7. , 4.5]], dtype=float32)
    """
    in_c = Kernel(partial(run, transposed=transposed), partial(supports, transposed=transposed))
    if in_jax is None:
        in_jax = partial(_in_jax, transposed=transposed)
    return native_call(in_jax, in_c, x, kernel, scale)


def supports(x, kernel, scale=None, *, transposed: bool) -> bool:
    """Return whether the library multiplies these arrays, faster than XLA.

    Args:
      x, kernel, scale, transposed: Arguments of `few_rows`.

    Example:
      >>> supports(jnp.ones((5, 3)), jnp.ones((3, 2)), transposed=False)  # many rows
      False
    """
    bits = BITS.get(kernel.dtype.name)
    if bits is None or x.dtype not in (jnp.float32, jnp.bfloat16):
        return False
    if (scale is None) != (bits > 8):
        return False
    if kernel.dtype.name == "int4" and kernel.shape[-1] % 2:
        return False
    if not countable(x, kernel) or x.shape[0] > _most(kernel):
        return False
    if scale is not None and not _reads_groups(x.shape[1], bits, scale, transposed):
        return False
    return instructions() is not None


def _reads_groups(inputs, bits, scale, transposed) -> bool:
    """Return whether the library reads the scales of these groups of inputs."""
    groups = scale.shape[1] if transposed else scale.shape[0]
    size = -(-inputs // groups)
    if -(-inputs // size) != groups:
        return False
    in_a_word = 32 // bits
    return not transposed or groups == 1 or size % in_a_word == 0


def run(x, kernel, scale=None, *, transposed: bool) -> list[jax.Array]:
    """Return the product by the library, as a list.

    Args:
      x, kernel, scale, transposed: Arguments of `few_rows`.

    Example:
      >>> (y,) = run(jnp.ones((1, 3)), jnp.ones((3, 2)), transposed=False)  # doctest: +SKIP
    """
    if transposed:
        target = "jaxnet_gemv_transposed"
        outputs = kernel.shape[0]
    else:
        target = "jaxnet_gemv"
        outputs = kernel.shape[1] if scale is None else scale.shape[1]
    scales = [] if scale is None else [scale]
    shape = x.shape[0], outputs
    return compute(target, [shape], x.astype(jnp.float32), kernel, *scales)


def _in_jax(x, kernel, scale=None, *, transposed):
    if scale is not None:
        length = x.shape[1] if transposed else scale.shape[1]
        numbers = unpacked(kernel, length).astype(scale.dtype)
        kernel = scaled(numbers, scale)
    if transposed:
        kernel = kernel.T
    return (x @ kernel).astype(x.dtype)
