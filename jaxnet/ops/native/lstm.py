"""An LSTM in C: all steps, and the loop back that its gradient needs."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxnet.ops.native import instructions
from jaxnet.ops.native.call import Kernel

MOST = 2**31 - 1


def supports(pre, kernel, *rest) -> bool:
    """Return whether the library runs all steps, and faster than XLA.

    Args:
      pre: Contribution of the inputs to the gates, (time, batch, 4 * features).
      kernel: Recurrent kernel (features, 4 * features).
      *rest: The other operands.

    Example:
      >>> supports(jnp.ones((1, 8, 12)), jnp.ones((3, 12)))  # one step needs no loop
      False
    """
    if not all(isinstance(size, int) and 0 < size <= MOST for size in (*pre.shape, *kernel.shape)):
        return False
    # Packing the kernel pays off after several steps, and the rows of a batch are divided among
    # threads.
    return pre.shape[0] >= 8 and pre.shape[1] >= 4 and instructions() is not None


def run(pre, kernel, bias, c, h, mask=None, *, slopes):
    """Return h of all steps, the last c and h, and the slopes, for `jaxnet.ops.recurrence`.

    Args:
      pre, kernel, bias, c, h, mask: Operands of `jaxnet.ops.recurrence.unroll`.
      slopes: Whether to return slopes.

    Example:
      >>> h, c, last = run(pre, kernel, bias, c, h, slopes=False)  # doctest: +SKIP
    """
    like = jax.ShapeDtypeStruct((*pre.shape[:2], h.shape[-1]), jnp.float32)
    results = [like, jax.ShapeDtypeStruct(c.shape, jnp.float32)]
    results += [jax.ShapeDtypeStruct(pre.shape, jnp.float32), like, like] if slopes else []
    aliases = {0: 2} if slopes else {}
    call = jax.ffi.ffi_call("jaxnet_lstm", results, input_output_aliases=aliases)
    every, c, *slopes = call(pre, kernel, bias, c, h, *_flat(mask))
    return [every, c, every[-1], *slopes]


def run_back(by_gates, by_old_c, by_c, kernel, *rest):
    """Return the gradients by the gates of all steps, and by c and h before them.

    Args:
      by_gates, by_old_c, by_c: Slopes.
      kernel: Recurrent kernel.
      *rest: The mask, if there is one, and the gradients by h of all steps, the last c and the last
        h.

    Example:
      >>> d = run_back(*slopes, kernel, d_h, d_c, d_last)  # doctest: +SKIP
    """
    *mask, d_h, d_c, d_last = rest
    shapes = [by_gates.shape, d_c.shape, d_last.shape]
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    call = jax.ffi.ffi_call("jaxnet_lstm_back", results)
    return call(by_gates, by_old_c, by_c, kernel, d_h, d_c, d_last, *_flat(*mask))


def _flat(mask=None):
    """Return masks (time, batch, 1) as (time, batch)."""
    return [] if mask is None else [mask[..., 0]]


# The three loops of `jaxnet.ops.recurrence`. The tangents run in JAX, their transpose in C.
LOOP = Kernel(partial(run, slopes=False), supports)
LOOP_WITH_SLOPES = Kernel(partial(run, slopes=True), supports)
PUSH = Kernel(linear=3, transpose=Kernel(run_back, supports))
