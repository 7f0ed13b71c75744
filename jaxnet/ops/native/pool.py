"""Largest entries of windows in C, and their gradient."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import compute, countable, instructions
from jaxnet.ops.native.call import Kernel


def supports(x, *_, form) -> bool:
    """Return whether the library takes maxima over windows of x, faster than XLA.

    Args:
      x: Array (batch, *space, features).
      form: Sizes, strides, dilation and padding of the windows, each per axis of space.

    Example:
      >>> supports(jnp.ones((1, 5, 16), int), form=((3,), (2,), (1,), ((0, 0),)))
      False
    """
    there = x.dtype == jnp.float32 and len(form[0]) < 3 and countable(x)
    return there and x.shape[-1] >= 16 and instructions() is not None


def run(x, *given, form, outputs):
    """Return the maxima or, given their gradient, the gradient of x; in a list.

    Args:
      x, form: Arguments of `supports`.
      *given: Nothing, or an array like the maxima.
      outputs: Number of windows, per axis.

    Example:
      >>> x = jnp.arange(80.0).reshape(1, 5, 16)
      >>> form = (3,), (2,), (1,), ((0, 0),)
      >>> run(x, form=form, outputs=(2,))[0][0, :, 0]  # doctest: +SKIP
      Array([32., 64.], dtype=float32)
    """
    flat = (1,) * (2 - len(form[0]))  # a line is an image of one row
    numbers = *form[:3], tuple(low for low, _ in form[3])
    numbers = [*(f for n in numbers[:3] for f in (*flat, *n)), *(0 for _ in flat), *numbers[3]]
    image, result = ((x.shape[0], *flat, *n, x.shape[-1]) for n in (x.shape[1:-1], outputs))
    arrays = [a.reshape(shape) for a, shape in zip((x, *given), (image, result), strict=False)]
    options = {"form": np.array(numbers, np.int64)}
    (y,) = compute("jaxnet_max_pool", [image if given else result], *arrays, **options)
    return [y.reshape(x.shape if given else (x.shape[0], *outputs, x.shape[-1]))]


def kernels(form: tuple, outputs: tuple[int, ...]) -> tuple[Kernel, Kernel]:
    """Return the kernels of the values, and of the tangents, whose transpose runs in C.

    Args:
      form, outputs: Arguments of `run`.

    Example:
      >>> values, tangents = kernels(((3,), (2,), (1,), ((0, 0),)), (2,))
      >>> tangents.linear
      1
    """
    kernel = Kernel(partial(run, form=form, outputs=outputs), partial(supports, form=form))
    return kernel, Kernel(linear=1, transpose=kernel)
