"""Features from the data themselves: centroids of k-means, or examples drawn at random.

`kmeans` and `random_vectors` give vectors (features, inputs) that look like examples; `fit_kmeans`
and `fit_random_vectors` make kernels of a dense layer of them, `fit_rbf_centres` the centres of an
`rbf` layer.
"""

from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, child_key, param_dtype, stateless
from jaxnet.initializers import normal
from jaxnet.progress import progress_bar
from jaxnet.unsupervised.check import check_examples, check_scale, scaled

CHUNK = 1024  # examples whose distances are in memory at a time
SEEDING = 10_000  # examples that k-means++ looks at; or 20 a centroid, where that is more


class Vectors(Protocol):
    """(key, x, features) -> (features, inputs)."""

    def __call__(self, key: jax.Array, x: Any, features: int, /) -> jax.Array: ...


def random_vectors(key: jax.Array, x: Any, features: int) -> jax.Array:
    """Examples drawn at random, none twice.

    Args:
      key: the same key gives the same examples.
      x: (n, inputs), not NaN.
      features: how many, 1 to n.

    Returns:
      (features, inputs).

    Raises:
      ValueError: for another shape, no data, a NaN, or more features than examples.

    Example:
      >>> rows = random_vectors(jax.random.key(0), np.arange(10.0).reshape(5, 2), 5)
      >>> sorted(rows[:, 0].tolist())
      [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    x = check_examples(x, features, "random_vectors", limit=0)
    return x[jax.random.choice(key, len(x), (features,), replace=False)]


def kmeans(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    iterations: int = 100,
    tolerance: float = 1e-4,
    progress: bool = True,
) -> jax.Array:
    """Centroids: each the mean of the examples that are nearest to it.

    Starts by k-means++, each centroid an example drawn by its squared distance to those before it,
    then goes back and forth between examples and means (Lloyd), which ends in a local minimum of
    the inertia, the sum of squared distances. Another key ends in another: take the best of some by
    `nearest`. A centroid without examples moves to the example that is farthest from its own.

    Args:
      key: the same key and data give the same centroids.
      x: (n, inputs), not NaN.
      features: centroids, 1 to n.
      iterations: at most so many rounds of Lloyd, at least 1.
      tolerance: ends where a round lowers the inertia by less than this share.
      progress: whether a bar runs.

    Returns:
      (features, inputs).

    Raises:
      ValueError: for another shape, no data, a NaN, more features than examples, or iterations
        below 1.

    Example:
      >>> x = np.array([[0.0, 0], [0, 2], [9, 9], [9, 7], [9, 8]])
      >>> centroids = kmeans(jax.random.key(0), x, 2)
      >>> sorted(centroids.tolist())
      [[0.0, 1.0], [9.0, 8.0]]
      >>> _, squared = nearest(centroids, x)
      >>> squared.tolist()
      [1.0, 1.0, 1.0, 1.0, 0.0]

    Reference: Lloyd 1982, "Least squares quantization in PCM"; Arthur and Vassilvitskii 2007,
    "k-means++: the advantages of careful seeding".
    """
    if iterations < 1:
        raise ValueError(f"kmeans: iterations must be at least 1, got {iterations}")
    x = check_examples(x, features, "kmeans", limit=0)
    mean = x.mean(0)
    x = x - mean  # squares of small numbers keep more of their digits
    few = max(SEEDING, 20 * features)
    some = x
    if len(x) > few:
        some = x[jax.random.choice(child_key(key, "some"), len(x), (few,), replace=False)]
    centroids = _plus_plus(child_key(key, "seeds"), some, features)
    last = np.inf
    with progress_bar(iterations, "k-means", progress) as bar:
        for _ in range(iterations):
            better, inertia = _lloyd(centroids, x)
            bar.update(1)
            if float(inertia) > last:  # an empty one that moved, or rounding
                break
            centroids = better
            if last - float(inertia) <= tolerance * float(inertia):
                break
            last = float(inertia)
    return centroids + mean


def nearest(centroids: jax.Array, x: Any) -> tuple[jax.Array, jax.Array]:
    """The nearest centroid of each example, and the squared distance to it.

    Args:
      centroids: (features, inputs).
      x: (n, inputs).

    Returns:
      Numbers of the centroids (n,) int32, and squared distances (n,), whose sum is the inertia.

    Raises:
      ValueError: for another shape, no data, or a NaN.

    Example:
      >>> nearest(jnp.array([[0.0, 0], [3, 4]]), jnp.array([[3.0, 3], [0, 0]]))
      (Array([1, 0], dtype=int32), Array([1., 0.], dtype=float32))
    """
    x = check_examples(x, 1, "nearest")
    if jnp.ndim(centroids) != 2 or centroids.shape[1] != x.shape[1]:
        raise ValueError(
            f"nearest: centroids must be (features, {x.shape[1]}), got {jnp.shape(centroids)}"
        )
    return _nearest(jnp.asarray(centroids), x)


def fit_kmeans(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    scale: float | None = 1.0,
    iterations: int = 100,
    progress: bool = True,
) -> Params:
    """Centroids as params of `jn.dense(features)`: the largest output is the nearest centroid.

    ‖x − c‖² = ‖x‖² − 2 (x·c − ½‖c‖²), so with kernel c and bias −½‖c‖² the outputs are in the
    reverse order of the distances. That stays so where the mean of x is taken from x and c first,
    and all outputs are multiplied by one number and moved by another. `scale` makes use of it: the
    outputs get mean 0 and this standard deviation over x, so that sigmoid or relu may follow and
    fine-tuning finds neither dead nor saturated units.

    Args:
      key: the same key and data give the same params.
      x: (n, inputs), not NaN.
      features: centroids, 1 to n.
      scale: standard deviation of the outputs over x, positive. None leaves the centroids as they
        are: the kernel's columns.
      iterations: see `kmeans`.
      progress: whether a bar runs.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: as `kmeans`, or for a scale that is not positive.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (50, 3))
      >>> params = fit_kmeans(jax.random.key(1), x, 4, scale=None)
      >>> y, _ = jn.dense(4).apply(params, {}, x)
      >>> index, _ = nearest(params["kernel"].T, x)
      >>> bool((y.argmax(1) == index).all())
      True

    Reference: Coates, Lee and Ng 2011, "An analysis of single-layer networks in unsupervised
    feature learning"; Coates and Ng 2012, "Learning feature representations with k-means".
    """
    check_scale(scale, "fit_kmeans")
    x = check_examples(x, features, "fit_kmeans", limit=0)
    centroids = kmeans(key, x, features, iterations=iterations, progress=progress)
    if scale is None:
        return {"kernel": centroids.T, "bias": -(centroids**2).sum(1) / 2}
    mean = x.mean(0)
    kernel = (centroids - mean).T
    return scaled(kernel, -mean @ kernel - (kernel**2).sum(0) / 2, x, scale)


def fit_random_vectors(
    key: jax.Array, x: Any, features: int, *, scale: float | None = 1.0
) -> Params:
    """Examples drawn at random, as params of `jn.dense(features)`.

    The mean of x is taken from each, and each brought to one length: an output says how much x
    points where that example does. What is learned is nothing; it is what others are compared with.

    Args:
      key: the same key and data give the same examples.
      x: (n, inputs), not NaN.
      features: how many, 1 to n.
      scale: standard deviation of the outputs over x, positive; their mean is 0. None leaves the
        examples as they are, neither centred nor of one length, with biases of 0.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: as `random_vectors`, or for a scale that is not positive.

    Example:
      >>> x = jax.random.uniform(jax.random.key(0), (50, 3))
      >>> params = fit_random_vectors(jax.random.key(1), x, 7)
      >>> y, _ = jn.dense(7).apply(params, {}, x)
      >>> bool(jnp.allclose(y.std(), 1, atol=1e-4)), bool(jnp.allclose(y.mean(0), 0, atol=1e-4))
      (True, True)
    """
    check_scale(scale, "fit_random_vectors")
    x = check_examples(x, features, "fit_random_vectors", limit=0)
    rows = random_vectors(key, x, features)
    if scale is None:
        return {"kernel": rows.T, "bias": jnp.zeros(features, x.dtype)}
    mean = x.mean(0)
    kernel = (rows - mean).T
    length = jnp.linalg.norm(kernel, axis=0)
    kernel = kernel / jnp.where(length > 0, length, 1)
    return scaled(kernel, -mean @ kernel, x, scale)


def fit_rbf_centres(
    key: jax.Array, x: Any, features: int, *, method: Vectors = kmeans, overlap: float = 1.0
) -> Params:
    """Centres, and one width for all: params of `jn.rbf(features)`.

    The width is the mean distance from a centre to the one next to it: so where one unit has
    faded, its neighbour is awake, in data of any scale.

    Args:
      key: the same key and data give the same params.
      x: (n, inputs), not NaN.
      features: centres, 1 to n.
      method: `kmeans`, `random_vectors`, or any function `(key, x, features) -> centres`; options
        are bound by `functools.partial`.
      overlap: positive, times that distance is the width.

    Returns:
      {"centres": (features, inputs), "width": ()}.

    Raises:
      ValueError: as `kmeans`, for an overlap that is not positive, or where all centres are one
        point, which has no width.

    Example:
      >>> x = np.array([[0.0, 0], [0, 0], [3, 4], [3, 4]])
      >>> params = fit_rbf_centres(jax.random.key(0), x, 2)
      >>> float(params["width"])
      5.0

    Reference: Moody and Darken 1989, "Fast learning in networks of locally-tuned processing units".
    """
    if not overlap > 0:
        raise ValueError(f"fit_rbf_centres: overlap must be positive, got {overlap}")
    x = check_examples(x, features, "fit_rbf_centres", limit=0)
    centres = method(key, x, features)
    if features > 1:
        # One by one, since (features, features, inputs) would be large.
        away = jax.lax.map(lambda c: jnp.sqrt(((centres - c) ** 2).sum(-1)), centres)
        width = (away + jnp.where(jnp.eye(features, dtype=bool), jnp.inf, 0)).min(1).mean()
    else:  # one centre alone: the usual distance of an example
        width = jnp.sqrt(((x - centres) ** 2).sum(1).mean())
    if not width > 0:
        raise ValueError("fit_rbf_centres: all centres are one point; are the examples all equal?")
    return {"centres": centres, "width": overlap * width}


def triangle(features: int, *, name: str = "triangle") -> Layer:
    """How much nearer than usual each centre is: max(0, mean distance − distance).

    The mean is that over the centres, for each example; so about half of the outputs are 0. The
    soft assignment of Coates, Lee and Ng; with a linear readout better than the nearest alone.

    Args:
      features: centres, at least 1.
      name: of the layer.

    Params:
      centres (features, inputs), drawn from a standard normal distribution; `kmeans` learns them.

    Raises:
      ValueError: where features is below 1, or the input has no feature axis.

    Example:
      >>> x = jnp.array([[0.0, 0]])
      >>> y, _ = triangle(3).apply({"centres": jnp.array([[3.0, 4], [0, 1], [3, 0]])}, {}, x)
      >>> y.tolist()  # distances 5, 1 and 3
      [[0.0, 2.0, 0.0]]

    Reference: Coates, Lee and Ng 2011, "An analysis of single-layer networks in unsupervised
    feature learning".
    """
    if features < 1:
        raise ValueError(f"{name}: features must be at least 1, got {features}")

    def init(key, x):
        if len(x.shape) < 2:
            raise ValueError(f"{name}: needs (batch, ..., features), got {x.shape}")
        return {"centres": normal(1.0)(key, (features, x.shape[-1]), param_dtype(x))}

    def apply(params, x):
        centres = params["centres"]
        square = (x**2).sum(-1, keepdims=True) - 2 * x @ centres.T + (centres**2).sum(1)
        # The root's slope at 0 is infinite, and 0 · inf would be NaN.
        distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        return jnp.maximum(distance.mean(-1, keepdims=True) - distance, 0)

    return stateless(init, apply, name=name)


@partial(jax.jit, static_argnums=2)
def _plus_plus(key: jax.Array, x: jax.Array, features: int) -> jax.Array:
    """Examples drawn one after another by their squared distance to those before; the best of some.

    Several are drawn for each centroid, and the one that leaves the least inertia stays: the greedy
    form, also that of scikit-learn, whose Lloyd ends some percent lower.
    """
    norms = (x**2).sum(1)
    candidates = 2 + int(np.log(features))
    first_key, key = jax.random.split(key)
    first = x[jax.random.randint(first_key, (1,), 0, len(x))]

    def squares(seeds):  # (seeds, inputs) -> (seeds, n)
        products = jnp.matmul(seeds, x.T, precision=jax.lax.Precision.HIGHEST)
        return jnp.maximum((seeds**2).sum(1)[:, None] - 2 * products + norms, 0)

    def draw(square, key):
        # All 0 where there are fewer distinct examples than centroids: then any will do.
        logits = jnp.where(square.max() > 0, jnp.log(square), 0.0)
        seeds = x[jax.random.categorical(key, logits, shape=(candidates,))]
        left = jnp.minimum(square, squares(seeds))  # (candidates, n)
        best = left.sum(1).argmin()
        return left[best], seeds[best]

    keys = jax.random.split(key, features - 1)
    _, others = jax.lax.scan(draw, squares(first)[0], keys)
    return jnp.concatenate([first, others])


def _chunks(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x as (chunks, chunk, inputs), and (chunks, chunk) of 1 for examples and 0 for filling."""
    size = min(CHUNK, len(x))
    count = -(-len(x) // size)
    filled = jnp.pad(x, ((0, count * size - len(x)), (0, 0)))
    real = (jnp.arange(count * size) < len(x)).astype(x.dtype)
    return filled.reshape(count, size, -1), real.reshape(count, size)


def _closest(centroids: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Half the square of the distance, but for the part that is the same for all centroids.
    products = jnp.matmul(x, centroids.T, precision=jax.lax.Precision.HIGHEST)
    index = ((centroids**2).sum(1) / 2 - products).argmin(1)
    return index.astype(jnp.int32), ((x - centroids[index]) ** 2).sum(1)


@jax.jit
def _nearest(centroids: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    middle = centroids.mean(0)
    filled, _ = _chunks(x - middle)
    index, square = jax.lax.map(lambda chunk: _closest(centroids - middle, chunk), filled)
    return index.reshape(-1)[: len(x)], square.reshape(-1)[: len(x)]


@jax.jit
def _lloyd(centroids: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The means of the examples nearest to each centroid, and the inertia before they moved."""
    features = len(centroids)

    def add(sums, chunk):
        x, real = chunk
        index, square = _closest(centroids, x)
        member = jax.nn.one_hot(index, features, dtype=x.dtype) * real[:, None]
        total = jnp.matmul(member.T, x, precision=jax.lax.Precision.HIGHEST)
        return (sums[0] + total, sums[1] + member.sum(0)), square * real

    filled, real = _chunks(x)
    empty = jnp.zeros_like(centroids), jnp.zeros(features, x.dtype)
    (total, count), square = jax.lax.scan(add, empty, (filled, real))
    square = square.reshape(-1)[: len(x)]
    _, farthest = jax.lax.top_k(square, features)
    spare = x[farthest[jnp.cumsum(count == 0) - 1]]  # another one for each that is empty
    moved = jnp.where(count[:, None] > 0, total / jnp.maximum(count, 1)[:, None], spare)
    return moved, square.sum()
