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
    dtypes = {array.dtype.name for array in (pre, kernel, *rest)}
    if not dtypes <= {"float32", "bool"} or not countable(pre, kernel):
        return False
    # Packing the kernel pays off after several steps, and the rows of a batch are divided among
    # threads.
    time, batch, _ = pre.shape
    return time >= 8 and batch >= 4 and instructions() is not None


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
    time, batch, _ = pre.shape
    features = len(kernel)
    h = time, batch, features
    state = batch, features
    carry = rest[: 1 + memory]
    mask = [steps[..., 0] for steps in rest[1 + memory :]]
    shapes = [h, state] if memory else [h]
    aliases = {}
    if slopes:
        aliases = {0: len(shapes)}  # the slopes of the gates overwrite pre
        shapes.append(pre.shape)
        shapes += [h, h] if memory else []
    target = "jaxnet_lstm" if memory else "jaxnet_rnn"
    every, *more = compute(target, shapes, pre, kernel, bias, *carry, *mask, aliases=aliases)
    final = [*more[:memory], every[-1]]
    return [every, *final, *more[memory:]]


def run_back(*operands, memory):
    """Return the gradients by the gates of all steps, and by the carry before them.

    Args:
      *operands: The slopes, the recurrent kernel, the mask, if there is one, and the gradients by h
        of all steps and by the last carry.
      memory: Whether it is an LSTM.

    Example:
      >>> d = run_back(*slopes, kernel, d_h, d_c, d_last, memory=True)  # doctest: +SKIP
    """
    residual_count = 4 if memory else 2  # slopes and kernel
    gradients = 3 if memory else 2  # by h of all steps and by the last carry
    slopes_and_kernel = operands[:residual_count]
    mask = [steps[..., 0] for steps in operands[residual_count:-gradients]]
    d = operands[-gradients:]
    by_gates = operands[0]
    shapes = [leaf.shape for leaf in (by_gates, *d[1:])]
    target = "jaxnet_lstm_back" if memory else "jaxnet_rnn"
    return compute(target, shapes, *slopes_and_kernel, *d, *mask)


def loops(memory: bool) -> list[Kernel]:
    """Return the kernels of the three loops of `jaxnet.ops.recurrence`.

    The tangents run in JAX, their transpose in C.

    Args:
      memory: Whether it is an LSTM.

    Example:
      >>> [kernel.linear for kernel in loops(memory=False)]
      [0, 0, 2]
    """
    values = Kernel(partial(run, slopes=False, memory=memory), supports)
    with_slopes = Kernel(partial(run, slopes=True, memory=memory), supports)
    back = Kernel(partial(run_back, memory=memory), supports)
    leaves = 3 if memory else 2  # the contribution of the inputs, and the carry
    return [values, with_slopes, Kernel(linear=leaves, transpose=back)]
