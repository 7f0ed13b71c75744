"""Normalization layers."""

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, checked, param_dtype
from jaxnet.initializers import Initializer, ones, zeros


def batch_norm(
    *,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    use_bias: bool = True,
    use_scale: bool = True,
    scale_init: Initializer = ones,
    bias_init: Initializer = zeros,
    name: str = "batch_norm",
) -> Layer:
    """Each feature brought to mean 0 and variance 1 over the batch and all positions.

    In training the statistics are the batch's own, and running averages of them go into the state;
    otherwise the running averages are used. They start at mean 0 and variance 1, so an untrained
    layer gives its input back, up to epsilon. Both variances are the biased ones (divided by n), as
    in Flax; PyTorch's running variance divides by n - 1.

    Args:
      momentum: share of the old average that stays at each step, in [0, 1): 0.9 is PyTorch's 0.1.
      epsilon: added to the variance.
      use_bias: whether a learned bias is added.
      use_scale: whether a learned scale multiplies.
      scale_init: draws the scale; zeros in the last norm of a residual block starts it as identity.
      bias_init: draws the bias.
      name: of the layer.

    Params:
      scale, bias: (features,).

    State:
      mean, var: (features,).

    Raises:
      ValueError: for momentum outside [0, 1), and in training for an input without entries.

    Example:
      >>> layer = batch_norm()
      >>> params, state = layer.init(jax.random.key(0), jn.spec((32, 5, 7, 3)))
      >>> x = 4 + jax.random.normal(jax.random.key(1), (32, 5, 7, 3))
      >>> y, state = layer.apply(params, state, x, train=True)
      >>> bool(jnp.abs(y.mean((0, 1, 2))).max() < 1e-5), state["mean"].round(1).tolist()
      (True, [0.4..., 0.4..., 0.4...])

    Reference: Ioffe and Szegedy 2015, "Batch Normalization".
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"batch_norm: momentum must be in [0, 1), got {momentum}")

    def init(key, x):
        if len(x.shape) < 2:
            raise ValueError(f"batch_norm: needs (batch, ..., features), got {x.shape}")
        shape, dtype = (x.shape[-1],), param_dtype(x)
        params = {"scale": scale_init(key, shape, dtype)} if use_scale else {}
        params |= {"bias": bias_init(key, shape, dtype)} if use_bias else {}
        return params, {"mean": zeros(key, shape, dtype), "var": ones(key, shape, dtype)}

    def apply(params, state, x, *, key=None, train=False):
        mean, var = state["mean"], state["var"]
        if train:
            if x.size == 0:
                raise ValueError(f"batch_norm: needs at least one entry a feature, got {x.shape}")
            axes = tuple(range(x.ndim - 1))
            wide = x.astype(mean.dtype)  # bfloat16 has too few digits for sums
            mean = wide.mean(axes)
            # The mean of squares would cancel for data far from zero.
            var = jnp.square(wide - mean).mean(axes)
            state = {
                "mean": momentum * state["mean"] + (1 - momentum) * jax.lax.stop_gradient(mean),
                "var": momentum * state["var"] + (1 - momentum) * jax.lax.stop_gradient(var),
            }
        factor = jax.lax.rsqrt(var + epsilon)
        if use_scale:
            factor = factor * params["scale"]
        y = (x - mean) * factor
        if use_bias:
            y = y + params["bias"]
        return y.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else y, state

    return checked(Layer(init, apply, name))
