"""Dropout of units, feature maps or residual branches in training."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, compose
from jaxnet.ops.native.keep import bernoulli
from jaxnet.services.checks import check_floats, on_host, within
from jaxnet.services.checks.keywords import explain_keywords


@explain_keywords
def dropout(rate: float, *, axes: tuple[int, ...] | None = None, name: str = "dropout") -> Layer:
    """Set entries to 0 with probability `rate` in training, and divide the others by 1 - rate.

    The division keeps the mean, so the layer is the identity in evaluation. In stax, `rate` is the
    fraction to keep instead.

    In `jax.shard_map`, each device draws numbers of its own for an input that varies between
    devices. With `check_vma=False`, JAX does not say what varies, so all devices would drop the
    same entries. Fold the index of the device into the key there:

        key = jax.random.fold_in(key, jax.lax.axis_index("data"))

    Args:
      rate: Fraction to drop, in [0, 1).
      axes: Axes along which entries are dropped independently, all by default. Along the other axes
        they are dropped together: (0, -1) drops whole feature maps, as `spatial_dropout` does.
      name: Name of the layer.

    Returns:
      A layer with outputs of the shape of its inputs.

    Raises:
      TypeError: If `rate` is not a number, or `axes` are not integers.
      TypeError: If the input is not float.
      ValueError: If `rate` is outside [0, 1).
      ValueError: If the input does not have one of `axes`.
      ValueError: If a key is missing in training.

    Example:
      >>> layer = dropout(0.25)
      >>> y, _ = layer.apply({}, {}, jnp.ones((3, 8)), key=jax.random.key(0), train=True)
      >>> sorted(set(y.ravel().tolist()))
      [0.0, 1.333...]

    Reference: Srivastava et al. 2014, "Dropout".
    """
    if axes is not None:
        axes = tuple(on_host(name, "axes", axes, "(n,)", "integers").tolist())
    return _dropout("dropout", rate, axes, name)


@explain_keywords
def spatial_dropout(rate: float, *, name: str = "spatial_dropout") -> Layer:
    """Drop whole feature maps: a feature is 0 at all positions of one example, or at none.

    Neighboring pixels of a feature map are nearly equal, so dropping single pixels removes little
    information. PyTorch calls it Dropout2d.

    Args:
      rate: Fraction of feature maps to drop, in [0, 1).
      name: Name of the layer.

    Returns:
      A layer from (batch, *space, features) to the same shape.

    Raises:
      TypeError: If `rate` is not a number, or the input is not float.
      ValueError: If `rate` is outside [0, 1).
      ValueError: If a key is missing in training.

    Example:
      >>> layer = spatial_dropout(0.5)
      >>> x = jnp.ones((1, 2, 2, 4))
      >>> y, _ = layer.apply({}, {}, x, key=jax.random.key(0), train=True)
      >>> y[0].reshape(4, 4)  # rows are positions, columns are features
      Array([[0., 0., 2., 2.],
             [0., 0., 2., 2.],
             [0., 0., 2., 2.],
             [0., 0., 2., 2.]], dtype=float32)

    Reference: Tompson et al. 2015, "Efficient Object Localization Using Convolutional Networks".
    """
    return _dropout("spatial_dropout", rate, (0, -1), name)


def drop_path(rate: float, *, name: str = "drop_path") -> Layer:
    """Drop whole examples at the end of a residual branch: stochastic depth.

    An example whose branch is dropped keeps its shortcut alone. The others are divided by 1 - rate,
    so the layer is the identity in evaluation (the paper multiplies in evaluation instead).

    Args:
      rate: Fraction of examples whose branch is dropped, in [0, 1).
      name: Name of the layer.

    Returns:
      A layer from (batch, ...) to the same shape.

    Raises:
      TypeError: If `rate` is not a number, or the input is not float.
      ValueError: If `rate` is outside [0, 1).
      ValueError: If a key is missing in training.

    Example:
      >>> block = jn.residual(jn.serial(jn.dense(3), drop_path(0.5)))
      >>> params, state = block.init(jax.random.key(0), jn.spec((4, 3)))
      >>> x = jnp.ones((4, 3))
      >>> y, _ = block.apply(params, state, x, key=jax.random.key(1), train=True)
      >>> (y == x).all(1).tolist()  # which examples skipped the branch
      [...]

    Reference: Huang et al. 2016, "Deep Networks with Stochastic Depth".
    """
    return _dropout("drop_path", rate, (0,), name)


def check_rate(who: str, what: str, rate: Any) -> None:
    """Check a fraction to drop, which the program depends on, so that it can't be a JAX array.

    Args:
      who: Name of the layer.
      what: Name of the argument.
      rate: The fraction.

    Example:
      >>> check_rate("dropout", "rate", 0.5)
    """
    if isinstance(rate, jax.Array):
        raise TypeError(
            f"{who}: {what} must be a number of Python, got a JAX array; write float(x)"
        )
    within(who, what, rate, "[0, 1)", "the fraction to drop")


def _dropout(kind: str, rate: float, axes: tuple[int, ...] | None, name: str) -> Layer:
    check_rate(name, "rate", rate)

    def forward(m, x):
        check_floats(name, x)
        apart = range(x.ndim) if axes is None else axes
        if not all(-x.ndim <= axis < x.ndim for axis in apart):
            raise ValueError(f"{name}: axes must be axes of the input {x.shape}, got {axes}")
        if not m._in_training or rate == 0:
            return x
        drawn_axes = {
            axis % x.ndim for axis in apart
        }  # along other axes entries are dropped together
        shape = tuple(size if axis in drawn_axes else 1 for axis, size in enumerate(x.shape))
        stays = bernoulli(m.key(), 1 - rate, shape)
        y = jnp.where(stays, x / (1 - rate), 0)
        return y.astype(x.dtype)

    return compose(forward, name=name, kind=kind)
