"""Dense layer: every output depends on every input."""

from jaxnet.core import Layer, compose
from jaxnet.initializers import Initializer, lecun_normal, zeros
from jaxnet.ops.product import add_bias, product
from jaxnet.services.checks import at_least, check_options, check_rank
from jaxnet.services.checks.keywords import explain_keywords


@explain_keywords
def dense(
    features: int,
    *,
    use_bias: bool = True,
    kernel_init: Initializer = lecun_normal(),
    bias_init: Initializer = zeros,
    name: str = "dense",
) -> Layer:
    """Map the last axis affinely: y = x @ kernel + bias.

    Args:
      features: Number of outputs, at least 1.
      use_bias: Whether to add a bias; it is not needed just before batch norm.
      kernel_init: Initializer of the kernel; the default keeps the variance of the activations near
        1 [LeCun et al. 1998, "Efficient BackProp", 4.6].
      bias_init: Initializer of the bias, zeros by default.
      name: Name of the layer.

    Params:
      kernel (inputs, features); bias (features,).

    Returns:
      A layer from (..., inputs) to (..., features).

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> layer = dense(2)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((5, 3)))
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (2,), 'kernel': (3, 2)}
      >>> params = {"kernel": jnp.array([[1.0, 0], [0, 2], [3, 0]]), "bias": jnp.array([0.5, 0])}
      >>> y, state = layer.apply(params, state, jnp.array([[1.0, 2, 3]]))
      >>> y.tolist()  # 1 * 1 + 3 * 3 + 0.5, and 2 * 2
      [[10.5, 4.0]]
    """
    at_least(name, "features", features)
    check_options(name, use_bias=use_bias, kernel_init=kernel_init, bias_init=bias_init)

    def forward(m, x):
        check_rank(name, x, 2)
        y = product(x, m.kernel("kernel", kernel_init, (x.shape[-1], features)))
        return add_bias(y, m.param("bias", bias_init, (features,)) if use_bias else None)

    return compose(forward, name=name, kind="dense")
