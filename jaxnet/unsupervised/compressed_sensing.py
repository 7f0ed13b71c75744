"""Compressed sensing: random projections keep distances, and sparse signals come back from few.

A random projection of n numbers to m keeps the distances between points almost, whatever the points
[Johnson and Lindenstrauss 1984]. A signal with few entries that are not 0 is, among all signals
with the same projection, mostly the one of the smallest ℓ1 norm: `basis_pursuit` finds it.
"""

import math
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer
from jaxnet.initializers import Initializer, normal
from jaxnet.layers.dense import dense
from jaxnet.unsupervised.sparse_coding import EXACT, soft_threshold


def gaussian_entries() -> Initializer:
    """Normal entries of variance 1 / features, for `random_projection`.

    Example:
      >>> kernel = gaussian_entries()(jax.random.key(0), (300, 50))
      >>> 0.95 < float(kernel.var() * 50) < 1.05
      True
    """

    def init(key, shape, dtype=jnp.float32):
        return normal(1 / math.sqrt(shape[-1]))(key, shape, dtype)

    return init


def sign_entries() -> Initializer:
    """Entries ±1 / √features, for `random_projection` [Achlioptas 2003].

    Example:
      >>> kernel = sign_entries()(jax.random.key(0), (300, 25))
      >>> np.unique(kernel).round(6).tolist()
      [-0.2..., 0.2...]
    """

    def init(key, shape, dtype=jnp.float32):
        drawn = normal(1.0)(key, shape, dtype)
        return jnp.where(drawn < 0, -1, 1).astype(drawn.dtype) / math.sqrt(shape[-1])

    return init


def sparse_entries(sparsity: float = 3.0) -> Initializer:
    """Entries that are 0 but for one in `sparsity`, for `random_projection`.

    Those others are ±√(sparsity / features), so that the variance is 1 / features.

    Args:
      sparsity: at least 1; at 3 distances are kept as well as by normal entries.

    Raises:
      ValueError: for a sparsity below 1.

    Example:
      >>> kernel = sparse_entries(3)(jax.random.key(0), (300, 48))
      >>> np.unique(kernel).round(6).tolist()
      [-0.25, 0.0, 0.25]
      >>> 0.31 < float((kernel != 0).mean()) < 0.35
      True

    Reference: Achlioptas 2003, "Database-friendly random projections: Johnson-Lindenstrauss with
    binary coins"; larger sparsities: Li, Hastie and Church 2006, "Very sparse random projections".
    """
    if not sparsity >= 1:
        raise ValueError(f"sparse_entries: sparsity must be at least 1, got {sparsity}")
    beyond = 0.0 if sparsity == 1 else NormalDist().inv_cdf(1 - 1 / (2 * sparsity))

    def init(key, shape, dtype=jnp.float32):
        drawn = normal(1.0)(key, shape, dtype)
        kept = jnp.where(jnp.abs(drawn) >= beyond, jnp.where(drawn < 0, -1, 1), 0)
        return kept.astype(drawn.dtype) * math.sqrt(sparsity / shape[-1])

    return init


def random_projection(
    features: int, entries: Initializer | None = None, *, name: str = "random_projection"
) -> Layer:
    """A fixed number of random combinations of the inputs: y = x @ kernel.

    On average over kernels ‖y‖² = ‖x‖². Whatever the number of inputs, so many features keep the
    distances of n points to a given share: see `projection_features`. The kernel is a parameter
    like any other; `jn.freeze` keeps an optimizer from it.

    Args:
      features: outputs, at least 1.
      entries: `gaussian_entries()`, which is the default, `sign_entries()`, `sparse_entries()` or
        any initializer of mean 0 and variance 1 / features.
      name: of the layer.

    Params:
      kernel (inputs, features), as of `jn.dense` without a bias.

    Raises:
      ValueError: where features is below 1, or the input has no feature axis.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (40, 3000))
      >>> layer = random_projection(500, sparse_entries())
      >>> params, state = layer.init(jax.random.key(1), x)
      >>> y, state = layer.apply(params, state, x)
      >>> y.shape, 0.05 < float(abs(distortion(x, y)).max()) < 0.4
      ((40, 500), True)

    Reference: Johnson and Lindenstrauss 1984, "Extensions of Lipschitz mappings into a Hilbert
    space".
    """
    kernel_init = gaussian_entries() if entries is None else entries
    return dense(features, use_bias=False, kernel_init=kernel_init, name=name)


def distortion(x: Any, projected: Any) -> np.ndarray:
    """How much a projection stretches each squared distance between two points, minus 1.

    0 where it is kept, 0.1 where its square has grown by a tenth. Computed on the host in float64.

    Args:
      x: (points, inputs), at least two.
      projected: (points, features), the same points.

    Returns:
      (points · (points − 1) / 2,), float64, in the order (0, 1), (0, 2), ...; pairs of equal points
      have 0 where their projections are equal too, else infinity.

    Raises:
      ValueError: for other shapes.

    Example:
      >>> x = np.array([[0.0, 0, 0], [3, 4, 0], [0, 0, 1]])
      >>> distortion(x, x[:, :2]).round(3).tolist()  # without the last coordinate
      [0.0, -1.0, -0.038]
    """
    x, projected = np.asarray(x, np.float64), np.asarray(projected, np.float64)
    if x.ndim != 2 or projected.ndim != 2 or len(x) != len(projected) or len(x) < 2:
        raise ValueError(
            "distortion: needs (points, inputs) and (points, features) of the same points, at "
            f"least two, got {x.shape} and {projected.shape}"
        )
    before, after = _squared_distances(x), _squared_distances(projected)
    same = before == 0
    ratio = after / np.where(same, 1, before)
    return np.where(same, np.where(after == 0, 0, np.inf), ratio - 1)


