"""The perceptron and ADALINE: single neurons. Their learning rules are in `jaxnet.training`."""

from jaxnet import Layer, compose, dense
from jaxnet.initializers import Initializer, zeros


def perceptron(
    features: int = 1,
    *,
    kernel_init: Initializer = zeros,
    bias_init: Initializer = zeros,
    name: str = "perceptron",
) -> Layer:
    """Make threshold units: y = 1 if x @ kernel + bias > 0, else 0.

    Note: the gradient of a threshold is 0 everywhere. Train with `jn.training.train_perceptron` or
    `jn.training.perceptron_rule`. Several units are separate perceptrons on one input, one per
    class.

    Args:
      features: Number of units, at least 1.
      kernel_init, bias_init: Initializers; zeros by default, as the bound on the mistakes assumes.
      name: Name of the layer.

    Params:
      kernel (inputs, features); bias (features,).

    Returns:
      A layer from (batch, inputs) to zeros and ones, (batch, features).

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> params = {"kernel": jnp.array([[1.0], [1.0]]), "bias": jnp.array([-1.5])}
      >>> x = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
      >>> y, _ = perceptron().apply(params, {}, x)  # AND
      >>> y[:, 0].tolist()
      [0.0, 0.0, 0.0, 1.0]

    Reference: Rosenblatt 1958, "The Perceptron".
    """
    scores = dense(features, kernel_init=kernel_init, bias_init=bias_init, name=name)

    def forward(m, x):
        z = m._inline(scores, x)
        return (z > 0).astype(z.dtype)

    return compose(forward, name=name, kind="perceptron")


def adaline(
    features: int = 1,
    *,
    kernel_init: Initializer = zeros,
    bias_init: Initializer = zeros,
    name: str = "adaline",
) -> Layer:
    """Make linear units for targets -1 and +1; the class is the sign of the output.

    It is `dense` with zeros for initial params. Its rule, `jn.training.delta_rule`, uses the
    output before the threshold and converges to the least squared error, whether or not the data
    are separable.

    Args:
      features: Number of units, at least 1.
      kernel_init, bias_init: Initializers; zeros by default.
      name: Name of the layer.

    Params:
      kernel (inputs, features); bias (features,).

    Returns:
      A layer from (batch, inputs) to (batch, features).

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> params, _ = adaline().init(jax.random.key(0), jn.spec((5, 3)))
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (1,), 'kernel': (3, 1)}

    Reference: Widrow and Hoff 1960, "Adaptive Switching Circuits".
    """
    layer = dense(features, kernel_init=kernel_init, bias_init=bias_init, name=name)
    return layer.replace(kind="adaline")
