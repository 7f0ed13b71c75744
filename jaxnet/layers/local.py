"""Locally connected layer: a convolution whose windows do not share a kernel."""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxnet.core import Layer, child_key, param_dtype, stateless
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.ops.window import Padding, pad_pairs, per_axis, spatial_axes, taps


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
    """Each output position has a kernel and a bias of its own.

    Between a dense layer, where every output sees all inputs, and a convolution, where all
    positions share one kernel: for images that are aligned, such as faces. With equal kernels it
    is a convolution.

    Args:
      features: number of outputs at each position, at least 1.
      kernel_size: of the window; a number stands for every spatial axis of the input.
      strides: steps of the window.
      padding: as in `conv`, but none by default.
      use_bias: False leaves the biases out.
      kernel_init: draws the kernel; what a unit sees are window * inputs.
      bias_init: draws the biases, which start at zero.
      name: of the layer.

    Params:
      kernel (*positions, window * inputs, features), where the inputs of one entry of the window
      lie side by side; bias (*positions, features). Flax's ConvLocal orders the middle axis as
      inputs * window.

    Raises:
      ValueError: as `conv`.

    Example:
      >>> layer = locally_connected(6, 5)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 28, 21, 3)))
      >>> params["kernel"].shape
      (24, 17, 75, 6)
      >>> y, state = layer.apply(params, state, jnp.ones((2, 28, 21, 3)))
      >>> y.shape
      (2, 24, 17, 6)

    Paper: LeCun 1989, "Generalization and network design strategies".
    """
    if features < 1:
        raise ValueError(f"{name}: features must be at least 1, got {features}")

    def geometry(x):
        axes = spatial_axes(name, x)
        window = per_axis(name, "kernel_size", kernel_size, axes)
        steps = per_axis(name, "strides", strides, axes)
        pairs = pad_pairs(name, padding, x.shape[1:-1], window, steps)
        room = [n + sum(p) - k for n, p, k in zip(x.shape[1:-1], pairs, window, strict=True)]
        if min(room) < 0:
            raise ValueError(
                f"{name}: a window of {window} is larger than the input of {x.shape[1:-1]} with "
                f"padding {pairs}; pad more, or use a smaller kernel_size"
            )
        return window, steps, pairs, tuple(r // s + 1 for r, s in zip(room, steps, strict=True))

    def init(key, x):
        window, _, _, positions = geometry(x)
        inputs = math.prod(window) * x.shape[-1]
        # Drawn with all positions as outputs, since an initializer counts what a unit sees.
        shape = (inputs, math.prod(positions) * features)
        kernel = kernel_init(child_key(key, "kernel"), shape, param_dtype(x))
        kernel = jnp.moveaxis(kernel.reshape(inputs, *positions, features), 0, -2)
        if not use_bias:
            return {"kernel": kernel}
        bias = bias_init(child_key(key, "bias"), (*positions, features), param_dtype(x))
        return {"kernel": kernel, "bias": bias}

    def apply(params, x):
        window, steps, pairs, positions = geometry(x)
        seen = jnp.stack(list(taps(x, window, steps, pairs)), axis=-2)
        seen = seen.reshape(x.shape[0], *positions, -1)  # (batch, *positions, window * inputs)
        y = jnp.einsum("n...i,...io->n...o", seen, params["kernel"])
        return y + params["bias"] if use_bias else y

    return stateless(init, apply, name=name)
