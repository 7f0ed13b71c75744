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
    near = max(by, int(number + by / 2) // by * by)
    return near + by if near < 0.9 * number else near


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
    x = m(batch_norm(name=norm_name or f"{name}_norm", **norm), m(layer, x))
    return x if activation is None else activated(activation, x)


def squeeze_excite(m, x, features: int, inner: Activation, gate: Activation) -> jax.Array:
    """Return the maps, each multiplied by a gate that is computed from the means of all maps."""
    y = x.mean((1, 2), keepdims=True)
    y = inner(m(conv(features, 1, kernel_init=he_normal(), name="squeeze"), y))
    return x * gate(m(conv(x.shape[-1], 1, name="excite"), y))


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
        y = unit(m, x, wide, name="expand", **options) if wide != x.shape[-1] else x
        y = unit(m, y, wide, size, strides, name="depthwise", groups=wide, **options)
        y = y if excite is None else excite(m, y)
        y = unit(m, y, features, name="project", activation=None, **norm)
        return x + m(drop_path(drop), y) if strides == 1 and x.shape == y.shape else y

    return compose(forward, name=name, kind="inverted_residual")
