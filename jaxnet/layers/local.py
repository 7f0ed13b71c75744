"""Locally connected layer: a convolution whose windows have separate kernels."""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxnet.core import Layer, compose
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.ops.product import add_bias
from jaxnet.ops.window import Padding, check_window, pad_pairs, taps
from jaxnet.services.checks import at_least, check_options
from jaxnet.services.checks.keywords import explain_keywords


@explain_keywords
def locally_connected(
    features: int,
    kernel_size: int | Sequence[int],
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "VALID",
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    bias_init: Initializer = zeros,
    name: str = "locally_connected",
) -> Layer:
    """Convolve with a separate kernel and bias at each output position.

    In a dense layer every output depends on all inputs, and in a convolution all positions share
    one kernel. This layer is between them, for aligned images, such as faces. With equal kernels it
    is a convolution.

    Args:
      features: Number of outputs per position, at least 1.
      kernel_size: Size of the window, a number for all spatial axes or one per axis.
      strides: Strides of the window, a number or one per axis.
      padding: Padding, as in `conv`, "VALID" by default.
      use_bias: Whether to add biases.
      kernel_init: Initializer of the kernel; its fan-in is window * inputs.
      bias_init: Initializer of the biases, zeros by default.
      name: Name of the layer.

    Params:
      kernel (*positions, window * inputs, features), with the inputs of one tap of the window
      adjacent; bias (*positions, features). Flax's ConvLocal orders the middle axis as inputs *
      window.

    Returns:
      A layer from (batch, *space, inputs) to (batch, *positions, features).

    Raises:
      ValueError: As in `conv`.

    Example:
      >>> layer = locally_connected(6, 5)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 28, 21, 3)))
      >>> params["kernel"].shape
      (24, 17, 75, 6)
      >>> y, state = layer.apply(params, state, jnp.ones((2, 28, 21, 3)))
      >>> y.shape
      (2, 24, 17, 6)

    Reference: LeCun 1989, "Generalization and network design strategies".
    """
    at_least(name, "features", features)
    check_options(name, use_bias=use_bias, kernel_init=kernel_init, bias_init=bias_init)
    sizes = check_window(name, padding, kernel_size=kernel_size, strides=strides)

    def forward(m, x):
        m._not_in_stream("has a kernel per position")
        window, steps = sizes(x)
        batch, *space, width = x.shape
        pairs = pad_pairs(name, padding, tuple(space), window, steps)
        room = [n + sum(pair) - k for n, pair, k in zip(space, pairs, window, strict=True)]
        if min(room) < 0:
            raise ValueError(
                f"{name}: a window of {window} is larger than the input of {tuple(space)} with "
                f"padding {pairs}. Pad more, or use a smaller kernel_size"
            )
        positions = tuple(n // step + 1 for n, step in zip(room, steps, strict=True))
        inputs = math.prod(window) * width
        kernel = m.kernel("kernel", init_all_positions, (*positions, inputs, features), array=True)
        seen = jnp.stack(list(taps(x, window, steps, pairs)), axis=-2)
        seen = seen.reshape(batch, *positions, inputs)
        seen = jnp.moveaxis(seen, 0, -2)
        y = jnp.moveaxis(seen @ kernel, -2, 0)  # a product of matrices per position
        bias = m.param("bias", bias_init, (*positions, features)) if use_bias else None
        return add_bias(y, bias)

    def init_all_positions(key, shape, dtype):
        # All positions count as outputs, so that the initializer uses the fan-in of one unit.
        *positions, inputs, features = shape
        kernel = kernel_init(key, (inputs, math.prod(positions) * features), dtype)
        return jnp.moveaxis(kernel.reshape(inputs, *positions, features), 0, -2)

    return compose(forward, name=name, kind="locally_connected")
