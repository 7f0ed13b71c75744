"""An LSTM or an RNN of tanh in C: all steps, and the loop back that its gradient needs."""

from functools import partial

from jaxnet.ops.native import compute, countable, instructions
from jaxnet.ops.native.call import Kernel


def supports(pre, kernel, *rest) -> bool:
    """Return whether the library runs all steps, and faster than XLA.

    Args:
      pre: Contribution of the inputs, (time, batch, gates * features).
      kernel: Recurrent kernel (features, gates * features).
      *rest: The other operands.

    Example:
      >>> supports(jnp.ones((1, 8, 12)), jnp.ones((3, 12)))  # one step needs no loop
      False
    """
    # Packing the kernel pays off after several steps, and the rows of a batch are divided among
    # threads.
    floats = {a.dtype.name for a in (pre, kernel, *rest)} <= {"float32", "bool"}
    long = countable(pre, kernel) and pre.shape[0] >= 8 and pre.shape[1] >= 4
    return floats and long and instructions() is not None


def run(pre, kernel, bias, *rest, slopes, memory):
    """Return h of all steps, the last carry, and the slopes, for `jaxnet.ops.recurrence`.

    Args:
      pre, kernel, bias: Operands of `jaxnet.ops.recurrence.unroll`.
      *rest: The carry before all steps, c (of an LSTM) and h, and the mask, if there is one.
      slopes: Whether to return slopes.
      memory: Whether it is an LSTM.

    Example:
      >>> h, c, last = run(pre, kernel, bias, c, h, slopes=False, memory=True)  # doctest: +SKIP
    """
    carry, mask, like = rest[: 1 + memory], rest[1 + memory :], (*pre.shape[:2], len(kernel))
    given, aliases = (pre, kernel, bias, *carry, *(m[..., 0] for m in mask)), {0: 1 + memory}
    shapes = [like, *(c.shape for c in carry[:memory]), pre.shape, *[like] * 2 * memory]
    shapes, aliases = (shapes, aliases) if slopes else (shapes[: 1 + memory], {})
    target = "jaxnet_lstm" if memory else "jaxnet_rnn"
    every, *more = compute(target, shapes, *given, aliases=aliases)
    return [every, *more[:memory], every[-1], *more[memory:]]


def run_back(*given, memory):
    """Return the gradients by the gates of all steps, and by the carry before them.

    Args:
      *given: The slopes, the recurrent kernel, the mask, if there is one, and the gradients by h of
        all steps and by the last carry.
      memory: Whether it is an LSTM.

    Example:
      >>> d = run_back(*slopes, kernel, d_h, d_c, d_last, memory=True)  # doctest: +SKIP
    """
    at, end = 2 + 2 * memory, -2 - memory
    known, mask, d = given[:at], given[at:end], given[end:]
    shapes = [leaf.shape for leaf in (known[0], *d[1:])]
    target = "jaxnet_lstm_back" if memory else "jaxnet_rnn"
    return compute(target, shapes, *known, *d, *(m[..., 0] for m in mask))


def loops(memory: bool) -> list[Kernel]:
    """Return the kernels of the three loops of `jaxnet.ops.recurrence`.

    The tangents run in JAX, their transpose in C.

    Args:
      memory: Whether it is an LSTM.

    Example:
      >>> [kernel.linear for kernel in loops(memory=False)]
      [0, 0, 2]
    """
    back = Kernel(partial(run_back, memory=memory), supports)
    forward = [Kernel(partial(run, slopes=s, memory=memory), supports) for s in (False, True)]
    return [*forward, Kernel(linear=2 + memory, transpose=back)]
