"""Feature maps: non-linear features on which a linear layer can separate the classes."""

import math

import jax.numpy as jnp

from jaxnet.core import Layer, compose
from jaxnet.initializers import Initializer, constant, normal, variance_scaling
from jaxnet.ops.precision import output_dtype
from jaxnet.ops.product import add_bias, broadcast, product
from jaxnet.services.checks import at_least, check_options, check_rank, within


def polynomial(degree: int, *, name: str = "polynomial") -> Layer:
    """Multiply up to `degree` inputs: x, then x_i x_j with i <= j, and so on.

    n inputs give C(n + degree, degree) - 1 outputs, which grows fast: 64 of degree 2 give 2,144.
    A constant is left out, since the next layer has a bias. The order is the same as in
    scikit-learn's `PolynomialFeatures(degree, include_bias=False)`. Integers become float32.

    Args:
      degree: Largest degree, at least 1; 1 is the identity.
      name: Name of the layer.

    Returns:
      A layer from (..., inputs) to the products, (..., outputs).

    Raises:
      ValueError: If `degree` is below 1.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> y, _ = polynomial(2).apply({}, {}, jnp.array([[2.0, 3.0, 5.0]]))
      >>> y.tolist()
      [[2.0, 3.0, 5.0, 4.0, 6.0, 10.0, 9.0, 15.0, 25.0]]
    """
    at_least(name, "degree", degree)

    def forward(m, x):
        check_rank(name, x, 2)
        at_least(name, "the number of inputs", x.shape[-1])
        # Floats, since products of integers could overflow.
        x = x.astype(output_dtype(x))
        inputs = [x[..., i : i + 1] for i in range(x.shape[-1])]
        terms = list(inputs)
        latest = inputs  # latest[i] holds the products of the last degree that begin with x_i
        for _ in range(degree - 1):
            # The products of the next degree are x_i times those that begin with x_i or a later
            # input.
            rests = [jnp.concatenate(latest[i:], axis=-1) for i in range(len(inputs))]
            latest = [x_i * rest for x_i, rest in zip(inputs, rests, strict=True)]
            terms += latest
        return jnp.concatenate(terms, axis=-1)

    return compose(forward, name=name, kind="polynomial")


def rbf(
    features: int, *, width: float = 1.0, centers_init: Initializer = normal(1.0), name: str = "rbf"
) -> Layer:
    """Compute radial basis functions: unit i gives exp(-‖x - center_i‖² / (2 width²)).

    A unit is 1 at its center and near 0 a few widths away. Random centers suit a few inputs of mean
    0 and variance 1; for others take examples, or the centroids of `jn.unsupervised.kmeans`.
    Centers and width are trained like any other parameter.

    Args:
      features: Number of centers, at least 1.
      width: Initial width of all units, positive, in the units of x.
      centers_init: Initializer of the centers.
      name: Name of the layer.

    Params:
      centers (features, inputs); width ().

    Returns:
      A layer from (..., inputs) to (..., features), with values in (0, 1].

    Raises:
      ValueError: If `features` is below 1, or `width` is not positive.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> params = {"centers": jnp.array([[0.0, 0.0], [3.0, 4.0]]), "width": jnp.float32(5.0)}
      >>> y, _ = rbf(2).apply(params, {}, jnp.zeros((1, 2)))
      >>> y.tolist()  # distances 0 and 5: exp(0), exp(-1/2)
      [[1.0, 0.606...]]

    Reference: Broomhead and Lowe 1988, "Multivariable Functional Interpolation and Adaptive
    Networks".
    """
    at_least(name, "features", features)
    within(name, "width", width, "(0, inf)")
    check_options(name, centers_init=centers_init)

    def forward(m, x):
        check_rank(name, x, 2)
        centers = m.param("centers", centers_init, (features, x.shape[-1]))
        scale = m.param("width", constant(width), ())
        # Computes differences, since |x|² - 2xc + |c|² loses digits far from the origin.
        difference = add_bias(x[..., None, :], -centers)  # (..., features, inputs)
        distance = jnp.square(difference).sum(-1)  # (..., features)
        scale = broadcast(scale, distance.shape)
        return jnp.exp(-distance / (2 * jnp.square(scale)))

    return compose(forward, name=name, kind="rbf")


def random_fourier(features: int, bandwidth: float = 1.0, *, name: str = "random_fourier") -> Layer:
    """Map to random features of a Gaussian kernel: sqrt(2 / features) cos(x @ kernel + bias).

    The expectation of z(x)·z(y) is exp(-‖x - y‖² / (2 bandwidth²)), with an error of about
    1 / sqrt(features): a linear model on z approximates a kernel machine.

    Note: kernel and bias are params, so they are saved with the rest, and an optimizer changes
    them. The paper keeps them fixed: write `jn.freeze(random_fourier(500, 2.0))`.

    Args:
      features: Number of random features, at least 1.
      bandwidth: Width of the Gaussian kernel, positive, in the units of x.
      name: Name of the layer.

    Params:
      kernel (inputs, features), normal with standard deviation 1 / bandwidth; bias (features,),
      uniform from -π to π.

    Returns:
      A layer from (..., inputs) to (..., features).

    Raises:
      ValueError: If `features` is below 1, or `bandwidth` is not positive.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> layer = random_fourier(5000, bandwidth=2.0)
      >>> params, _ = layer.init(jax.random.key(0), jn.spec((2, 3)))
      >>> (x, y), _ = layer.apply(params, {}, jnp.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
      >>> print(f"{x @ y:.2f}, the kernel is {np.exp(-1 / 2):.2f}")
      0.62, the kernel is 0.61

    Reference: Rahimi and Recht 2007, "Random Features for Large-Scale Kernel Machines".
    """
    at_least(name, "features", features)
    within(name, "bandwidth", bandwidth, "(0, inf)")
    waves = normal(1 / bandwidth)
    phases = variance_scaling(math.pi**2 / 3, "fan_in", "uniform")  # uniform from -π to π

    def phases_init(key, shape, dtype):
        return phases(key, (1, features), dtype).reshape(shape)

    def forward(m, x):
        check_rank(name, x, 2)
        kernel = m.kernel("kernel", waves, (x.shape[-1], features), array=True)
        bias = m.param("bias", phases_init, (features,))
        z = add_bias(product(x, kernel), bias)  # (..., inputs) -> (..., features)
        return math.sqrt(2 / features) * jnp.cos(z)

    return compose(forward, name=name, kind="random_fourier")
