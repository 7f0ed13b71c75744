"""Compressed sensing: random projections keep distances, and sparse signals can be recovered.

A random projection of n numbers to m almost keeps the distances between any points [Johnson and
Lindenstrauss 1984]. Among all signals with the same projection, a sparse one usually has the
smallest ℓ1 norm: `basis_pursuit` finds it.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import Layer, dense
from jaxnet.initializers import Initializer, variance_scaling
from jaxnet.tools import as_array, at_least, check_options, on_host, within

exact_dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def random_projection(
    features: int,
    *,
    kernel_init: Initializer = variance_scaling(1.0, "fan_out", "normal"),
    name: str = "random_projection",
) -> Layer:
    """Make a fixed number of random combinations of the inputs: y = x @ kernel.

    On average over kernels ‖y‖² = ‖x‖². The number of features that keeps the distances of n points
    to a given fraction does not depend on the number of inputs, see `projection_features`. The
    kernel is an ordinary parameter; `jn.freeze` keeps it fixed in training.

    Args:
      features: Number of outputs, at least 1.
      kernel_init: Any initializer of mean 0 and variance 1 / features; normal by default.
      name: Name of the layer.

    Params:
      kernel (inputs, features), as in `jn.dense` without a bias.

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (40, 3000))
      >>> layer = random_projection(500)
      >>> params, state = layer.init(jax.random.key(1), x)
      >>> y, state = layer.apply(params, state, x)
      >>> y.shape, 0.05 < float(abs(distortion(x, y)).max()) < 0.4
      ((40, 500), True)

    Reference: Johnson and Lindenstrauss 1984, "Extensions of Lipschitz mappings into a Hilbert
    space".
    """
    return dense(features, use_bias=False, kernel_init=kernel_init, name=name).replace(
        kind="random_projection"
    )


def distortion(x: Any, projected: Any) -> np.ndarray:
    """Return the relative change of each squared distance between two points in a projection.

    It is 0 if the distance is kept, and 0.1 if its square has grown by a tenth. It is computed on
    the host in float64.

    Args:
      x: Points (points, inputs), at least two.
      projected: The same points after the projection, (points, features).

    Returns:
      A float64 array (points · (points − 1) / 2,), in the order (0, 1), (0, 2), ...; for two equal
      points, 0 if their projections are equal too, else infinity.

    Raises:
      TypeError: If the arrays have the wrong dtypes.
      ValueError: If the arrays have the wrong shapes.

    Example:
      >>> x = np.array([[0.0, 0, 0], [3, 4, 0], [0, 0, 1]])
      >>> distortion(x, x[:, :2]).round(3).tolist()  # without the last coordinate
      [0.0, -1.0, -0.038]
    """
    from scipy.spatial.distance import pdist

    sizes: dict[str, int] = {}
    x = on_host("distortion", "x", x, "(points, inputs)", sizes=sizes)
    projected = on_host("distortion", "projected", projected, "(points, features)", sizes=sizes)
    if len(x) < 2:
        raise ValueError(f"distortion: x must hold at least two points, got {x.shape}")
    before, after = pdist(x, "sqeuclidean"), pdist(projected, "sqeuclidean")
    same = before == 0
    ratio = after / np.where(same, 1, before)
    return np.where(same, np.where(after == 0, 0, np.inf), ratio - 1)


def projection_features(points: int, distortion: float) -> int:
    """Return how many features keep all squared distances between n points to 1 ± distortion.

    The number is 4 ln n / (ε²/2 − ε³/3). Such a projection exists for at least that many features,
    and a random one with normal entries is one with probability at least 1/n. The number does not
    depend on the inputs, and in practice fewer are enough.

    Args:
      points: Number of points n, at least 2.
      distortion: Largest relative change ε, above 0 and below 1.

    Raises:
      ValueError: If `points` is below 2.
      ValueError: If `distortion` is outside (0, 1).

    Example:
      >>> projection_features(1000, 0.1), projection_features(1000, 0.5)
      (5921, 332)

    Reference: Dasgupta and Gupta 2003, "An elementary proof of a theorem of Johnson and
    Lindenstrauss".
    """
    at_least("projection_features", "points", points, 2)
    within("projection_features", "distortion", distortion, "(0, 1)")
    return math.ceil(4 * math.log(points) / (distortion**2 / 2 - distortion**3 / 3))


def basis_pursuit(
    A: jax.Array, y: jax.Array, steps: int = 500, *, positive: bool = False
) -> jax.Array:
    """Return the x of the smallest ℓ1 norm with A x = y: a sparse signal from few measurements.

    It uses the alternating direction method of multipliers, which alternates between the nearest
    point with A x = y and a soft threshold, proportional to the size of the signal. Once the zero
    entries are found it converges quickly, to the precision of the dtype; near the limit of
    recovery it needs more steps. The result always satisfies A x = y, converged or not. It can be
    jitted and vmapped over matrices; for noisy measurements see
    `jn.unsupervised.sparse_coding.fista`.

    Args:
      A: Matrix (measurements, unknowns), measurements at most unknowns, rows linearly independent.
      y: Measurements (..., measurements) of one signal or several.
      steps: Number of steps, at least 1.
      positive: Whether x is known not to be negative, which takes fewer measurements.

    Returns:
      (..., unknowns).

    Raises:
      TypeError: If dtypes do not fit.
      ValueError: If shapes do not fit.
      ValueError: If `steps` is below 1.

    Example:
      Three nonzero entries in 50, from 20 numbers:

      >>> A = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
      >>> x = np.zeros(50, np.float32)
      >>> x[[7, 11, 30]] = [1, -2, 3]
      >>> bool(jnp.allclose(basis_pursuit(A, A @ x), x, atol=1e-5))
      True

    Reference: Chen, Donoho and Saunders 1998, "Atomic decomposition by basis pursuit"; Boyd et al.
    2011, "Distributed optimization and statistical learning via the alternating direction method of
    multipliers", 6.2.
    """
    sizes: dict[str, Any] = {}
    A = as_array("basis_pursuit", "A", A, "(measurements, unknowns)", "reals", sizes)
    y = as_array("basis_pursuit", "y", y, "(..., measurements)", "reals", sizes)
    if not 0 < A.shape[0] <= A.shape[1]:
        raise ValueError(
            "basis_pursuit: A must be (measurements, unknowns), at least one measurement and no "
            f"more than unknowns, got {A.shape}"
        )
    at_least("basis_pursuit", "steps", steps)
    check_options("basis_pursuit", positive=positive)
    dtype = jnp.result_type(A, y, jnp.float32)
    return _basis_pursuit(A.astype(dtype), y.astype(dtype), int(steps), positive)


@partial(jax.jit, static_argnums=(2, 3))  # a scan outside of jit compiles at every call
def _basis_pursuit(A, y, steps, positive):
    q, _ = jnp.linalg.qr(A.T)  # A = rᵀ qᵀ, q (unknowns, measurements)
    # Computed from q, since two simultaneous calls of LAPACK may hang, see ops/linalg.py.
    r = exact_dot(q.T, A.T)
    rows = y.reshape(-1, y.shape[-1]).T  # (measurements, signals)
    needed = jax.scipy.linalg.solve_triangular(r, rows, trans=1).T.reshape(y.shape)  # qᵀ x

    def nearest(v):
        """Return the nearest point with A x = y."""
        return v + exact_dot(needed - exact_dot(v, q), q.T)

    start = exact_dot(needed, q.T)  # the solution with the smallest Euclidean norm
    threshold = 0.1 * jnp.abs(start).max(-1, keepdims=True)

    def step(carry, _):
        sparse, dual = carry
        x = nearest(sparse - dual)
        moved = x + dual
        sparse = (
            jnp.maximum(moved - threshold, 0)
            if positive
            else moved - jnp.clip(moved, -threshold, threshold)
        )
        return (sparse, dual + x - sparse), None

    (sparse, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start)), length=steps)
    return nearest(sparse)
