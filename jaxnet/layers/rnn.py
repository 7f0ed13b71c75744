"""The simple recurrent layer and its cell."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxnet.core import Layer
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.layers.recurrent import Recurrence, orthogonal_blocks
from jaxnet.ops.recurrence import simple_cell
from jaxnet.services.checks import a_function
from jaxnet.services.checks.keywords import explain_keywords


@explain_keywords
def rnn(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = zeros,
    name: str = "rnn",
) -> Layer:
    """Run a simple recurrence: h_t = activation(x_t @ kernel + h_{t-1} @ recurrent_kernel + bias).

    The input is a sequence: x, (x, lengths), or a dict of x, lengths and initial. The output has
    the form of the input, and a dict also has "final", the carry after each sequence's last step.
    The carry is h, (batch, features), and starts from "initial" or zeros.

    Args:
      features: Number of outputs, at least 1.
      activation: Function of an array that keeps its shape.
      use_bias: Whether to add a bias.
      kernel_init: Initializer of the kernel.
      recurrent_init: Initializer of the recurrent kernel; orthogonal by default, so that a fresh
        layer neither shrinks nor grows the carry.
      bias_init: Initializer of the bias.
      name: Name of the layer.

    Params:
      kernel (inputs, features); recurrent_kernel (features, features); bias (features,).

    Returns:
      A layer from a sequence (batch, time, inputs) to (batch, time, features), in the form of its
      input.

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input is not (batch, time, features), or does not have steps.
      ValueError: If lengths do not fit. Under jit, a sequence of such a length is NaN.
      ValueError: If the initial carry has the wrong shape.

    Example:
      >>> layer = rnn(4)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> y, _ = layer.apply(params, state, jnp.ones((2, 5, 3)))
      >>> y.shape
      (2, 5, 4)

      With a readout, o_t = sigmoid(h_t @ V + b):

      >>> net = jn.serial(rnn(4, activation=jax.nn.sigmoid), jn.dense(7), jax.nn.sigmoid)
      >>> jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 5, 3)))[0]["dense"]["bias"].shape
      (7,)

    Reference: Elman 1990, "Finding Structure in Time".
    """
    a_function(name, "activation", activation, "an array")
    options = (use_bias, kernel_init, recurrent_init, bias_init, name)
    return Recurrence(simple_cell(activation), features, *options).layer("rnn")


def rnn_cell(
    features: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = zeros,
    name: str = "rnn",
) -> Layer:
    """Make one step of `rnn` with the same params: (h, x_t) -> (h, y_t), where y_t = h.

    The carry of the input may be None, which is zeros.

    Args:
      features, activation, use_bias, kernel_init, recurrent_init, bias_init: Options of `rnn`.
      name: Name of the layer; by default the name of `rnn`, so that both have params of one name.

    Returns:
      A layer from (h, x_t), (batch, features) and (batch, inputs), to (h, y_t), both (batch,
      features).

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If x is not (batch, inputs), or h does not fit.

    Example:
      >>> params, state = rnn(4).init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> (h, y), _ = rnn_cell(4).apply(params, state, (None, jnp.ones((2, 3))))
      >>> h.shape, y.shape
      ((2, 4), (2, 4))
    """
    a_function(name, "activation", activation, "an array")
    options = (use_bias, kernel_init, recurrent_init, bias_init, name)
    return Recurrence(simple_cell(activation), features, *options).step("rnn_cell")
