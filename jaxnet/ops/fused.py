"""A convolution or matrix product and what follows it, as one operation of known weights.

Its constants are slices of one array with all constants of a program, since each operand of a
compiled program costs time in each call. Elsewhere than in C, and in derivatives, it is what its
parts are in JAX.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.convolution import bilinear
from jaxnet.ops.convolution_lowering import Form
from jaxnet.ops.native import fused as native
from jaxnet.ops.native.call import Kernel, native_call


class Fused(NamedTuple):
    """A convolution (a matrix product has a window of one entry) and what follows it.

    y = activation(clip(convolution + bias + added, least, most))

    Fields:
      form: Description of the convolution.
      batch, inputs, features: Number of examples, and of features of x and of the result.
      least, most: Bounds, infinite for none.
      activation: Name of `ACTIVATIONS`, or "".
      kernel, bias: Where kernel and bias begin in the constants.
      how: How C computes it, or None.
      packed: Where its packed weights begin.
    """

    form: Form
    batch: int
    inputs: int
    features: int
    least: float = -np.inf
    most: float = np.inf
    activation: str = ""
    kernel: int = 0
    bias: int = 0
    how: native.Packed | None = None
    packed: int = 0

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the kernel."""
        return (*self.form.window, self.inputs // self.form.groups, self.features)


ACTIVATIONS = {
    "silu": jax.nn.silu,
    "hard_swish": jax.nn.hard_swish,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "tanh": jnp.tanh,
}


def apply(
    fused: Fused, x: jax.Array, constants: jax.Array, added: jax.Array | None = None
) -> jax.Array:
    """Return the result (batch, *positions, features).

    Args:
      fused: Description.
      x: Input (batch, *space, inputs), float32.
      constants: All constants of a program.
      added: Array like the result, or None.

    Example:
      >>> form = Form((1,), ((0, 0),), (1,), (1,), 1, inputs=(3,), window=(2,))
      >>> relu = Fused(form, 1, 1, 1, least=0.0, bias=2)
      >>> apply(relu, jnp.arange(3.0).reshape(1, 3, 1), jnp.array([1.0, 1.0, -2.0])).ravel()
      Array([0., 1.], dtype=float32)
    """
    kernel = Kernel()
    if fused.how is not None:
        kernel = Kernel(run=partial(_in_c, fused, fused.how), supports=_are_float32)
    return native_call(partial(_in_jax, fused), kernel, x, constants, added)


def _are_float32(*arrays) -> bool:
    return all(array.dtype == jnp.float32 for array in arrays)


def _in_c(fused: Fused, how: native.Packed, x, constants, added=None):
    y = native.run(
        x,
        constants,
        added,
        how=how,
        places=(fused.packed, fused.bias, fused.kernel),
        least=fused.least,
        most=fused.most,
        activation=fused.activation,
    )
    return [y.reshape(fused.batch, *fused.form.outputs, fused.features)]


def _in_jax(fused: Fused, x, constants, added=None):
    def constant(start, shape):
        return constants[start : start + math.prod(shape)].reshape(shape)

    kernel = constant(fused.kernel, fused.kernel_shape)
    y = bilinear(x[None], kernel[None], wanted="y", form=fused.form)[0]
    y += constant(fused.bias, (1,) * (y.ndim - 1) + (fused.features,))
    if added is not None:
        y += added
    y = _between(y, fused.least, fused.most)
    return ACTIVATIONS[fused.activation](y) if fused.activation else y


def _between(y, least, most):
    if (least, most) == (0, np.inf):
        return jax.nn.relu(y)
    if (least, most) == (0, 6):
        return jax.nn.relu6(y)
    if least > -np.inf:
        y = jnp.maximum(y, least)
    return jnp.minimum(y, most) if most < np.inf else y
