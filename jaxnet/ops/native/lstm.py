"""An LSTM in C: all steps, and the loop back that its gradient needs."""

from functools import partial

from jaxnet.ops.native import compute, countable, instructions
from jaxnet.ops.native.call import Kernel


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
    # Packing the kernel pays off after several steps, and the rows of a batch are divided among
    # threads.
    fits = countable(pre, kernel) and pre.shape[0] >= 8 and pre.shape[1] >= 4
    return fits and instructions() is not None


def run(pre, kernel, bias, c, h, mask=None, *, slopes):
    """Return h of all steps, the last c and h, and the slopes, for `jaxnet.ops.recurrence`.

    Args:
      pre, kernel, bias, c, h, mask: Operands of `jaxnet.ops.recurrence.unroll`.
      slopes: Whether to return slopes.

    Example:
      >>> h, c, last = run(pre, kernel, bias, c, h, slopes=False)  # doctest: +SKIP
    """
    like, aliases = (*pre.shape[:2], h.shape[-1]), {0: 2} if slopes else {}
    shapes = [like, c.shape, *([pre.shape, like, like] if slopes else [])]
    given = pre, kernel, bias, c, h, *_flat(mask)
    every, c, *slopes = compute("jaxnet_lstm", shapes, *given, aliases=aliases)
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
    given = by_gates, by_old_c, by_c, kernel, d_h, d_c, d_last, *_flat(*mask)
    return compute("jaxnet_lstm_back", shapes, *given)


def _flat(mask=None):
    """Return masks (time, batch, 1) as (time, batch)."""
    return [] if mask is None else [mask[..., 0]]


# The three loops of `jaxnet.ops.recurrence`. The tangents run in JAX, their transpose in C.
LOOP = Kernel(partial(run, slopes=False), supports)
LOOP_WITH_SLOPES = Kernel(partial(run, slopes=True), supports)
PUSH = Kernel(linear=3, transpose=Kernel(run_back, supports))
