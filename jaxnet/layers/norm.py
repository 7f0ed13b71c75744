"""Normalization to mean 0 and variance 1 over the batch, the features or the positions."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, compose
from jaxnet.initializers import Initializer, ones, zeros
from jaxnet.ops.normalization import NEGLIGIBLE, normalized, standardized, unscaled
from jaxnet.ops.precision import output_dtype
from jaxnet.ops.product import add_bias, broadcast
from jaxnet.ops.scaling import power_of_two
from jaxnet.services.checks import at_least, check_options, check_rank, within
from jaxnet.services.checks.keywords import explain_keywords


@explain_keywords
def batch_norm(
    *,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
    use_bias: bool = True,
    use_scale: bool = True,
    use_running_average: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
    scale_init: Initializer = ones,
    bias_init: Initializer = zeros,
    name: str = "batch_norm",
) -> Layer:
    """Normalize each feature over the batch and all positions.

    In training the layer uses the statistics of the batch, and the state keeps running averages of
    them. In evaluation the layer uses the running averages. They start at mean 0 and variance 1, so
    an untrained layer returns its input, up to epsilon. Both variances are biased (divided by n),
    as in Flax; PyTorch's running variance divides by n - 1.

    Args:
      momentum: Weight of the old average in each step, in [0, 1): 0.9 corresponds to
        momentum=0.1 in PyTorch.
      epsilon: Number added to the variance.
      use_bias: Whether to add a learned bias.
      use_scale: Whether to multiply by a learned scale.
      use_running_average: Whether to use the running averages in training too, without changing
        them, for fine-tuning on small batches. Scale and bias are still learned.
      axis_name: Axis of `jax.shard_map` or `jax.vmap`, or several, over which the statistics of
        training are averaged too, so that they are those of the whole batch. Without `shard_map`,
        as in `jn.fit` on a mesh, they are so anyway.
      scale_init: Initializer of the scale; zeros in the last norm of a residual block makes the
        block start as the identity.
      bias_init: Initializer of the bias.
      name: Name of the layer.

    Params:
      scale, bias: (features,).

    State:
      mean, var: (features,).

    Returns:
      A layer with outputs of the shape of its inputs.

    Raises:
      ValueError: If `momentum` is outside [0, 1).
      ValueError: If a training batch has fewer than two values per feature, such as one example
        without positions.
      ValueError: If the call in training is not inside a function with the axis `axis_name`.

    Example:
      >>> layer = batch_norm()
      >>> x = jnp.array([[1.0, 10], [3, 30]])
      >>> params, state = layer.init(jax.random.key(0), x)
      >>> y, state = layer.apply(params, state, x, train=True)
      >>> y.round(2).tolist()
      [[-1.0, -1.0], [1.0, 1.0]]
      >>> np.asarray(state["mean"]).round(2)  # a tenth of the way to the mean of the batch
      array([0.2, 2. ], dtype=float32)

    Reference: Ioffe and Szegedy 2015, "Batch Normalization".
    """
    within(name, "momentum", momentum, "[0, 1)")
    check_options(name, use_running_average=use_running_average)
    _check_axis_name(name, axis_name)
    affine = _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init)

    def forward(m, x):
        check_rank(name, x, 2)
        mean = m.state("mean", zeros, x.shape[-1:])
        var = m.state("var", ones, x.shape[-1:])
        scale, bias = affine(m, x)
        if not m._in_training or use_running_average:
            if m._in_training:  # the averages stay constant on purpose, as in `freeze`
                m.update("mean", jax.lax.stop_gradient(mean))
                m.update("var", jax.lax.stop_gradient(var))
            factor = jax.lax.rsqrt(var + epsilon) * scale  # of (features,), which is small
            centered = add_bias(x, -mean)
            y = add_bias(centered * broadcast(factor, x.shape), bias)
            return y.astype(output_dtype(x))
        if x.size == 0:
            raise ValueError(f"{name}: needs at least one entry per feature, got {x.shape}")
        write = "a larger batch (drop_last=True if one example is left over), or layer_norm"
        parts = 1 if axis_name is None else _number_of_parts(name, axis_name)
        _check_count(f"{name}: training", x, parts * math.prod(x.shape[:-1]), "feature", write)
        scale = scale.astype(mean.dtype)
        bias = bias.astype(mean.dtype)
        x_cast = x.astype(output_dtype(x))
        if axis_name is None:
            y, batch_mean, batch_var = normalized(x_cast, scale, bias, epsilon)
        else:
            y, batch_mean, batch_var = _normalized_over(axis_name, x_cast, scale, bias, epsilon)
        m.update("mean", moved(mean, batch_mean))
        m.update("var", moved(var, batch_var))
        return y

    def moved(old, new):
        """Return the next average."""
        new = momentum * old + (1 - momentum) * jax.lax.stop_gradient(new)
        # One batch beyond the range of floats would leave an infinite average for good.
        return jnp.where(jnp.isinf(new), old, new)

    return compose(forward, name=name, kind="batch_norm")


def _check_axis_name(name: str, axis_name: Any) -> None:
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if axis_name is not None and not all(isinstance(one, str) for one in names):
        raise TypeError(
            f"{name}: axis_name must be the name of an axis, or a tuple of names, got "
            f"{axis_name!r:.60}"
        )


def _number_of_parts(name: str, axis_name: str | tuple[str, ...]) -> int:
    try:
        return jax.lax.psum(1, axis_name)
    except NameError:
        raise ValueError(
            f"{name}: axis_name is {axis_name!r}, but training runs outside of a function with "
            "this axis. Write jax.shard_map(...) over a mesh that has it, "
            f"jax.vmap(..., axis_name={axis_name!r}), or leave axis_name out"
        ) from None


def _normalized_over(
    axis_name: str | tuple[str, ...],
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    epsilon: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the normalized input, and mean and variance over the batches of all devices."""
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(scale.dtype)
    largest = jnp.abs(jax.lax.stop_gradient(wide)).max(axes)
    power = power_of_two(jax.lax.pmax(largest, axis_name), tiny=epsilon < NEGLIGIBLE)
    wide *= power
    mean = jax.lax.pmean(wide.mean(axes), axis_name)
    centered = wide - mean
    variance = jax.lax.pmean(jnp.square(centered).mean(axes), axis_name)
    y = centered * (jax.lax.rsqrt(variance + epsilon * power * power) * scale) + bias
    return y.astype(x.dtype), mean / power, unscaled(variance, power)


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
    """Normalize each position over its features (the last axis).

    Examples are independent, so training and evaluation are the same. `epsilon` is Flax's;
    PyTorch's is 1e-5.

    Args:
      epsilon: Number added to the variance, which is biased (divided by n).
      use_bias: Whether to add a learned bias.
      use_scale: Whether to multiply by a learned scale.
      scale_init: Initializer of the scale.
      bias_init: Initializer of the bias.
      name: Name of the layer.

    Params:
      scale, bias: (features,).

    Returns:
      A layer with outputs of the shape of its inputs.

    Raises:
      ValueError: If the input does not have a feature axis of size 2 or more.

    Example:
      >>> layer = layer_norm()
      >>> x = jnp.array([[1.0, 2, 3], [10, 20, 30]])
      >>> params, state = layer.init(jax.random.key(0), x)
      >>> np.asarray(layer.apply(params, state, x)[0]).round(2)
      array([[-1.22,  0.  ,  1.22],
             [-1.22,  0.  ,  1.22]], dtype=float32)

    Reference: Ba et al. 2016, "Layer Normalization".
    """
    affine = _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init)

    return _over_features("layer_norm", name, affine, epsilon)


