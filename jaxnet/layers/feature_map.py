"""Feature maps: inputs lifted to where a linear layer can tell them apart."""

import math

import jax.numpy as jnp

from jaxnet.core import Layer, child_key, param_dtype, stateless
from jaxnet.initializers import Initializer, constant, normal, variance_scaling


def polynomial(degree: int, *, name: str = "polynomial") -> Layer:
    """All products of up to `degree` inputs: x, then x_i x_j with i <= j, and so on.

    n inputs give C(n + degree, degree) - 1 outputs, which grows fast: 64 inputs of degree 2 give
    2,144. The constant is left out, since the layer behind has a bias. The order is that of
    scikit-learn's `PolynomialFeatures(degree, include_bias=False)`.

    Args:
      degree: at least 1; 1 is the identity.
      name: of the layer.

    Raises:
      ValueError: where degree is below 1, or the input has no feature axis.

    Example:
      >>> y, _ = polynomial(2).apply({}, {}, jnp.array([[2.0, 3.0, 5.0]]))
      >>> y.tolist()
      [[2.0, 3.0, 5.0, 4.0, 6.0, 10.0, 9.0, 15.0, 25.0]]
    """
    if degree < 1:
        raise ValueError(f"polynomial: degree must be at least 1, got {degree}")

    def init(key, x):
        _check_input("polynomial", x)
        return {}

    def apply(params, x):
        inputs = x.shape[-1]
        terms = [[x[..., i : i + 1] for i in range(inputs)]]
        for _ in range(degree - 1):
            # terms[-1][i]: the products that begin with x_i; those of one more begin with x_i and
            # go on with what begins with x_i or later.
            rests = [jnp.concatenate(terms[-1][i:], axis=-1) for i in range(inputs)]
            terms.append([x[..., i : i + 1] * rests[i] for i in range(inputs)])
        return jnp.concatenate([term for power in terms for term in power], axis=-1)

    return stateless(init, apply, name=name)


def rbf(
    features: int,
    *,
    width: float = 1.0,
    centres_init: Initializer = normal(1.0),
    name: str = "rbf",
) -> Layer:
    """Radial basis functions: unit i gives exp(-‖x - centre_i‖² / (2 width²)).

    1 at its centre, near 0 a few widths off. Centres drawn at random suit inputs of mean 0 and
    variance 1, and few of those; `jaxnet.unsupervised.fit_rbf_centres` takes centres and width from
    data. Both are trained like any other parameter.

    Args:
      features: number of centres, at least 1.
      width: that all units begin with, positive, in the units of x.
      centres_init: draws the centres.
      name: of the layer.

    Params:
      centres (features, inputs); width ().

    Raises:
      ValueError: where features is below 1, width is not positive, or the input has no feature
        axis.

    Example:
      >>> params = {"centres": jnp.array([[0.0, 0.0], [3.0, 4.0]]), "width": jnp.float32(5.0)}
      >>> y, _ = rbf(2).apply(params, {}, jnp.zeros((1, 2)))
      >>> y.tolist()  # distances 0 and 5: exp(0), exp(-1/2)
      [[1.0, 0.606...]]

    Reference: Broomhead and Lowe 1988, "Multivariable Functional Interpolation and Adaptive
    Networks".
    """
    if features < 1:
        raise ValueError(f"rbf: features must be at least 1, got {features}")
    if not width > 0:
        raise ValueError(f"rbf: width must be positive, got {width}")

    def init(key, x):
        _check_input("rbf", x)
        dtype = param_dtype(x)
        centres = centres_init(child_key(key, "centres"), (features, x.shape[-1]), dtype)
        return {"centres": centres, "width": constant(width)(key, (), dtype)}

    def apply(params, x):
        # Differences, not |x|² - 2xc + |c|², whose digits cancel far from the origin.
        away = x[..., None, :] - params["centres"]  # (..., features, inputs)
        return jnp.exp(-jnp.square(away).sum(-1) / (2 * jnp.square(params["width"])))

    return stateless(init, apply, name=name)


def random_fourier(features: int, bandwidth: float = 1.0, *, name: str = "random_fourier") -> Layer:
    """Random waves, sqrt(2 / features) cos(x @ kernel + bias): products give a Gaussian kernel.

    z(x)·z(y) is exp(-‖x - y‖² / (2 bandwidth²)) in the mean, with an error of about
    1 / sqrt(features): a linear model on z is close to a kernel machine.

    Awkward: the waves are params, so that they are saved with the rest, and an optimizer would
    change them. The paper leaves them as drawn: write `jn.freeze(random_fourier(500, 2.0))`.

    Args:
      features: number of waves, at least 1.
      bandwidth: of the Gaussian kernel, positive, in the units of x.
      name: of the layer.

    Params:
      kernel (inputs, features), normal with deviation 1 / bandwidth; bias (features,), uniform over
      a turn, here from -π to π.

    Raises:
      ValueError: where features is below 1, bandwidth is not positive, or the input has no feature
        axis.

    Example:
      >>> layer = random_fourier(5000, bandwidth=2.0)
      >>> params, _ = layer.init(jax.random.key(0), jn.spec((2, 3)))
      >>> (x, y), _ = layer.apply(params, {}, jnp.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
      >>> 0.57 < float(x @ y) < 0.64  # exp(-1/2) = 0.607
      True

    Reference: Rahimi and Recht 2007, "Random Features for Large-Scale Kernel Machines".
    """
    if features < 1:
        raise ValueError(f"random_fourier: features must be at least 1, got {features}")
    if not bandwidth > 0:
        raise ValueError(f"random_fourier: bandwidth must be positive, got {bandwidth}")
    waves = normal(1 / bandwidth)
    phases = variance_scaling(math.pi**2 / 3, "fan_in", "uniform")  # uniform from -π to π

    def init(key, x):
        _check_input("random_fourier", x)
        dtype = param_dtype(x)
        return {
            "kernel": waves(child_key(key, "kernel"), (x.shape[-1], features), dtype),
            "bias": phases(child_key(key, "bias"), (1, features), dtype).reshape(features),
        }

    def apply(params, x):
        z = x @ params["kernel"] + params["bias"]  # (..., inputs) -> (..., features)
        return math.sqrt(2 / features) * jnp.cos(z)

    return stateless(init, apply, name=name)


def _check_input(who: str, x) -> None:
    if len(x.shape) < 2:
        raise ValueError(f"{who}: needs (batch, ..., features), got {x.shape}")
