"""Autoencoders: an encoder, a decoder, and the code between them."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxnet import Layer, compose
from jaxnet.transforms import as_layer
from jaxnet.typing import PyTree


def bottleneck(z: PyTree) -> PyTree:
    """Return z; this layer names the code, so that `jn.tap` and `jn.observe` find it.

    Returns:
      The code z, unchanged.

    Example:
      >>> bottleneck(3)
      3
    """
    return z


def autoencoder(
    encoder: Layer | Callable, decoder: Layer | Callable, *, name: str = "autoencoder"
) -> Layer:
    """Make an autoencoder, decoder(encoder(x)), whose output has the shape of x.

    The parts remain layers: `encoder.apply(params["encoder"], {}, x)` gives the code of a trained
    net, `decoder.apply(params["decoder"], {}, z)` decodes a code (with state, such as batch norm's,
    `state["encoder"]` instead of `{}`). The parts of a deep autoencoder are two `mlp`.

    Args:
      encoder: Layer that maps x to the code, such as `jn.serial(jn.dense(30), jax.nn.sigmoid)` or
        `jn.models.mlp([200, 30])`.
      decoder: Layer that maps the code to x.
      name: Name of the model. Its layers are named encoder and decoder.

    Returns:
      A layer from inputs to reconstructions of their shape.

    Raises:
      ValueError: If the reconstruction does not have the shape of x.

    Example:
      >>> net = autoencoder(jn.models.mlp([200, 30]), jn.models.mlp([200, 784]))
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 784)))
      >>> y, _ = net.apply(params, state, jnp.ones((5, 784)))
      >>> y.shape
      (5, 784)
      >>> z, _ = jn.models.mlp([200, 30]).apply(params["encoder"], {}, jnp.ones((5, 784)))
      >>> z.shape
      (5, 30)

    Reference: Hinton and Salakhutdinov 2006, "Reducing the Dimensionality of Data with Neural
    Networks".
    """
    encoder = as_layer(encoder).replace(name="encoder")
    decoder = as_layer(decoder).replace(name="decoder")

    def forward(m, x):
        y = m(decoder, m(bottleneck, m(encoder, x)))
        if jnp.shape(y) != jnp.shape(x):
            raise ValueError(
                f"{name}: the reconstruction must have the shape of x, {jnp.shape(x)}, got "
                f"{jnp.shape(y)}. For images, end the decoder with "
                "lambda y: y.reshape(-1, height, width, channels)"
            )
        return y

    return compose(forward, name=name, kind="autoencoder")
