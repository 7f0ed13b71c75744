"""Normalization to mean 0 and variance 1 over the batch, the features or the positions."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.checks import at_least, check_options, check_rank, within
from jaxnet.core import Layer, Params, child_key, param_dtype, stateless
from jaxnet.initializers import Initializer, ones, zeros
from jaxnet.keywords import explain_keywords
from jaxnet.layers.draw import draw
from jaxnet.ops.normalization import normalized, standardized
from jaxnet.ops.precision import output_dtype, wide


@explain_keywords
def batch_norm(
    *,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    use_bias: bool = True,
    use_scale: bool = True,
    use_running_average: bool = False,
    scale_init: Initializer = ones,
    bias_init: Initializer = zeros,
    name: str = "batch_norm",
) -> Layer:
    """Normalizes each feature over the batch and all positions.

    In training the statistics are those of the batch, and the state keeps running averages of
    them; in evaluation the running averages are used. They start at mean 0 and variance 1, so an
    untrained layer returns its input, up to epsilon. Both variances are biased (divided by n), as
    in Flax; PyTorch's running variance divides by n - 1.

    Args:
      momentum: weight of the old average in each step, in [0, 1): 0.9 is PyTorch's 0.1.
      epsilon: added to the variance.
      use_bias: whether to add a learned bias.
      use_scale: whether to multiply by a learned scale.
      use_running_average: whether training also uses the running averages and leaves them as they
        are, for fine-tuning on small batches; scale and bias are still learned.
      scale_init: draws the scale; zeros in the last norm of a residual block makes the block start
        as the identity.
      bias_init: draws the bias.
      name: of the layer.

    Params:
      scale, bias: (features,).

    State:
      mean, var: (features,).

    Raises:
      ValueError: If momentum is outside [0, 1), and in training if the input has fewer than two
        values per feature, as a batch of one example without positions.

    Example:
      >>> layer = batch_norm()
      >>> params, state = layer.init(jax.random.key(0), jn.spec((32, 5, 7, 3)))
      >>> x = 4 + jax.random.normal(jax.random.key(1), (32, 5, 7, 3))
      >>> y, state = layer.apply(params, state, x, train=True)
      >>> bool(jnp.abs(y.mean((0, 1, 2))).max() < 1e-5), state["mean"].round(1).tolist()
      (True, [0.4..., 0.4..., 0.4...])

    Reference: Ioffe and Szegedy 2015, "Batch Normalization".
    """
    within(name, "momentum", momentum, "[0, 1)")
    check_options(name, use_running_average=use_running_average)
    affine = _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init)

    def init(key, x):
        check_rank(name, x, 2)
        shape, dtype = (x.shape[-1],), param_dtype(x)
        state = {"mean": zeros(key, shape, dtype), "var": ones(key, shape, dtype)}
        return affine.init(key, x), state

    def apply(params, state, x, *, key=None, train=False):
        mean, var = state["mean"], state["var"]
        if train and use_running_average:
            state = jax.lax.stop_gradient(state)  # held on purpose, as `freeze` does
        elif train:
            if x.size == 0:
                raise ValueError(f"{name}: needs at least one entry per feature, got {x.shape}")
            if math.prod(x.shape[:-1]) == 1:  # the variance would be 0, and the output the bias
                raise ValueError(
                    f"{name}: training needs more than one value per feature, got an input of "
                    f"shape {x.shape}. Take a larger batch (drop_last=True if one example is left "
                    "over), or layer_norm"
                )
            scale = params["scale"] if use_scale else jnp.ones_like(mean)
            bias = params["bias"] if use_bias else jnp.zeros_like(mean)
            y, mean, var = normalized(x.astype(mean.dtype), scale, bias, epsilon)
            state = {
                "mean": momentum * state["mean"] + (1 - momentum) * jax.lax.stop_gradient(mean),
                "var": momentum * state["var"] + (1 - momentum) * jax.lax.stop_gradient(var),
            }
            return y.astype(output_dtype(x)), state
        factor = jax.lax.rsqrt(var + epsilon)
        if use_scale:
            factor = factor * params["scale"]  # on (features,) first, which is small
        y = (x - mean) * factor
        if use_bias:
            y = y + params["bias"]
        return y.astype(output_dtype(x)), state

    return Layer(init, apply, name, kind="batch_norm")


@explain_keywords
def layer_norm(
    *,
    epsilon: float = 1e-6,
    use_bias: bool = True,
    use_scale: bool = True,
    scale_init: Initializer = ones,
    bias_init: Initializer = zeros,
    name: str = "layer_norm",
) -> Layer:
    """Normalizes each position over its features (the last axis).

    Examples are independent, so training and evaluation are the same. `epsilon` is Flax's;
    PyTorch's is 1e-5.

    Args:
      epsilon: added to the variance, which is biased (divided by n).
      use_bias: whether to add a learned bias.
      use_scale: whether to multiply by a learned scale.
      scale_init: draws the scale.
      bias_init: draws the bias.
      name: of the layer.

    Params:
      scale, bias: (features,).

    Raises:
      ValueError: for an input without a feature axis.

    Example:
      >>> layer = layer_norm()
      >>> params, state = layer.init(jax.random.key(0), jn.spec((32, 5, 7)))
      >>> y, _ = layer.apply(params, state, jax.random.normal(jax.random.key(1), (32, 5, 7)))
      >>> bool(jnp.abs(y.mean(-1)).max() < 1e-5)
      True

    Reference: Ba et al. 2016, "Layer Normalization".
    """
    affine = _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init)

    def init(key, x):
        check_rank(name, x, 2)
        return affine.init(key, x)

    def apply(params, x):
        return affine.apply(params, standardized(wide(x), (-1,), epsilon), x)

    return stateless(init, apply, name, kind="layer_norm")


@explain_keywords
def rms_norm(
    *,
    epsilon: float = 1e-6,
    use_scale: bool = True,
    scale_init: Initializer = ones,
    name: str = "rms_norm",
) -> Layer:
    """Divides each position by the root mean square of its features, without centring.

    Args:
      epsilon: added to the mean square. PyTorch's is the machine epsilon, 1.2e-7 in float32.
      use_scale: whether to multiply by a learned scale.
      scale_init: draws the scale.
      name: of the layer.

    Params:
      scale: (features,).

    Raises:
      ValueError: for an input without a feature axis.

    Example:
      >>> y, _ = rms_norm(use_scale=False).apply({}, {}, jnp.array([[3.0, 4.0, 0.0, 0.0]]))
      >>> np.asarray(y).round(4)  # the root of 25 / 4 is 2.5
      array([[1.2, 1.6, 0. , 0. ]], dtype=float32)

    Reference: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    affine = _affine(name, epsilon, use_scale, False, scale_init, zeros)

    def init(key, x):
        check_rank(name, x, 2)
        return affine.init(key, x)

    def apply(params, x):
        square = jnp.square(wide(x)).mean(-1, keepdims=True)
        return affine.apply(params, wide(x) * jax.lax.rsqrt(square + epsilon), x)

    return stateless(init, apply, name, kind="rms_norm")


