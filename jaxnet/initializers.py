"""Initializers that compile once for all shapes of a network.

`jax.nn.initializers` compiles a program for every new shape, which takes seconds for the 22 kernels
of a ResNet-20. Here, samples are drawn in blocks of one fixed size, each with its own key, and cut
to shape in NumPy, so one small program serves every layer. The distributions are the same as
in `jax.nn.initializers`. An initializer is a function `(key, shape, dtype) -> array`; JAX's
initializers and your own work in every layer too.
"""

import math
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.services import checks
from jaxnet.services.threefry import fold_paths

_BLOCK = 2**14  # samples per block: large enough to be fast for VGG, small enough for a bias

# Standard deviation of a standard normal truncated at two standard deviations.
_TRUNCATED_STD = 0.87962566103423978


class Initializer(Protocol):
    """Type of an initializer: `(key, shape, dtype) -> array`."""

    def __call__(
        self, key: jax.Array, shape: tuple[int, ...], dtype: Any = ..., /
    ) -> jax.Array: ...


@partial(jax.jit, static_argnames=("distribution", "dtype"))
def _block(key: jax.Array, distribution: str, dtype: Any) -> jax.Array:
    if distribution == "truncated_normal":
        return jax.random.truncated_normal(key, -2, 2, (_BLOCK,), dtype) / _TRUNCATED_STD
    if distribution == "normal":
        return jax.random.normal(key, (_BLOCK,), dtype)
    return jax.random.uniform(key, (_BLOCK,), dtype, -math.sqrt(3), math.sqrt(3))


