"""Sparse coding: each example as a sum of few atoms of a dictionary.

The codes z of x minimize ½‖x − z D‖² + penalty · ‖z‖₁, where the rows of D are the atoms. `fista`
approaches the minimum in steps, and `fit_dictionary` learns D.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from jaxnet import Layer, child_key, compose
from jaxnet.initializers import normal
from jaxnet.services.checks import all_at_least, check_values, concrete_values
from jaxnet.tools import as_array, check_options, within
from jaxnet.typing import Params
from jaxnet.unsupervised.check import check_fit, standardized

# Products in reduced precision, the default on GPUs, would keep the codes from converging.
_dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def fista(
    dictionary: Any,
    x: Any,
    penalty: Any,
    steps: int = 100,
    *,
    positive: bool = False,
    momentum: bool = True,
) -> jax.Array:
    """Return the codes of examples, by gradient steps with momentum.

    Each step ends with a soft threshold. The distance to the minimum falls as 1 / steps². The
    momentum of an example restarts if it points uphill. A small penalty takes many steps.

    Args:
      dictionary: Dictionary (features, inputs), one atom per row, of any length.
      x: Examples (..., inputs).
      penalty: Number at least 0, or one per feature (features,).
      steps: Number of steps, at least 1.
      positive: Whether codes must not be negative.
      momentum: Whether to use momentum; False is ISTA, whose distance falls as 1 / steps.

    Returns:
      (..., features).

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If a shape does not fit, `steps` is below 1, or a penalty is negative or NaN.

    Example:
      >>> atoms = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
      >>> codes = fista(atoms, 2 * atoms[2], 0.1)  # twice the third atom, less the penalty
      >>> [round(float(code), 3) for code in codes]
      [0.0, 0.0, 1.9]

    Reference: Daubechies, Defrise and De Mol 2004, "An iterative thresholding algorithm for linear
    inverse problems with a sparsity constraint" (ISTA); Beck and Teboulle 2009, "A fast iterative
    shrinkage-thresholding algorithm for linear inverse problems"; O'Donoghue and Candès 2015,
    "Adaptive restart for accelerated gradient schemes".
    """
    sizes: dict[str, Any] = {}
    dictionary = as_array("fista", "dictionary", dictionary, "(features, inputs)", "reals", sizes)
    x = as_array("fista", "x", x, "(..., inputs)", "reals", sizes)
    penalty = _penalty("fista", penalty, len(dictionary))
    all_at_least("fista", steps=steps)
    check_options("fista", positive=positive, momentum=momentum)
    return _fista(dictionary, x, penalty, steps, positive, momentum)


def _penalty(who: str, penalty: Any, features: int) -> Any:
    """Check a number, or numbers (features,), of at least 0."""
    if getattr(penalty, "ndim", 0):
        penalty = as_array(who, "penalty", penalty, "(features,)", "reals", {"features": features})
        values = concrete_values(penalty)
        if values is not None:
            check_values(who, "penalty", values, "[0, inf)")
    else:
        within(who, "penalty", penalty, "[0, inf)")
    return penalty


@partial(jax.jit, static_argnums=(3, 4, 5))
def _fista(dictionary, x, penalty, steps, positive, momentum=True):
    features, inputs = dictionary.shape
    gram = _dot(dictionary, dictionary.T)  # (features, features)
    # The gradient's Lipschitz constant, the largest eigenvalue, computed from the smaller product.
    a = gram if features <= inputs else _dot(dictionary.T, dictionary)
    # The eigenvalue's derivative has a constant eigenvector, and LAPACK has none in reverse.
    v = jax.lax.stop_gradient(_vectors(jax.lax.stop_gradient(a))[:, -1])
    largest = jnp.einsum("i,ij,j", v, a, v, precision="highest")
    # Of a dictionary of zeros all steps are 0, however long.
    curvature = jnp.where(largest > jnp.finfo(x.dtype).tiny, largest, 1)
    target = _dot(x, dictionary.T)  # (..., inputs) -> (..., features)
    threshold = penalty / curvature

    def better(z):
        if features < 2 * inputs:
            explained = _dot(z, gram)
        else:
            explained = _dot(_dot(z, dictionary), dictionary.T)
        z = z + (target - explained) / curvature
        if positive:
            return jnp.maximum(z - threshold, 0)
        return z - jnp.clip(z, -threshold, threshold)

    def body(carry, _):
        old, ahead, t = carry
        new = better(ahead)
        step = new - old
        uphill = ((ahead - new) * step).sum(-1, keepdims=True) > 0
        t = jnp.where(uphill, 1, t)
        t_next = (1 + jnp.sqrt(1 + 4 * t**2)) / 2 if momentum else t
        ahead = new + (t - 1) / t_next * step
        return (new, ahead, t_next), None

    start = jnp.zeros_like(target)
    t = jnp.ones((*target.shape[:-1], 1), target.dtype)
    (codes, _, _), _ = jax.lax.scan(body, (start, start, t), length=steps)
    return codes


# One matrix at a time, since batched calls of LAPACK may hang, see jaxnet/ops/linalg.py.
@sequential_vmap
def _vectors(a):
    _, vectors = jnp.linalg.eigh(a)
    return vectors


def sparse_code(features: int, penalty: Any, *, steps: int = 50, positive: bool = False) -> Layer:
    """Make a layer of the codes that `fista` finds for a dictionary, which can be trained.

    Args:
      features: Number of atoms.
      penalty, steps, positive: As in `fista`.

    Params:
      dictionary (features, inputs), such as from `fit_dictionary`.

    Returns:
      A layer from (..., inputs) to (..., features).

    Raises:
      TypeError, ValueError: As in `fista`.

    Example:
      >>> layer = sparse_code(3, 0.1)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((5, 2)))
      >>> y, state = layer.apply(params, state, jnp.ones((5, 2)))
      >>> y.shape
      (5, 3)

    Reference: Gregor and LeCun 2010, "Learning fast approximations of sparse coding".
    """
    all_at_least("sparse_code", features=features, steps=steps)
    _penalty("sparse_code", penalty, features)

    def forward(m, x):
        dictionary = m.param("dictionary", normal(1.0), (features, x.shape[-1]))
        return fista(dictionary, x, penalty, steps, positive=positive)

    return compose(forward, name="sparse_code", kind="sparse_code")


def fit_dictionary(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    penalty: float,
    positive: bool = False,
    epochs: int = 10,
    batch_size: int = 256,
    steps: int = 50,
) -> jax.Array:
    """Return atoms (features, inputs) of length 1, few of which make up an example of x.

    The codes of each batch are computed by `fista`. Then each atom in turn moves to the minimum of
    the cost with the codes held fixed [Mairal et al. 2009]. Atoms start as examples with some
    noise, and an atom that is not used by any example is replaced by an example. The mean is not
    subtracted: whiten or center data of a large mean first. Each epoch leaves out the remainder of
    a new permutation.

    Args:
      key: Random key.
      x: Examples (n, inputs), without NaN.
      features: Number of atoms, 1 to n.
      penalty, positive: As in `fista`, the same for all features.
      epochs: Number of passes over x.
      batch_size: Examples per batch, at most n.
      steps: Steps of `fista` per batch.

    Returns:
      (features, inputs).

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If `x` has the wrong shape, is empty, or contains NaN.
      ValueError: If `features` is above the number of examples, a count is below 1, or the penalty
        is negative.

    Example:
      >>> x = jnp.array([[3.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -4.0]])
      >>> atoms = fit_dictionary(jax.random.key(0), x, 2, penalty=0.1)
      >>> jnp.abs(atoms).round(1).sum(0).tolist()  # one atom for each axis
      [1.0, 1.0]

    Reference: Olshausen and Field 1996, "Emergence of simple-cell receptive field properties by
    learning a sparse code for natural images"; Mairal et al. 2009, "Online dictionary learning for
    sparse coding".
    """
    who = "fit_dictionary"
    counts = {"epochs": epochs, "batch_size": batch_size, "steps": steps}
    x = check_fit(key, x, features, who, limit=0, **counts)
    within(who, "penalty", penalty, "[0, inf)")
    check_options(who, positive=positive)
    atoms = _first_atoms(key, x, features)
    # Σ zᵀ z and Σ zᵀ x over about the last epoch
    sums = jnp.zeros((features, features), x.dtype), jnp.zeros_like(atoms)
    size = min(batch_size, len(x))
    for i in range(epochs):
        epoch_key = jax.random.fold_in(key, i)
        atoms, sums = _epoch(epoch_key, atoms, sums, x, penalty, size, steps, positive)
    return atoms


@partial(jax.jit, static_argnums=2)
def _first_atoms(key, x, features):
    chosen = jax.random.choice(child_key(key, "rows"), len(x), (features,), replace=False)
    atoms = x[chosen]
    noise = jax.random.normal(child_key(key, "noise"), atoms.shape, x.dtype)
    return _unit(atoms + 0.1 * _root_mean_square(x) * noise)


@partial(jax.jit, static_argnums=(5, 6, 7))
def _epoch(key, atoms, sums, x, penalty, batch_size, steps, positive):
    """Return atoms and sums after one pass over x."""
    keep = 1 - batch_size / len(x)
    order = jax.random.permutation(child_key(key, "order"), len(x))
    count = len(x) // batch_size * batch_size
    order = order[:count].reshape(-1, batch_size)

    def step(carry, now):
        atoms, (codes, examples) = carry
        key, rows = now
        batch = x[rows]  # (batch, inputs)
        z = _fista(atoms, batch, penalty, steps, positive)  # (batch, features)
        codes = keep * codes + _dot(z.T, z)
        examples = keep * examples + _dot(z.T, batch)
        chosen = jax.random.randint(key, (len(atoms),), 0, batch_size)
        fresh = _unit(batch[chosen])
        atoms = _better_atoms(atoms, codes, examples, fresh)
        return (atoms, (codes, examples)), None

    keys = jax.random.split(child_key(key, "fresh"), len(order))
    result, _ = jax.lax.scan(step, (atoms, sums), (keys, order))
    return result


def _better_atoms(atoms, codes, examples, fresh):
    """Move each atom to the minimum of the cost while the others stay.

    Args:
      atoms: Atoms (features, inputs).
      codes: Sum Σ zᵀ z, (features, features).
      examples: Sum Σ zᵀ x, (features, inputs).
      fresh: Replacements (features, inputs) for atoms that are not used by any code.
    """
    used = jnp.diag(codes)
    unused = used <= 1e-6 * used.mean()

    def one(j, atoms):
        moved = _unit(used[j] * atoms[j] + examples[j] - _dot(codes[j], atoms))
        atom = jnp.where(unused[j], fresh[j], moved)
        return atoms.at[j].set(atom)

    return jax.lax.fori_loop(0, len(atoms), one, atoms)


def fit_sparse_coding(
    key: jax.Array, x: Any, features: int, *, standardize: bool = False, **options: Any
) -> Params:
    """Return atoms learned by `fit_dictionary`, as params of `jn.dense(features)` before relu.

    The kernel's columns are the atoms, and every bias is -penalty. So `relu(dense(x))` is the first
    step of `fista` from 0 toward codes that are not negative, of step size 1: the soft threshold
    encoder of Coates and Ng. The penalty is 1.2 times the root mean square of the entries of x, the
    choice of Mairal et al.

    Args:
      key: Random key.
      x: Examples (n, inputs), without NaN.
      features: Number of atoms, 1 to n.
      standardize: Whether to scale and shift all outputs to mean 0 and standard deviation 1 over x,
        for units that are not rectified, such as sigmoids.
      options: Options of `fit_dictionary`: epochs, batch_size and steps.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      TypeError, ValueError: As in `fit_dictionary`.

    Example:
      >>> x = jnp.array([[3.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 4.0]])
      >>> params = fit_sparse_coding(jax.random.key(0), x, 2)
      >>> jnp.abs(params["kernel"]).round(1).sum(1).tolist(), f"{params['bias'][0]:.2f}"
      ([1.0, 1.0], '-2.32')

    Reference: Coates and Ng 2011, "The importance of encoding versus training with sparse coding
    and vector quantization".
    """
    check_options("fit_sparse_coding", standardize=standardize)
    x = check_fit(key, x, features, "fit_sparse_coding", limit=0)
    penalty = 1.2 * float(_root_mean_square(x))
    kernel = fit_dictionary(key, x, features, penalty=penalty, positive=True, **options).T
    bias = jnp.full(features, -penalty, kernel.dtype)
    return standardized(kernel, bias, x) if standardize else {"kernel": kernel, "bias": bias}


@jax.jit
def _root_mean_square(x: jax.Array) -> jax.Array:
    return jnp.sqrt((x**2).mean())


def _unit(atoms: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(atoms, axis=-1, keepdims=True)
    return atoms / jnp.maximum(length, jnp.finfo(atoms.dtype).tiny)