@explain_keywords
def group_norm(
    groups: int = 32,
    *,
    epsilon: float = 1e-6,
    use_bias: bool = True,
    use_scale: bool = True,
    scale_init: Initializer = ones,
    bias_init: Initializer = zeros,
    name: str = "group_norm",
) -> Layer:
    """Normalizes over all positions and a group of neighbouring features.

    Each example has its own statistics, so the batch may be small. `group_norm(1)` takes all
    features together.

    Args:
      groups: number of groups, which divides the number of features.
      epsilon: added to the variance. PyTorch's is 1e-5.
      use_bias: whether to add a learned bias.
      use_scale: whether to multiply by a learned scale.
      scale_init: draws the scale.
      bias_init: draws the bias.
      name: of the layer.

    Params:
      scale, bias: (features,).

    Raises:
      ValueError: for groups below 1, or groups that do not divide the features.

    Example:
      >>> layer = group_norm(3)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5, 7, 12)))
      >>> x = jax.random.normal(jax.random.key(1), (2, 5, 7, 12))
      >>> y, _ = layer.apply(params, state, x)
      >>> bool(jnp.abs(y[..., :4].mean((1, 2, 3))).max() < 1e-5)
      True

    Reference: Wu and He 2018, "Group Normalization".
    """
    at_least(name, "groups", groups)
    affine = _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init)

    def init(key, x):
        check_rank(name, x, 2)
        if x.shape[-1] % groups:
            raise ValueError(f"{name}: {groups} groups must divide the {x.shape[-1]} features")
        return affine.init(key, x)

    def apply(params, x):
        shape = (*x.shape[:-1], groups, x.shape[-1] // groups)
        grouped = wide(x).reshape(shape)  # (batch, ..., groups, members)
        axes = (*range(1, x.ndim - 1), -1)
        return affine.apply(params, standardized(grouped, axes, epsilon).reshape(x.shape), x)

    return stateless(init, apply, name, kind="group_norm")


@explain_keywords
def instance_norm(
    *,
    epsilon: float = 1e-6,
    use_bias: bool = True,
    use_scale: bool = True,
    scale_init: Initializer = ones,
    bias_init: Initializer = zeros,
    name: str = "instance_norm",
) -> Layer:
    """Normalizes each feature map of each example over its positions.

    PyTorch's InstanceNorm has epsilon 1e-5 and, by default, neither scale nor bias.

    Args:
      epsilon: added to the variance.
      use_bias: whether to add a learned bias.
      use_scale: whether to multiply by a learned scale.
      scale_init: draws the scale.
      bias_init: draws the bias.
      name: of the layer.

    Params:
      scale, bias: (features,).

    Raises:
      ValueError: for an input without positions.

    Example:
      >>> layer = instance_norm()
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5, 7, 3)))
      >>> y, _ = layer.apply(params, state, jax.random.normal(jax.random.key(1), (2, 5, 7, 3)))
      >>> bool(jnp.abs(y.mean((1, 2))).max() < 1e-5)
      True

    Reference: Ulyanov et al. 2016, "Instance Normalization".
    """
    affine = _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init)

    def init(key, x):
        check_rank(name, x, 3, "(batch, positions, ..., features)")
        return affine.init(key, x)

    def apply(params, x):
        axes = tuple(range(1, x.ndim - 1))
        return affine.apply(params, standardized(wide(x), axes, epsilon), x)

    return stateless(init, apply, name, kind="instance_norm")


