"""Long short-term memory: the layer and its cell."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer
from jaxnet.initializers import Initializer, lecun_normal
from jaxnet.layers.recurrent import Recurrence, orthogonal_blocks
from jaxnet.ops.recurrence import LSTM
from jaxnet.services.checks import on_device
from jaxnet.services.checks.keywords import explain_keywords


def forget_bias(value: float = 1.0) -> Initializer:
    """Return an initializer of an LSTM bias: `value` at the forget gate and 0 elsewhere.

    With 1, a new layer keeps its memory over many steps, and gradients flow back through them [Gers
    et al. 2000; Jozefowicz et al. 2015].

    Args:
      value: Bias of the forget gate.

    Example:
      >>> forget_bias(1.0)(jax.random.key(0), (8,)).tolist()
      [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    def init(key, shape, dtype=jnp.float32):
        gate = np.repeat([0, value, 0, 0], shape[0] // 4)
        return on_device(gate.astype(jax.dtypes.canonicalize_dtype(dtype)))

    return init


@explain_keywords
def lstm(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = forget_bias(1.0),
    name: str = "lstm",
) -> Layer:
    """Run a long short-term memory (LSTM), whose gates control what its memory c keeps.

        i, f, g, o = x_t @ kernel + h_{t-1} @ recurrent_kernel + bias, split into four
        c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
        h_t = sigmoid(o) * tanh(c_t)

    The input is a sequence: x, (x, lengths), or a dict of x, lengths and initial. The output has
    the form of the input, and a dict also has "final", the carry after each sequence's last step.
    The carry is {"c": c, "h": h}, each (batch, features), and starts from "initial" or zeros. The
    gates are in PyTorch's order; the bias is the sum of PyTorch's two biases.

    Args:
      features: Number of outputs, at least 1.
      use_bias: Whether to add a bias.
      kernel_init: Initializer of the kernel.
      recurrent_init: Initializer of the recurrent kernel; one orthogonal matrix per gate by
        default.
      bias_init: Initializer of the bias; 1 at the forget gate and 0 elsewhere by default. Flax
        starts from `jaxnet.initializers.zeros`.
      name: Name of the layer.

    Params:
      kernel (inputs, 4 * features); recurrent_kernel (features, 4 * features);
      bias (4 * features,).

    Returns:
      A layer from a sequence (batch, time, inputs) to (batch, time, features), in the form of its
      input.

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input is not (batch, time, features), or does not have steps.
      ValueError: If lengths do not fit. Under jit, a sequence of such a length is NaN.
      ValueError: If the initial carry has the wrong form or shape.

    Example:
      >>> layer = lstm(4)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> x, lengths = jnp.ones((2, 5, 3)), jnp.array([5, 3])
      >>> y, _ = layer.apply(params, state, {"x": x, "lengths": lengths})
      >>> np.asarray(y["x"][1, :, 0]).round(3)  # feature 0 of the second sequence, of three steps
      array([0.113, 0.206, 0.283, 0.   , 0.   ], dtype=float32)
      >>> np.asarray(y["final"]["h"][1]).round(3)
      array([ 0.283,  0.069,  0.514, -0.157], dtype=float32)

    Reference: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; the forget gate: Gers et
    al. 2000, "Learning to Forget".
    """
    options = (use_bias, kernel_init, recurrent_init, bias_init, name)
    return Recurrence(LSTM, features, *options).layer("lstm")


def lstm_cell(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = forget_bias(1.0),
    name: str = "lstm",
) -> Layer:
    """Make one step of `lstm`, with its params: ({"c", "h"}, x_t) -> ({"c", "h"}, y_t), y_t = h.

    The carry of the input may be None, which is zeros.

    Args:
      features, use_bias, kernel_init, recurrent_init, bias_init: Options of `lstm`.
      name: Name of the layer; by default the name of `lstm`, so that both have params of one name.

    Returns:
      A layer from the carry, a dict of two arrays (batch, features), and x_t (batch, inputs)
      to the next carry and y_t (batch, features).

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If x is not (batch, inputs), or the carry does not fit.

    Example:
      Trained on sequences, then run step by step:

      >>> params, state = lstm(4).init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> cell, carry = lstm_cell(4), None
      >>> for _ in range(6):
      ...     (carry, y), _ = cell.apply(params, state, (carry, jnp.ones((2, 3))))
      >>> y.shape, sorted(carry)
      ((2, 4), ['c', 'h'])
    """
    options = (use_bias, kernel_init, recurrent_init, bias_init, name)
    return Recurrence(LSTM, features, *options).step("lstm_cell")
