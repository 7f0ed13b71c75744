"""An autoencoder with tied weights: the decoder has the transposed kernel of the encoder."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

import jaxnet as jn


def tied_autoencoder(
    features: int,
    activation: jn.Layer | Callable = jax.nn.sigmoid,
    output: jn.Layer | Callable | None = None,
    *,
    kernel_init: jn.typing.Initializer = jn.initializers.glorot_uniform(),
    decoder_bias_init: jn.typing.Initializer = jn.initializers.zeros,
    name: str = "tied_autoencoder",
) -> jn.Layer:
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
      decoder_bias_init: Initializer of the decoder's bias; the mean of x is a good start.
      name: Name of the model. Its layers are encoder and decoder.

    Params:
      encoder/kernel (inputs, features), encoder/bias (features,), decoder/bias (inputs,).

    Reference: Vincent et al. 2010, "Stacked Denoising Autoencoders", section 2.2.
    """
    encoder = jn.dense(features, kernel_init=kernel_init, name="encoder")
    decoder = jn.compose(
        lambda m, y: jn.ops.add_bias(y, m.param("bias", decoder_bias_init, y.shape[1:])),
        name="decoder",
    )

    def forward(m, x):
        if len(jnp.shape(x)) != 2:
            raise ValueError(
                f"{name}: expected an input of shape (batch, inputs), got {jnp.shape(x)}. "
                "For images, pass x.reshape(len(x), -1)"
            )
        y, transposed = jax.vjp(lambda x: m(encoder, x), x)  # the vjp of a dense layer: @ kernel.T
        z = m(jn.models.bottleneck, m(activation, y))
        (y,) = transposed(z.astype(y.dtype))  # (batch, features) -> (batch, inputs)
        y = m(decoder, y)
        return y if output is None else m(output, y)

    return jn.compose(forward, name=name, kind="tied_autoencoder")