class _Affine(NamedTuple):
    """The learned scale and bias at the end of every norm."""

    name: str
    use_scale: bool
    use_bias: bool
    scale_init: Initializer
    bias_init: Initializer

    def init(self, key: jax.Array, x: jax.ShapeDtypeStruct) -> Params:
        shape, dtype = (x.shape[-1],), param_dtype(x)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{self.name}: expected an input of real numbers, got {x.dtype}")
        params: Params = {}
        if self.use_scale:
            params["scale"] = draw(
                self.name, "scale_init", self.scale_init, child_key(key, "scale"), shape, dtype
            )
        if self.use_bias:
            params["bias"] = draw(
                self.name, "bias_init", self.bias_init, child_key(key, "bias"), shape, dtype
            )
        return params

    def apply(self, params: Params, y: jax.Array, x: jax.Array) -> jax.Array:
        """y * scale + bias, in the dtype of x where that is float."""
        if self.use_scale:
            y = y * params["scale"]
        if self.use_bias:
            y = y + params["bias"]
        return y.astype(output_dtype(x))


def _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init) -> _Affine:
    """The end of a norm, from its options, which are checked."""
    within(name, "epsilon", epsilon, "[0, inf)")
    options = {"use_scale": use_scale, "use_bias": use_bias}
    check_options(name, **options, scale_init=scale_init, bias_init=bias_init)
    return _Affine(name, use_scale, use_bias, scale_init, bias_init)