def _unit(key: jax.Array, shape: tuple[int, ...], dtype: Any, distribution: str) -> Any:
    """Draw samples of mean 0 and variance 1."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"initializers: dtype must be a float, got {dtype}")
    checks.check_shape("initializers: the shape", shape)
    size = math.prod(shape)
    if size >= 2**40:
        raise ValueError(f"initializers: the shape {shape} has {size} entries, more than fit")
    count = max(1, -(-size // _BLOCK))
    draw = partial(_block, distribution=distribution, dtype=dtype)
    first = draw(*fold_paths(key, [(0,)]))
    if checks.is_traced(first):  # by the key, or inside `jit`
        keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))
        samples = jax.vmap(draw)(keys).reshape(-1)
    else:
        keys = fold_paths(key, [(number,) for number in range(1, count)])
        samples = np.concatenate([np.asarray(first), *(np.asarray(draw(each)) for each in keys)])
    return samples[:size].reshape(shape)


def variance_scaling(
    scale: float, mode: str, distribution: str, *, in_axis: Any = -2, out_axis: Any = -1
) -> Initializer:
    """Draw samples of mean 0 and variance scale / fan, like `jax.nn.initializers.variance_scaling`.

    Axes that are neither `in_axis` nor `out_axis` are the receptive field, whose size multiplies
    both fans.

    Args:
      scale: Scale of the variance, positive.
      mode: Kind of fan, "fan_in", "fan_out" or "fan_avg".
      distribution: Kind of samples, "truncated_normal", "normal" or "uniform".
      in_axis: Axis or axes of the inputs.
      out_axis: Axis or axes of the outputs.

    Returns:
      An initializer (key, shape, dtype=float32) -> array.

    Raises:
      TypeError: If axes are not integers, or `scale` is not a number.
      ValueError: If `mode` or `distribution` is unknown, or `scale` is not positive.
      ValueError: If a shape does not have the axes, in the initializer.

    Example:
      >>> kernel = variance_scaling(2.0, "fan_in", "normal")(jax.random.key(0), (500, 300))
      >>> print(f"variance {kernel.var():.5f}, expected {2 / 500}")
      variance 0.00400, expected 0.004
    """
    who = "variance_scaling"
    checks.within(who, "scale", scale, "(0, inf)")
    checks.one_of(who, "mode", mode, ["fan_in", "fan_out", "fan_avg"])
    checks.one_of(who, "distribution", distribution, ["truncated_normal", "normal", "uniform"])
    in_axes = _axes("in_axis", in_axis)
    out_axes = _axes("out_axis", out_axis)

    def init(key, shape, dtype=jnp.float32):
        checks.check_key(key, who)
        checks.check_shape(f"{who}: the shape", shape)
        if any(not -len(shape) <= axis < len(shape) for axis in in_axes + out_axes):
            raise ValueError(
                f"{who}: the shape {tuple(shape)} has no axes in_axis={in_axis}, "
                f"out_axis={out_axis}"
            )
        inputs = math.prod(shape[axis] for axis in in_axes)
        outputs = math.prod(shape[axis] for axis in out_axes)
        field = math.prod(shape) / max(1, inputs * outputs)
        fans = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}
        std = math.sqrt(scale / max(1.0, fans[mode] * field))
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        samples = _unit(key, shape, dtype, distribution)
        return checks.on_device(samples * np.asarray(std, dtype))

    return init


def _axes(what: str, axis: Any) -> list[int]:
    """Return one or several axes as a list."""
    axes = np.atleast_1d(axis)
    return checks.on_host("variance_scaling", what, axes, "(n,)", "integers").tolist()


def lecun_normal(**axes: Any) -> Initializer:
    """Draw with variance 1 / fan_in, which keeps the variance of linear units constant over layers.

    Args:
      **axes: Options `in_axis` and `out_axis` of `variance_scaling`.

    Returns:
      An initializer (key, shape, dtype=float32) -> array.

    Example:
      >>> kernel = lecun_normal()(jax.random.key(0), (500, 300))
      >>> print(f"variance {kernel.var():.5f}, expected {1 / 500}")
      variance 0.00200, expected 0.002

    Reference: LeCun et al. 1998, "Efficient BackProp", section 4.6.
    """
    return variance_scaling(1.0, "fan_in", "truncated_normal", **axes)


def he_normal(**axes: Any) -> Initializer:
    """Draw with variance 2 / fan_in, which keeps the variance of rectified units over layers.

    Args:
      **axes: Options `in_axis` and `out_axis` of `variance_scaling`.

    Returns:
      An initializer (key, shape, dtype=float32) -> array.

    Example:
      >>> kernel = he_normal()(jax.random.key(0), (500, 300))
      >>> print(f"variance {kernel.var():.5f}, expected {2 / 500}")
      variance 0.00400, expected 0.004

    Reference: He et al. 2015, "Delving Deep into Rectifiers".
    """
    return variance_scaling(2.0, "fan_in", "truncated_normal", **axes)


def glorot_normal(**axes: Any) -> Initializer:
    """Draw normal samples of variance 2 / (fan_in + fan_out).

    Args:
      **axes: Options `in_axis` and `out_axis` of `variance_scaling`.

    Returns:
      An initializer (key, shape, dtype=float32) -> array.

    Example:
      >>> kernel = glorot_normal()(jax.random.key(0), (500, 300))
      >>> print(f"variance {kernel.var():.5f}, expected {2 / 800}")
      variance 0.00250, expected 0.0025

    Reference: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward
    neural networks".
    """
    return variance_scaling(1.0, "fan_avg", "truncated_normal", **axes)


def glorot_uniform(**axes: Any) -> Initializer:
    """Draw uniform samples of variance 2 / (fan_in + fan_out).

    Args:
      **axes: Options `in_axis` and `out_axis` of `variance_scaling`.

    Returns:
      An initializer (key, shape, dtype=float32) -> array.

    Example:
      >>> kernel = glorot_uniform()(jax.random.key(0), (500, 300))
      >>> print(f"largest {abs(kernel).max():.4f}, bound {(6 / 800) ** 0.5:.4f}")
      largest 0.0866, bound 0.0866

    Reference: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward
    neural networks".
    """
    return variance_scaling(1.0, "fan_avg", "uniform", **axes)


def normal(stddev: float = 0.01) -> Initializer:
    """Draw normal samples with a standard deviation that does not depend on the shape.

    Args:
      stddev: Standard deviation, at least 0.

    Returns:
      An initializer (key, shape, dtype=float32) -> array.

    Example:
      >>> kernel = normal(0.02)(jax.random.key(0), (500, 300))
      >>> print(f"standard deviation {kernel.std():.4f}")
      standard deviation 0.0200
    """

    checks.within("normal", "stddev", stddev, "[0, inf)")

    def init(key, shape, dtype=jnp.float32):
        checks.check_key(key, "normal")
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        samples = _unit(key, shape, dtype, "normal")
        return checks.on_device(samples * np.asarray(stddev, dtype))

    return init


def constant(value: float) -> Initializer:
    """Give every entry the same value.

    Args:
      value: Value of every entry.

    Returns:
      An initializer (key, shape, dtype=float32) -> array.

    Example:
      >>> constant(0.5)(jax.random.key(0), (3,)).tolist()
      [0.5, 0.5, 0.5]
    """

    checks.within("constant", "value", value, "[-inf, inf]")

    def init(key, shape, dtype=jnp.float32):
        """Fill every entry with one value; the key is not used."""
        checks.check_shape("constant: the shape", shape)
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        if not all(isinstance(size, int | np.integer) for size in shape):
            return jnp.full(shape, value, dtype)  # variable sizes, of an exported program
        # In NumPy, since jnp.full compiles for every shape.
        return checks.on_device(np.full(shape, value, dtype))

    return init


zeros: Initializer = constant(0.0)
"""Return zeros; the key is not used."""
ones: Initializer = constant(1.0)
"""Return ones; the key is not used."""


def dirac(rest: Initializer = zeros) -> Initializer:
    """Return kernels of convolutions that pass their inputs on: feature i is input i.

    The middle of the window is 1 for input i of feature i, and the other weights of these
    features are 0. So a convolution with odd windows and padding "SAME" begins as the identity,
    which PyTorch's `dirac_` does too. For groups = 1.

    Args:
      rest: Initializer of the features beyond the number of inputs; by default they are 0.

    Returns:
      An initializer (key, shape, dtype=float32) -> kernel (*window, inputs, features).

    Raises:
      ValueError: If a shape is not (*window, inputs, features), in the initializer.

    Example:
      >>> kernel = dirac()(jax.random.key(0), (3, 2, 4))
      >>> kernel[1].tolist(), float(kernel[0].sum())
      ([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], 0.0)

    Reference: Zagoruyko and Komodakis 2017, "DiracNets: Training Very Deep Neural Networks Without
    Skip-Connections".
    """
    checks.a_function("dirac", "rest", rest, "(key, shape, dtype)")

    def init(key, shape, dtype=jnp.float32):
        checks.check_shape("dirac: the shape", shape)
        if len(shape) < 3:
            raise ValueError(
                f"dirac: the shape must be (*window, inputs, features), got {tuple(shape)}"
            )
        *window, inputs, features = shape
        kernel = rest(key, shape, dtype)
        identity = np.zeros(shape, kernel.dtype)
        center = tuple(size // 2 for size in window)
        identity[center] = np.eye(inputs, features)
        passed = np.arange(features) < inputs
        where = jnp.where if checks.is_traced(kernel) else np.where  # jnp's compiles for each shape
        return checks.on_device(where(passed, identity, kernel))

    return init
