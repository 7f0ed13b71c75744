"""The multi-layer perceptron."""

from collections.abc import Callable, Sequence

import jax

from jaxnet import Layer, dense, flatten, serial
from jaxnet.initializers import Initializer, he_normal


def mlp(
    features: Sequence[int],
    activation: Layer | Callable = jax.nn.relu,
    *,
    kernel_init: Initializer = he_normal(),
    name: str = "mlp",
) -> Layer:
    """Make dense layers with an activation between them, but not after the last.

    Each example is flattened first, so images need not be reshaped. The outputs are logits, which
    the losses of optax expect. A single size is a linear model: `mlp([10])` with a cross-entropy is
    softmax regression.

    Args:
      features: Number of outputs of each layer, in order; the last is the number of classes or
        targets.
      activation: A function or layer, such as `jax.nn.relu` or `jnp.tanh`.
      kernel_init: Initializer of the kernels of all layers but the last. The default suits ReLU;
        for tanh or sigmoid pass `jaxnet.initializers.glorot_uniform()`.
      name: Name of the model. Its layers are dense, dense_1, ..., and output, the last one.

    Returns:
      A layer from (batch, ...) to (batch, features[-1]).

    Raises:
      ValueError: If `features` is empty or has an entry below 1.

    Example:
      >>> net = mlp([100, 30, 10])
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 28, 28, 1)))
      >>> jax.tree.map(jnp.shape, params)["dense"]
      {'bias': (100,), 'kernel': (784, 100)}
      >>> y, _ = net.apply(params, state, jnp.ones((2, 28, 28, 1)))
      >>> y.shape
      (2, 10)

    Reference: Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating
    errors"; the initial kernels: He et al. 2015, "Delving Deep into Rectifiers".
    """
    if not isinstance(features, tuple | list) or not features:
        raise ValueError(
            f"{name}: features must be one size per layer, such as [100, 10], got {features}"
        )
    layers: list[Layer | Callable] = [flatten()]
    *hidden, last = features
    for size in hidden:
        layers += [dense(size, kernel_init=kernel_init), activation]
    output = dense(last, name="output")
    return serial(*layers, output, name=name).replace(kind="mlp")
