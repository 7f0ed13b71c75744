"""Parts that several vision networks share."""

from collections.abc import Callable

import jax

from jaxnet import Layer, batch_norm, compose, conv
from jaxnet.initializers import he_normal
from jaxnet.layers import drop_path
from jaxnet.services.functions import activated

Activation = Callable[[jax.Array], jax.Array]


def gelu(x: jax.Array) -> jax.Array:
    """GELU with the error function, as in PyTorch; the default of JAX is its tanh form."""
    return jax.nn.gelu(x, approximate=False)


def divisible(number: float, by: int = 8) -> int:
    """Return the nearest multiple, at most 10% below the number."""
    rounded = int(number + by / 2) // by * by
    nearest = max(by, rounded)
    return nearest + by if nearest < 0.9 * number else nearest


def unit(
    m,
    x: jax.Array,
    features: int,
    size: int = 1,
    strides: int = 1,
    *,
    name: str,
    norm_name: str | None = None,
    activation: Activation | None = jax.nn.relu,
    groups: int = 1,
    **norm,
) -> jax.Array:
    """A convolution with PyTorch's symmetric padding, batch norm, and an activation or None."""
    options = {"groups": groups, "use_bias": False, "kernel_init": he_normal()}
    layer = conv(features, size, strides=strides, padding=size // 2, name=name, **options)
    normalize = batch_norm(name=norm_name or f"{name}_norm", **norm)
    x = m(normalize, m(layer, x))
    return x if activation is None else activated(activation, x)


def squeeze_excite(
    m, x: jax.Array, features: int, inner: Activation, gate: Activation
) -> jax.Array:
    """Return the maps, each multiplied by a gate that is computed from the means of all maps."""
    squeeze = conv(features, 1, kernel_init=he_normal(), name="squeeze")
    excite = conv(x.shape[-1], 1, name="excite")
    means = x.mean((1, 2), keepdims=True)
    y = inner(m(squeeze, means))
    return x * gate(m(excite, y))


def inverted_residual(
    features: int,
    wide: int,
    size: int,
    strides: int,
    activation: Activation,
    *,
    name: str,
    excite: Callable | None = None,
    drop: float = 0.0,
    **norm,
) -> Layer:
    """Return a 1x1 convolution to many maps, a depthwise one, and a 1x1 convolution back to few.

    Added to the input if the shapes agree. `excite(m, y)` comes after the depthwise convolution,
    and `drop` is the rate of dropped paths.
    """
    options = {"activation": activation, **norm}

    def forward(m, x):
        y = x
        if wide != x.shape[-1]:
            y = unit(m, y, wide, name="expand", **options)
        y = unit(m, y, wide, size, strides, name="depthwise", groups=wide, **options)
        if excite is not None:
            y = excite(m, y)
        y = unit(m, y, features, name="project", activation=None, **norm)
        return added(m, x, y, strides, drop)

    return compose(forward, name=name, kind="inverted_residual")


def added(m, x: jax.Array, y: jax.Array, strides: int, drop: float) -> jax.Array:
    """Return x + y, with y dropped at a rate, or y alone if it has another shape."""
    if strides != 1 or x.shape != y.shape:
        return y
    return x + m(drop_path(drop), y)
