"""Dropout: noise that switches units, feature maps or whole branches off in training."""

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, checked


def dropout(rate: float, *, axes: tuple[int, ...] | None = None, name: str = "dropout") -> Layer:
    """In training, each entry is 0 with probability `rate`, else divided by 1 - rate.

    `rate` is the share that is dropped (stax counts the share that is kept). The division keeps the
    mean, so nothing is to be done at evaluation, where the layer is the identity.

    Args:
      rate: in [0, 1).
      axes: along which entries are dropped independently; along the others all go together. None
        is all axes. (0, -1) drops whole feature maps, see `spatial_dropout`.
      name: of the layer.

    Raises:
      ValueError: for a rate outside [0, 1), for axes that x has not, or in training without a key.

    Example:
      >>> layer = dropout(0.25)
      >>> y, _ = layer.apply({}, {}, jnp.ones((3, 8)), key=jax.random.key(0), train=True)
      >>> sorted(set(y.ravel().tolist()))
      [0.0, 1.333...]

    Reference: Srivastava et al. 2014, "Dropout".
    """
    if not 0 <= rate < 1:
        raise ValueError(f"{name}: rate is the share that is dropped, in [0, 1), got {rate}")

    def init(key, x):
        _noise_shape(x.shape, axes, name)
        return {}, {}

    def apply(params, state, x, *, key=None, train=False):
        if not train or rate == 0:
            return x, state
        shape = _noise_shape(x.shape, axes, name)
        keep = jax.random.bernoulli(needs_key(key, name), 1 - rate, shape)
        return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype), state

    return checked(Layer(init, apply, name))


def spatial_dropout(rate: float, *, name: str = "spatial_dropout") -> Layer:
    """Dropout of whole feature maps: one feature of one example is 0 at all positions, or nowhere.

    Neighbouring pixels of a feature map say nearly the same, so dropping them one by one removes
    little; this is what PyTorch calls Dropout2d.

    Args:
      rate: share of the feature maps that is dropped, in [0, 1).
      name: of the layer.

    Raises:
      ValueError: for a rate outside [0, 1), or in training without a key.

    Example:
      >>> layer = spatial_dropout(0.5)
      >>> x = jnp.ones((2, 5, 7, 3))
      >>> y, _ = layer.apply({}, {}, x, key=jax.random.key(0), train=True)
      >>> bool((y == y[:, :1, :1]).all())
      True

    Reference: Tompson et al. 2015, "Efficient Object Localization Using Convolutional Networks".
    """
    return dropout(rate, axes=(0, -1), name=name)


def drop_path(rate: float, *, name: str = "drop_path") -> Layer:
    """Dropout of whole examples, at the end of a residual branch: stochastic depth.

    The examples whose branch is dropped pass by its shortcut alone. The others are divided by
    1 - rate, so nothing is to be done at evaluation (the paper multiplies there instead).

    Args:
      rate: share of the examples whose branch is dropped, in [0, 1).
      name: of the layer.

    Raises:
      ValueError: for a rate outside [0, 1), or in training without a key.

    Example:
      >>> block = jn.residual(jn.serial(jn.dense(3), drop_path(0.5)))
      >>> params, state = block.init(jax.random.key(0), jn.spec((4, 3)))
      >>> x = jnp.ones((4, 3))
      >>> y, _ = block.apply(params, state, x, key=jax.random.key(1), train=True)
      >>> (y == x).all(1).tolist()  # which examples skipped the branch
      [...]

    Reference: Huang et al. 2016, "Deep Networks with Stochastic Depth".
    """
    return dropout(rate, axes=(0,), name=name)


def needs_key(key: jax.Array | None, name: str) -> jax.Array:
    """The key, or an error that shows the call to make."""
    if key is None:
        raise ValueError(
            f"{name}: needs a key in training; write "
            "net.apply(params, state, x, key=jax.random.key(0), train=True)"
        )
    return key


def _noise_shape(
    shape: tuple[int, ...], axes: tuple[int, ...] | None, name: str
) -> tuple[int, ...]:
    """The shape of x with 1 at each axis along which all entries share their fate."""
    if axes is None:
        return shape
    rank = len(shape)
    if not all(-rank <= axis < rank for axis in axes):
        raise ValueError(f"{name}: axes must be axes of the input {shape}, got {axes}")
    own = {axis % rank for axis in axes}
    return tuple(size if i in own else 1 for i, size in enumerate(shape))
