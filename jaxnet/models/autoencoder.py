"""Autoencoders: an encoder, a decoder, and the code between them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, as_layer, compose
from jaxnet.initializers import Initializer, glorot_uniform, zeros
from jaxnet.layers.dense import dense
from jaxnet.ops.product import plus
from jaxnet.services.checks import check_options
from jaxnet.services.trees import PyTree


def code(z: PyTree) -> PyTree:
    """Return z; this layer names the code, so that `jn.tap` and `jn.observe` find it.

    Example:
      >>> code(3)
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
    encoder = as_layer(encoder)._replace(name="encoder")
    decoder = as_layer(decoder)._replace(name="decoder")

    def forward(m, x):
        y = m(decoder, m(code, m(encoder, x)))
        if jnp.shape(y) != jnp.shape(x):
            raise ValueError(
                f"{name}: the reconstruction must have the shape of x, {jnp.shape(x)}, got "
                f"{jnp.shape(y)}. For images, end the decoder with "
                "lambda y: y.reshape(-1, height, width, channels)"
            )
        return y

    return compose(forward, name=name, kind="autoencoder")


def tied_autoencoder(
    features: int,
    activation: Layer | Callable = jax.nn.sigmoid,
    output: Layer | Callable | None = None,
    *,
    kernel_init: Initializer = glorot_uniform(),
    decoder_bias_init: Initializer = zeros,
    name: str = "tied_autoencoder",
) -> Layer:
    """Make an autoencoder whose decoder has the transposed kernel of the encoder.

    z = activation(x @ kernel + b), and the reconstruction is output(z @ kernel.T + c). It has half
    the weights of the plain form, and cannot balance small encoder weights by large decoder
    weights. The trained encoder alone is
    `jn.serial(jn.dense(features, name="encoder"), activation)` with
    `{"encoder": params["encoder"]}`.

    Args:
      features: Size of the code, at least 1.
      activation: Activation of the code.
      output: Activation of the reconstruction: None by default, `jax.nn.sigmoid` for x in [0, 1].
      kernel_init: Initializer of the kernel.
      decoder_bias_init: Initializer of the decoder's bias; the mean of x is a good start if far
        from 0.
      name: Name of the model. Its layers are encoder and decoder.

    Params:
      encoder/kernel (inputs, features), encoder/bias (features,), decoder/bias (inputs,).

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input is not (batch, inputs).

    Example:
      >>> net = tied_autoencoder(30)
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 64)))
      >>> jax.tree.map(jnp.shape, params)
      {'decoder': {'bias': (64,)}, 'encoder': {'bias': (30,), 'kernel': (64, 30)}}

    Reference: Vincent et al. 2010, "Stacked Denoising Autoencoders", section 2.2.
    """
    check_options(name, decoder_bias_init=decoder_bias_init)
    encoder = dense(features, kernel_init=kernel_init, name="encoder")
    decoder = compose(
        lambda m, y: plus(y, m.param("bias", decoder_bias_init, y.shape[1:])), name="decoder"
    )

    def forward(m, x):
        if len(jnp.shape(x)) != 2:
            raise ValueError(
                f"{name}: expected an input of shape (batch, inputs), got {jnp.shape(x)}. "
                "For images, pass x.reshape(len(x), -1)"
            )
        y, transposed = jax.vjp(lambda x: m(encoder, x), x)  # the vjp of a dense layer: @ kernel.T
        z = m(code, m(activation, y))
        (y,) = transposed(z.astype(y.dtype))  # (batch, features) -> (batch, inputs)
        y = m(decoder, y)
        return y if output is None else m(output, y)

    return compose(forward, name=name, kind="tied_autoencoder")