def _squared_distances(x: np.ndarray) -> np.ndarray:
    """(points, inputs) -> (pairs,), row by row, since differences of products would cancel."""
    return np.concatenate([((x[i + 1 :] - x[i]) ** 2).sum(1) for i in range(len(x) - 1)])


def projection_features(points: int, distortion: float) -> int:
    """Features that keep all squared distances of so many points to 1 ± distortion.

    4 ln n / (ε²/2 − ε³/3): with at least that many some projection keeps them, and one of normal
    entries does so with a chance of 1/n at least. It does not depend on the number of inputs, and
    in practice fewer are enough.

    Args:
      points: n, at least 2.
      distortion: ε, above 0 and below 1.

    Raises:
      ValueError: for fewer points, or another distortion.

    Example:
      >>> projection_features(1000, 0.1), projection_features(1000, 0.5)
      (5921, 332)

    Reference: Dasgupta and Gupta 2003, "An elementary proof of a theorem of Johnson and
    Lindenstrauss".
    """
    if points < 2 or not 0 < distortion < 1:
        raise ValueError(
            "projection_features: needs at least 2 points and a distortion between 0 and 1, got "
            f"{points} and {distortion}"
        )
    return math.ceil(4 * math.log(points) / (distortion**2 / 2 - distortion**3 / 3))


def basis_pursuit(
    A: jax.Array, y: jax.Array, steps: int = 500, *, positive: bool = False
) -> jax.Array:
    """The x of the smallest ℓ1 norm with A x = y: a sparse signal from few measurements.

    By the alternating direction method of multipliers: in turn the nearest point with A x = y and
    a soft threshold, whose size follows the signal's. Once it has found which entries are 0 it
    converges quickly, to the precision of the dtype; at the edge of what can be recovered it takes
    more steps. What comes back has A x = y always, whether it has converged or not. Can be jitted
    and vmapped over matrices; for noisy measurements see `fista`.

    Args:
      A: (measurements, unknowns), measurements at most unknowns, rows linearly independent.
      y: (..., measurements), one signal or several.
      steps: at least 1.
      positive: whether x is known not to be negative; it then takes fewer measurements.

    Returns:
      (..., unknowns).

    Raises:
      ValueError: for shapes that do not fit, or steps below 1.

    Example:
      Three entries in 50, from 20 numbers:

      >>> A = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
      >>> x = np.zeros(50, np.float32)
      >>> x[[7, 11, 30]] = [1, -2, 3]
      >>> bool(jnp.allclose(basis_pursuit(A, A @ x), x, atol=1e-5))
      True

    Reference: Chen, Donoho and Saunders 1998, "Atomic decomposition by basis pursuit"; Boyd et al.
    2011, "Distributed optimization and statistical learning via the alternating direction method of
    multipliers", 6.2.
    """
    A, y = jnp.asarray(A), jnp.asarray(y)
    if A.ndim != 2 or A.shape[0] > A.shape[1] or y.ndim < 1 or y.shape[-1] != A.shape[0]:
        raise ValueError(
            "basis_pursuit: needs A (measurements, unknowns), no more measurements than unknowns, "
            f"and y (..., measurements), got {A.shape} and {y.shape}"
        )
    if steps < 1:
        raise ValueError(f"basis_pursuit: steps must be at least 1, got {steps}")
    dtype = jnp.result_type(A, y, jnp.float32)
    q, r = jnp.linalg.qr(A.T.astype(dtype))  # A = rᵀ qᵀ, q (unknowns, measurements)
    rows = y.reshape(-1, y.shape[-1]).astype(dtype).T  # (measurements, signals)
    needed = jax.scipy.linalg.solve_triangular(r, rows, trans=1).T  # what qᵀ x must be
    needed = needed.reshape(y.shape)

    def dot(a, b):
        return jnp.matmul(a, b, precision=EXACT)

    def nearest(v):
        """The nearest point with A x = y."""
        return v + dot(needed - dot(v, q), q.T)

    start = dot(needed, q.T)  # of least Euclidean norm
    threshold = 0.1 * jnp.abs(start).max(-1, keepdims=True)

    def step(carry, _):
        sparse, dual = carry
        x = nearest(sparse - dual)
        sparse = soft_threshold(x + dual, threshold, positive=positive)
        return (sparse, dual + x - sparse), None

    (sparse, _), _ = jax.lax.scan(step, (start, jnp.zeros_like(start)), length=steps)
    return nearest(sparse)
