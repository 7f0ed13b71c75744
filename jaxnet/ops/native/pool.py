"""Largest entries of windows in C, and their gradient."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from jaxnet.ops.native import compute, countable, instructions
from jaxnet.ops.native.call import Kernel


def supports(x, *gradients, form) -> bool:
    """Return whether the library takes maxima over windows of x, faster than XLA.

    Args:
      x: Array (batch, *space, features).
      *gradients: Nothing, or the gradient of the maxima.
      form: The windows, as those of a convolution.

    Example:
      >>> from jaxnet.ops.convolution_lowering import Form
      >>> form = Form((2,), ((0, 0),), (1,), (1,), 1, inputs=(5,), window=(3,))
      >>> supports(jnp.ones((1, 5, 16), int), form=form)
      False
    """
    if x.dtype != jnp.float32 or len(form.window) > 2 or not countable(x):
        return False
    return x.shape[-1] >= 16 and instructions() is not None


def run(x, *gradients, form):
    """Return the maxima or, given their gradient, the gradient of x; in a list.

    Args:
      x, form: Arguments of `supports`.
      *gradients: Nothing, or an array like the maxima.

    Example:
      >>> from jaxnet.ops.convolution_lowering import Form
      >>> form = Form((2,), ((0, 0),), (1,), (1,), 1, inputs=(5,), window=(3,))
      >>> run(jnp.arange(80.0).reshape(1, 5, 16), form=form)[0][0, :, 0]  # doctest: +SKIP
      Array([32., 64.], dtype=float32)
    """
    axes = 2 - len(form.window)
    flat = (1,) * axes  # a line is an image of one row
    before = [low for low, _ in form.padding]
    numbers = [
        *flat, *form.window,
        *flat, *form.strides,
        *flat, *form.dilation,
        *[0] * axes, *before,
    ]  # fmt: skip
    batch, *_, features = x.shape
    inputs = batch, *flat, *form.inputs, features
    outputs = batch, *flat, *form.outputs, features
    arrays = [x.reshape(inputs), *(dy.reshape(outputs) for dy in gradients)]
    shape = inputs if gradients else outputs
    windows = np.array(numbers, np.int64)
    (y,) = compute("jaxnet_max_pool", [shape], *arrays, form=windows)
    space = form.inputs if gradients else form.outputs
    return [y.reshape(batch, *space, features)]


def kernels(form) -> tuple[Kernel, Kernel]:
    """Return the kernels of the values, and of the tangents, whose transpose runs in C.

    Args:
      form: Argument of `run`.

    Example:
      >>> values, tangents = kernels(None)
      >>> tangents.linear
      1
    """
    kernel = Kernel(partial(run, form=form), partial(supports, form=form))
    return kernel, Kernel(linear=1, transpose=kernel)
