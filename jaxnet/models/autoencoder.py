"""Autoencoders: an encoder, a decoder, and the code between them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, PyTree, compose, param_dtype, serial, stateless
from jaxnet.initializers import Initializer, glorot_uniform, zeros
from jaxnet.layers.dense import dense


def code(z: PyTree) -> PyTree:
    """Passes on what the encoder gives; observers find the code under this name.

    Example:
      >>> code(3)
      3
    """
    return z


def autoencoder(
    encoder: Layer | Callable, decoder: Layer | Callable, *, name: str = "autoencoder"
) -> Layer:
    """decoder(encoder(x)): the output is the reconstruction, of the shape of x.

    The parts stay layers of their own: `encoder.apply(params["encoder"], {}, x)` gives the code of
    a trained net, `decoder.apply(params["decoder"], {}, z)` draws what a code stands for (with
    state, such as batch norm's, `state["encoder"]` in place of `{}`). A deep autoencoder has two
    perceptrons as its parts.

    Args:
      encoder: x to code, such as `jn.serial(jn.dense(30), jax.nn.sigmoid)` or
        `jn.models.mlp([200, 30])`.
      decoder: code to x.
      name: of the model. Its layers are encoder and decoder, whatever they were called.

    Raises:
      ValueError: where the reconstruction has not the shape of x.

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
    encoder, decoder = _named(encoder, "encoder"), _named(decoder, "decoder")

    def forward(m, x):
        y = m(decoder, m(code, m(encoder, x)))
        if jnp.shape(y) != jnp.shape(x):
            raise ValueError(
                f"{name}: the reconstruction must have the shape of x, {jnp.shape(x)}, got "
                f"{jnp.shape(y)}; let the decoder end in that shape, for images with "
                "lambda y: y.reshape(-1, height, width, channels)"
            )
        return y

    return compose(forward, name=name)


def tied_autoencoder(
    features: int,
    activation: Layer | Callable = jax.nn.sigmoid,
    output: Layer | Callable | None = None,
    *,
    kernel_init: Initializer = glorot_uniform(),
    decoder_bias_init: Initializer = zeros,
    name: str = "tied_autoencoder",
) -> Layer:
    """output(z @ kernel.T + c) of the code z = activation(x @ kernel + b): one kernel both ways.

    Half the weights of the plain form, and a code that cannot hide in small encoder weights beside
    large decoder weights. `jn.serial(jn.dense(features, name="encoder"), activation)` with
    `{"encoder": params["encoder"]}` is the trained encoder by itself.

    Args:
      features: size of the code, at least 1.
      activation: of the code.
      output: of the reconstruction: none by default, `jax.nn.sigmoid` for x in [0, 1].
      kernel_init: draws the kernel.
      decoder_bias_init: draws the decoder's bias; where x has a mean far from 0, begin with it.
      name: of the model. Its layers are encoder and decoder.

    Params:
      encoder/kernel (inputs, features), encoder/bias (features,), decoder/bias (inputs,).

    Raises:
      ValueError: where features is below 1, or the input is not (batch, inputs).

    Example:
      >>> net = tied_autoencoder(30)
      >>> params, state = net.init(jax.random.key(0), jn.spec((5, 64)))
      >>> jax.tree.map(jnp.shape, params)
      {'decoder': {'bias': (64,)}, 'encoder': {'bias': (30,), 'kernel': (64, 30)}}

    Reference: Vincent et al. 2010, "Stacked Denoising Autoencoders", section 2.2.
    """
    encoder = dense(features, kernel_init=kernel_init, name="encoder")
    decoder = stateless(
        lambda key, y: {"bias": decoder_bias_init(key, y.shape[1:], param_dtype(y))},
        lambda params, y: y + params["bias"],
        name="decoder",
    )

    def forward(m, x):
        if len(jnp.shape(x)) != 2:
            raise ValueError(
                f"{name}: needs (batch, inputs), got {jnp.shape(x)}; "
                "for images write x.reshape(len(x), -1)"
            )
        y, transposed = jax.vjp(lambda x: m(encoder, x), x)  # what a dense layer pulls back: @ W.T
        z = m(code, m(activation, y))
        (y,) = transposed(z.astype(y.dtype))  # (batch, features) -> (batch, inputs)
        y = m(decoder, y)
        return y if output is None else m(output, y)

    return compose(forward, name=name)


def _named(layer: Layer | Callable, name: str) -> Layer:
    return layer._replace(name=name) if isinstance(layer, Layer) else serial(layer, name=name)
