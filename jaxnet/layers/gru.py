"""The gated recurrent unit: the layer and its cell."""

from jaxnet.core import Layer
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.layers.recurrent import Recurrence, orthogonal_blocks, recurrent
from jaxnet.ops.recurrence import GRU, RESET_BEFORE
from jaxnet.services.checks import check_options
from jaxnet.services.checks.keywords import explain_keywords

# A different kind, so that weight import does not mistake it for PyTorch's GRU, whose params have
# the same shapes.
OTHER_KIND = "gru_cell_of_the_paper"


@explain_keywords
def gru(
    features: int,
    *,
    use_bias: bool = True,
    reset_after: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = zeros,
    name: str = "gru",
) -> Layer:
    """Run a gated recurrent unit, with a reset gate r, an update gate u and a candidate n.

        a_r, a_u, a_n = x_t @ kernel + bias, split into three
        b_r, b_u, b_n = h_{t-1} @ recurrent_kernel, split into three
        r, u = sigmoid(a_r + b_r), sigmoid(a_u + b_u)
        n = tanh(a_n + r * (b_n + recurrent_bias))
        h_t = (1 - u) * n + u * h_{t-1}

    The reset gate acts after the product, as in PyTorch, cuDNN and Flax. In the paper it acts
    before, n = tanh(a_n + (r * h_{t-1}) @ recurrent_kernel_n): a different function, which
    `reset_after=False` gives, with a second product per step and without recurrent_bias. It trains
    more slowly, since it lacks a fast loop here.

    The input is a sequence: x, (x, lengths), or a dict of x, lengths and initial. The output has
    the form of the input, and a dict also has "final", the carry after each sequence's last step.
    The carry is h, (batch, features), and starts from "initial" or zeros. The gates are in
    PyTorch's order; its two biases of r and u are summed in `bias`.

    Args:
      features: Number of outputs, at least 1.
      use_bias: Whether to add both biases.
      reset_after: Whether the reset gate acts after the product; see above.
      kernel_init: Initializer of the kernel.
      recurrent_init: Initializer of the recurrent kernel; one orthogonal matrix per gate by
        default.
      bias_init: Initializer of the biases.
      name: Name of the layer.

    Params:
      kernel (inputs, 3 * features); recurrent_kernel (features, 3 * features);
      bias (3 * features,); recurrent_bias (features,), unless reset_after=False.

    Returns:
      A layer from a sequence (batch, time, inputs) to (batch, time, features), in the form of its
      input.

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input is not (batch, time, features), or does not have steps.
      ValueError: If lengths do not fit. Under jit, a sequence of such a length is NaN.
      ValueError: If the initial carry has the wrong shape.

    Example:
      >>> layer = gru(4)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> y, _ = layer.apply(params, state, jnp.ones((2, 5, 3)))
      >>> y.shape, params["kernel"].shape
      ((2, 5, 4), (3, 12))

    Reference: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder".
    """
    options = (use_bias, kernel_init, recurrent_init, bias_init, name)
    check_options(name, reset_after=reset_after)
    if reset_after:
        return Recurrence(GRU, features, *options).layer("gru")
    cell = Recurrence(RESET_BEFORE, features, *options).step(OTHER_KIND)
    return recurrent(cell, name=name).replace(kind="gru")


def gru_cell(
    features: int,
    *,
    use_bias: bool = True,
    reset_after: bool = True,
    kernel_init: Initializer = lecun_normal(),
    recurrent_init: Initializer = orthogonal_blocks,
    bias_init: Initializer = zeros,
    name: str = "gru",
) -> Layer:
    """Make one step of `gru` with the same params: (h, x_t) -> (h, y_t), where y_t = h.

    The carry of the input may be None, which is zeros.

    Args:
      features, use_bias, reset_after, kernel_init, recurrent_init, bias_init: Options of `gru`.
      name: Name of the layer; by default the name of `gru`, so that both have params of one name.

    Returns:
      A layer from (h, x_t), (batch, features) and (batch, inputs), to (h, y_t), both (batch,
      features).

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If x is not (batch, inputs), or h does not fit.

    Example:
      >>> params, state = gru(4).init(jax.random.key(0), jn.spec((2, 5, 3)))
      >>> (h, y), _ = gru_cell(4).apply(params, state, (None, jnp.ones((2, 3))))
      >>> h.shape, y.shape
      ((2, 4), (2, 4))
    """
    options = (use_bias, kernel_init, recurrent_init, bias_init, name)
    check_options(name, reset_after=reset_after)
    cell, kind = (GRU, "gru_cell") if reset_after else (RESET_BEFORE, OTHER_KIND)
    return Recurrence(cell, features, *options).step(kind)
