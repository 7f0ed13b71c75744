"""Dense layer: every output sees every input."""

from jaxnet.core import Layer, child_key, param_dtype, stateless
from jaxnet.initializers import Initializer, lecun_normal, zeros


def dense(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    bias_init: Initializer = zeros,
    name: str = "dense",
) -> Layer:
    """Affine map of the last axis: y = x @ kernel + bias.

    Args:
      features: number of outputs, at least 1.
      use_bias: False leaves the bias out, e.g. just before batch norm.
      kernel_init: draws the kernel; the default keeps the variance of the activations near 1
        [LeCun et al. 1998, "Efficient BackProp", 4.6].
      bias_init: draws the bias, which starts at zero.
      name: of the layer.

    Params:
      kernel (inputs, features); bias (features,).

    Raises:
      ValueError: where features is below 1, or the input has no feature axis.

    Example:
      >>> layer = dense(10)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((32, 784)))
      >>> y, state = layer.apply(params, state, jnp.ones((32, 784)))
      >>> y.shape
      (32, 10)
    """
    if features < 1:
        raise ValueError(f"dense: features must be at least 1, got {features}")

    def init(key, x):
        if len(x.shape) < 2:
            raise ValueError(f"dense: needs (batch, ..., features), got {x.shape}")
        params = {"kernel": kernel_init(key, (x.shape[-1], features), param_dtype(x))}
        if use_bias:
            params["bias"] = bias_init(child_key(key, "bias"), (features,), param_dtype(x))
        return params

    def apply(params, x):
        y = x @ params["kernel"]  # (..., inputs) -> (..., features)
        return y + params["bias"] if use_bias else y

    return stateless(init, apply, name=name)