@explain_keywords
def rms_norm(
    *,
    epsilon: float = 1e-6,
    use_scale: bool = True,
    scale_init: Initializer = ones,
    name: str = "rms_norm",
) -> Layer:
    """Divide each position by the root mean square of its features, without centering.

    Args:
      epsilon: Number added to the mean square. PyTorch's is the machine epsilon, 1.2e-7 in float32.
      use_scale: Whether to multiply by a learned scale.
      scale_init: Initializer of the scale.
      name: Name of the layer.

    Params:
      scale: (features,).

    Returns:
      A layer with outputs of the shape of its inputs.

    Raises:
      ValueError: If the input does not have a feature axis.

    Example:
      >>> y, _ = rms_norm(use_scale=False).apply({}, {}, jnp.array([[3.0, 4.0, 0.0, 0.0]]))
      >>> np.asarray(y).round(4)  # the root of 25 / 4 is 2.5
      array([[1.2, 1.6, 0. , 0. ]], dtype=float32)

    Reference: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """
    affine = _affine(name, epsilon, use_scale, False, scale_init, zeros)

    return _over_features("rms_norm", name, affine, epsilon, centered=False)


def _over_features(
    kind: str, name: str, affine: Callable, epsilon: float, centered: bool = True
) -> Layer:
    """Return the layer that normalizes each position by itself."""

    def forward(m, x):
        check_rank(name, x, 2)
        if centered:  # the mean square of one feature does not have to be 0, but its variance is
            _check_count(f"{name}:", x, x.shape[-1], "position", "batch_norm")
        return standardized(x, *affine(m, x), (-1,), epsilon, centered)

    return compose(forward, name=name, kind=kind)


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
    """Normalize over all positions and a group of neighboring features.

    Each example has its own statistics, so the batch may be small. `group_norm(1)` takes all
    features together.

    Args:
      groups: Number of groups, which must divide the number of features.
      epsilon: Number added to the variance. PyTorch's is 1e-5.
      use_bias: Whether to add a learned bias.
      use_scale: Whether to multiply by a learned scale.
      scale_init: Initializer of the scale.
      bias_init: Initializer of the bias.
      name: Name of the layer.

    Params:
      scale, bias: (features,).

    Returns:
      A layer with outputs of the shape of its inputs.

    Raises:
      ValueError: If `groups` is below 1, or does not divide the features.
      ValueError: If a group holds one value.

    Example:
      >>> layer = group_norm(2)
      >>> x = jnp.array([[1.0, 3, 10, 30]])  # four features, two per group
      >>> params, state = layer.init(jax.random.key(0), x)
      >>> layer.apply(params, state, x)[0].round(2).tolist()
      [[-1.0, 1.0, -1.0, 1.0]]

    Reference: Wu and He 2018, "Group Normalization".
    """
    at_least(name, "groups", groups)
    affine = _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init)

    def forward(m, x):
        check_rank(name, x, 2)
        if x.shape[-1] % groups:
            raise ValueError(f"{name}: {groups} groups must divide the {x.shape[-1]} features")
        members = x.shape[-1] // groups
        shape = (*x.shape[:-1], groups, members)
        if x.ndim > 2:
            m._not_in_stream("takes statistics over time")
        scale, bias = (entry.reshape(groups, members) for entry in affine(m, x))
        _check_count(f"{name}:", x, math.prod(shape[1:]) // groups, "group", "fewer groups")
        axes = (*range(1, x.ndim - 1), -1)  # of (batch, ..., groups, members)
        y = standardized(x.reshape(shape), scale, bias, axes, epsilon)
        return y.reshape(x.shape)

    return compose(forward, name=name, kind="group_norm")


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
    """Normalize each feature map of each example over its positions.

    PyTorch's InstanceNorm has epsilon 1e-5 and, by default, neither scale nor bias.
    Args:
      epsilon: Number added to the variance.
      use_bias: Whether to add a learned bias.
      use_scale: Whether to multiply by a learned scale.
      scale_init: Initializer of the scale.
      bias_init: Initializer of the bias.
      name: Name of the layer.

    Params:
      scale, bias: (features,).

    Returns:
      A layer from (batch, *space, features) to the same shape.

    Raises:
      ValueError: If the input has fewer than two positions.

    Example:
      >>> layer = instance_norm()
      >>> x = jnp.array([1.0, 3, 10, 30]).reshape(2, 2, 1)  # two signals of two steps
      >>> params, state = layer.init(jax.random.key(0), x)
      >>> layer.apply(params, state, x)[0].round(2).ravel().tolist()
      [-1.0, 1.0, -1.0, 1.0]

    Reference: Ulyanov et al. 2016, "Instance Normalization".
    """
    affine = _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init)

    def forward(m, x):
        check_rank(name, x, 3, "(batch, positions, ..., features)")
        m._not_in_stream("takes statistics over time")
        axes = tuple(range(1, x.ndim - 1))
        _check_count(f"{name}:", x, math.prod(x.shape[1:-1]), "feature map", "layer_norm")
        return standardized(x, *affine(m, x), axes, epsilon)

    return compose(forward, name=name, kind="instance_norm")


def _check_count(who: str, x: jax.Array, count: int, of: str, write: str) -> None:
    """Raise for statistics of one value: its variance is 0, so the output would be the bias."""
    if count < 2:
        raise ValueError(
            f"{who} needs more than one value per {of}, got an input of {x.shape}. Take {write}"
        )


def _affine(name, epsilon, use_scale, use_bias, scale_init, bias_init) -> Callable:
    """The learned scale and bias of a norm by `(m, x)`, 1 and 0 if left out; checks its options."""
    within(name, "epsilon", epsilon, "[0, inf)")
    options = {"use_scale": use_scale, "use_bias": use_bias}
    check_options(name, **options, scale_init=scale_init, bias_init=bias_init)

    def affine(m: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"{name}: expected an input of real numbers, got {x.dtype}")
        size, dtype = x.shape[-1:], output_dtype(x)
        scale = m.param("scale", scale_init, size) if use_scale else jnp.ones(size, dtype)
        bias = m.param("bias", bias_init, size) if use_bias else jnp.zeros(size, dtype)
        return scale, bias

    return affine
