"""Sparse coding: each example as a sum of few atoms of a dictionary.

The codes z of x minimize ½‖x − z D‖² + penalty · ‖z‖₁, where the rows of D are the atoms. The
minimum does not have a closed form: `fista` approaches it in steps, and `sparse_code` is a
layer of such steps. `fit_dictionary` learns D.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import Layer, child_key, compose, tools
from jaxnet.initializers import normal
from jaxnet.ops import largest_eigenvalue, varying, wide
from jaxnet.typing import Params
from jaxnet.unsupervised.check import check_fit, drawn, scaled

# Products in reduced precision, the default on GPUs, would keep the codes from converging.
dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


# Each is jitted, since a scan outside of jit compiles at every call.


def fista(
    dictionary: jax.Array,
    x: jax.Array,
    penalty: Any,
    steps: int = 100,
    *,
    positive: bool = False,
    codes: jax.Array | None = None,
) -> jax.Array:
    """Return codes by gradient steps with a soft threshold and momentum.

    The distance to the minimum falls as 1 / steps².

    The momentum of an example restarts if it points uphill, so that the cost hardly ever rises. A
    small penalty takes many steps: start with a larger one, and pass its codes on. It can be
    jitted, vmapped and differentiated.

    Args:
      dictionary: Dictionary (features, inputs), one atom per row, of any length.
      x: Examples (..., inputs).
      penalty: Number at least 0, or one per feature (features,).
      steps: Number of steps, at least 0.
      positive: Whether codes must not be negative.
      codes: Codes (..., features) to start from; 0 by default.

    Returns:
      Codes (..., features).

    Raises:
      TypeError: If dtypes do not fit.
      ValueError: If shapes do not fit.
      ValueError: If `steps` is negative.
      ValueError: If `penalty` is known and negative.

    Example:
      A signal of 3 nonzero entries in 50, from 30 numbers:

      >>> measure = np.random.default_rng(0).normal(size=(50, 30)).astype(np.float32)
      >>> signal = np.zeros(50, np.float32)
      >>> signal[[7, 11, 30]] = [1, -2, 3]
      >>> found = fista(measure, signal @ measure, penalty=0.01, steps=500)
      >>> float(jnp.abs(found - signal).max()) < 1e-3
      True

    Reference: Beck and Teboulle 2009, "A fast iterative shrinkage-thresholding algorithm for linear
    inverse problems"; O'Donoghue and Candès 2015, "Adaptive restart for accelerated gradient
    schemes".
    """
    who, form, sizes = "fista", "(features, inputs)", {}
    dictionary = tools.as_array(who, "dictionary", dictionary, form, "reals", sizes, empty=False)
    x = tools.as_array(who, "x", x, "(..., inputs)", "reals", sizes)
    tools.at_least(who, "steps", steps, 0)
    tools.check_options(who, positive=positive)
    penalty = _not_negative(who, "penalty", penalty)
    if jnp.ndim(penalty):
        tools.as_array(who, "penalty", penalty, "(features,)", "reals", sizes)
    dtype = jnp.result_type(dictionary, x)
    dictionary, x, penalty = (jnp.asarray(a, dtype) for a in (dictionary, x, penalty))
    start = varying(jnp.zeros((*x.shape[:-1], len(dictionary)), dtype), x, dictionary)
    if codes is not None:
        start = tools.as_array(who, "codes", codes, "(..., features)", "reals", sizes)
    return _fista(dictionary, x, penalty, start.astype(dtype), int(steps), positive)


@partial(jax.jit, static_argnums=(4, 5))
def _fista(dictionary, x, penalty, start, steps, positive):
    step = _proximal_step(dictionary, x, penalty, positive)

    def body(carry, _):
        old, ahead, t = carry
        new = step(ahead)
        uphill = ((ahead - new) * (new - old)).sum(-1, keepdims=True) > 0
        t = jnp.where(uphill, 1, t)
        t_next = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return (new, new + (t - 1) / t_next * (new - old), t_next), None

    t = varying(jnp.ones((*start.shape[:-1], 1), start.dtype), start)
    return jax.lax.scan(body, (start, start, t), length=steps)[0][0]


def _proximal_step(
    dictionary: jax.Array, x: jax.Array, penalty: jax.Array, positive: bool
) -> Callable[[jax.Array], jax.Array]:
    """Return the step from codes to better codes."""
    (features, inputs), dtype = dictionary.shape, x.dtype
    gram = dot(dictionary, dictionary.T)  # (features, features)
    # The gradient's Lipschitz constant is the largest eigenvalue, computed from the smaller
    # product.
    smaller = gram if features <= inputs else dot(dictionary.T, dictionary)
    largest = largest_eigenvalue(smaller.astype(jnp.promote_types(dtype, jnp.float32)))
    curvature = jnp.maximum(largest, jnp.finfo(dtype).tiny).astype(dtype)
    target = dot(x, dictionary.T)  # (..., inputs) -> (..., features)

    def step(z):
        few = features < 2 * inputs
        explained = dot(z, gram) if few else dot(dot(z, dictionary), dictionary.T)
        z = z + (target - explained) / curvature
        threshold = penalty / curvature
        return jnp.maximum(z - threshold, 0) if positive else z - jnp.clip(z, -threshold, threshold)

    return step


def sparse_code(
    features: int,
    penalty: float,
    *,
    steps: int = 50,
    positive: bool = False,
    name: str = "sparse_code",
) -> Layer:
    """Make a layer of codes of x by steps of `fista`: a better encoder than one product.

    Everything is differentiable, so the dictionary can be fine-tuned through the steps.

    Args:
      features: Number of atoms of the dictionary, at least 1.
      penalty: Number at least 0, in the units of x; a larger penalty gives fewer nonzero entries.
      steps: Number of steps of `fista`, at least 1.
      positive: Whether codes must not be negative.
      name: Name of the layer.

    Params:
      dictionary (features, inputs), one atom per row, random at init; `fit_dictionary` learns it.

    Raises:
      ValueError: If `features` or `steps` is below 1.
      ValueError: If `penalty` is negative.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (90, 7))
      >>> params = fit_dictionary(jax.random.key(1), x, 5, penalty=0.5, epochs=3)
      >>> codes, _ = sparse_code(5, 0.5).apply(params, {}, x)
      >>> codes.shape, bool((codes == 0).any())
      ((90, 5), True)

    Reference: Gregor and LeCun 2010, "Learning fast approximations of sparse coding".
    """
    tools.all_at_least(name, features=features, steps=steps)
    tools.within(name, "penalty", penalty, "[0, inf)")
    tools.check_options(name, positive=positive)

    def forward(m, x):
        tools.check_rank(name, x, 2)
        dictionary = m.param("dictionary", unit_init, (features, x.shape[-1]))
        codes = fista(wide(dictionary), wide(x), penalty, steps, positive=positive)
        return codes.astype(x.dtype)

    def unit_init(key, shape, dtype):
        return _unit(normal(1.0)(key, shape, dtype))

    return compose(forward, name=name, kind="sparse_code")


def fit_dictionary(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    penalty: float | None = None,
    positive: bool = False,
    epochs: int = 10,
    batch_size: int = 256,
    steps: int = 50,
    progress: bool = True,
) -> Params:
    """Learn atoms such that few of them make up an example: params of `sparse_code`.

    The codes of each batch are computed by `fista`. Then each atom in turn moves to the minimum of
    the cost with the codes held fixed [Mairal et al. 2009]. Atoms have length 1. They start as
    examples with some noise, and an atom that is not used by any example is replaced by an example.
    The mean is not subtracted: whiten or center data of a large mean first.

    Any number of examples is accepted: if batch_size does not divide it, each epoch leaves out the
    remainder of a new permutation.

    Args:
      key: Random key; the same key and data give the same atoms.
      x: Examples (n, inputs), without NaN.
      features: Number of atoms, 1 to n; may be more than inputs.
      penalty: Positive number, in the units of x; a larger penalty gives fewer atoms per example.
        None is 1.2 times the root mean square of the entries of x, the choice of Mairal et al.
      positive: Whether codes must not be negative.
      epochs: Number of passes over the data, at least 1.
      batch_size: Number of examples per step.
      steps: Number of steps of `fista` per batch.
      progress: Whether to show a progress bar.

    Returns:
      {"dictionary": (features, inputs)}.

    Raises:
      ValueError: If `x` has the wrong shape, is empty, or contains NaN.
      ValueError: If `features` is above the number of examples.
      ValueError: If `epochs` is below 1.
      ValueError: If `penalty` is not positive, or so large that every code is 0.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (90, 7))
      >>> atoms = fit_dictionary(jax.random.key(1), x, 5, epochs=3)["dictionary"]
      >>> bool(jnp.allclose(jnp.linalg.norm(atoms, axis=1), 1, atol=1e-5))
      True

    Reference: Olshausen and Field 1996, "Emergence of simple-cell receptive field properties by
    learning a sparse code for natural images"; Mairal et al. 2009, "Online dictionary learning for
    sparse coding".
    """
    who = "fit_dictionary"
    counts = {"epochs": epochs, "batch_size": batch_size, "steps": steps}
    x = check_fit(key, x, features, who, limit=0, **counts)
    tools.check_options(who, positive=positive, progress=progress)
    if not bool(x.any()):
        raise ValueError(f"{who}: x must not be 0 everywhere")
    penalty = _usual_penalty(x) if penalty is None else penalty
    tools.within(who, "penalty", penalty, "(0, inf)")
    atoms = _first_atoms(key, x, int(features))
    # Σ zᵀ z and Σ zᵀ x over about the last epoch
    sums = jnp.zeros((features, features), x.dtype), jnp.zeros_like(atoms)
    active = 0.0
    with tools.progress_bar(epochs, "dictionary", progress) as bar:
        for i in range(epochs):
            here = jax.random.fold_in(key, i)
            atoms, sums, active = _epoch(
                here, atoms, sums, x, penalty, min(batch_size, len(x)), steps, positive
            )
            bar.update(1)
    if active == 0:
        raise ValueError(
            f"fit_dictionary: with a penalty of {penalty:.3g} every code is 0; use a smaller one, "
            f"such as {_usual_penalty(x):.3g}"
        )
    return {"dictionary": atoms}


@partial(jax.jit, static_argnums=2)
def _first_atoms(key: jax.Array, x: jax.Array, features: int) -> jax.Array:
    """Return examples with some noise."""
    rows = drawn(child_key(key, "rows"), x, features)
    noise = jax.random.normal(child_key(key, "noise"), (features, x.shape[1]), x.dtype)
    return _unit(rows + 0.1 * _root_mean_square(x) * noise)


@partial(jax.jit, static_argnums=(5, 6, 7))
def _epoch(key, atoms, sums, x, penalty, batch_size, steps, positive):
    """Return atoms and sums after one pass over x, and the fraction of nonzero code entries."""
    keep = 1 - batch_size / len(x)
    order = jax.random.permutation(child_key(key, "order"), len(x))
    order = order[: len(x) // batch_size * batch_size].reshape(-1, batch_size)

    def step(carry, now):
        atoms, (codes, examples) = carry
        key, batch = now[0], x[now[1]]  # (batch, inputs)
        z = fista(atoms, batch, penalty, steps, positive=positive)  # (batch, features)
        codes, examples = keep * codes + dot(z.T, z), keep * examples + dot(z.T, batch)
        fresh = _unit(batch[jax.random.randint(key, (len(atoms),), 0, batch_size)])
        return (_better_atoms(atoms, codes, examples, fresh), (codes, examples)), (z != 0).mean()

    keys = jax.random.split(child_key(key, "fresh"), len(order))
    (atoms, sums), active = jax.lax.scan(step, (atoms, sums), (keys, order))
    return atoms, sums, active.mean()


def _better_atoms(
    atoms: jax.Array, codes: jax.Array, examples: jax.Array, fresh: jax.Array
) -> jax.Array:
    """Make one pass over the atoms; each moves to the minimum of the cost while the others stay.

    Args:
      atoms: Atoms (features, inputs).
      codes: Sum Σ zᵀ z, (features, features).
      examples: Sum Σ zᵀ x, (features, inputs).
      fresh: Replacements (features, inputs) for atoms that are not used by any code.
    """
    used = jnp.diag(codes)
    unused = used <= 1e-6 * used.mean()

    def one(j, atoms):
        moved = _unit(used[j] * atoms[j] + examples[j] - dot(codes[j], atoms))
        return atoms.at[j].set(jnp.where(unused[j], fresh[j], moved))

    return jax.lax.fori_loop(0, len(atoms), one, atoms)


def fit_sparse_coding(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    penalty: float | None = None,
    scale: float | None = None,
    **options: Any,
) -> Params:
    """Return atoms learned by `fit_dictionary`, as params of `jn.dense(features)` before relu.

    The kernel's columns are the atoms, and every bias is -penalty. So `relu(dense(x))` is the first
    step of `fista` from 0 toward codes that are not negative, of step size 1: the soft threshold
    encoder of Coates and Ng.

    If x has a large mean, such as ink on paper, nearly every product with an atom is above the
    penalty, and the layer is almost linear. Whiten or center x, or set `scale`.

    Args:
      key, x, features, penalty: As in `fit_dictionary`.
      scale: Standard deviation of the outputs over x, positive; one factor and one shift for all
        outputs give them this standard deviation and mean 0. None leaves
        atoms and penalty unchanged.
      options: Other options of `fit_dictionary`: epochs, batch_size, steps, progress.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: As in `fit_dictionary`.
      ValueError: If `scale` is not positive.

    Example:
      >>> x = jax.random.uniform(jax.random.key(0), (90, 7))
      >>> params = fit_sparse_coding(jax.random.key(1), x, 5, penalty=0.3, epochs=3)
      >>> y, _ = jn.dense(5).apply(params, {}, x)
      >>> atoms = params["kernel"].T
      >>> bool(jnp.allclose(y, x @ atoms.T - 0.3, atol=1e-5))
      True

    Reference: Coates and Ng 2011, "The importance of encoding versus training with sparse coding
    and vector quantization".
    """
    tools.all_within("fit_sparse_coding", "(0, inf)", optional=True, scale=scale, penalty=penalty)
    x = check_fit(key, x, features, "fit_sparse_coding", limit=0)
    penalty = _usual_penalty(x) if penalty is None else penalty
    learned = fit_dictionary(key, x, features, penalty=penalty, positive=True, **options)
    kernel = learned["dictionary"].T
    bias = jnp.full(features, -penalty, kernel.dtype)
    return {"kernel": kernel, "bias": bias} if scale is None else scaled(kernel, bias, x, scale)


def _not_negative(who: str, what: str, value: Any) -> Any:
    """Return a number or an array; raise for values that are known and negative or NaN."""
    if isinstance(value, int | float):
        tools.within(who, what, value, "[0, inf]")
        return value
    array = tools.as_array(who, what, value, dtype="reals")
    if isinstance(value, np.ndarray | np.generic):
        least = float(np.asarray(value, float).min(initial=np.inf))
        if not least >= 0:
            raise ValueError(f"{who}: {what} must be at least 0, got {least}")
    return array


def _usual_penalty(x: jax.Array) -> float:
    return 1.2 * float(_root_mean_square(x))


@jax.jit
def _root_mean_square(x: jax.Array) -> jax.Array:
    return jnp.sqrt((x**2).mean())


def _unit(atoms: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(atoms, axis=-1, keepdims=True)
    return atoms / jnp.maximum(length, jnp.finfo(atoms.dtype).tiny)
