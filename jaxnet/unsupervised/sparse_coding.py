"""Sparse coding: each example as the sum of a few atoms of a dictionary.

The codes z of x minimize ½‖x − z D‖² + penalty · ‖z‖₁, where the rows of D are the atoms. Nothing
computes them in one go: `ista` and `fista` step towards them, and `sparse_code` is a layer of such
steps. `fit_dictionary` learns D.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.core import Layer, Params, child_key, param_dtype, stateless
from jaxnet.initializers import normal
from jaxnet.training import fit, init_training, learning_rule, make_step
from jaxnet.unsupervised.check import check_examples, check_scale, scaled

EXACT = jax.lax.Precision.HIGHEST  # GPUs would round the products, and the codes would stall there


def soft_threshold(x: jax.Array, threshold: Any, *, positive: bool = False) -> jax.Array:
    """Nearer to 0 by the threshold, and 0 within it: the proximal step of threshold · |x|.

    Its derivative is 0 inside, 1 outside; at the kinks JAX takes ½.

    Args:
      x: any shape.
      threshold: at least 0, broadcast against x.
      positive: negative entries become 0 too.

    Example:
      >>> soft_threshold(jnp.array([-3.0, -1.0, 0.5, 2.0]), 1).tolist()
      [-2.0, 0.0, 0.0, 1.0]
      >>> soft_threshold(jnp.array([-3.0, -1.0, 0.5, 2.0]), 1, positive=True).tolist()
      [0.0, 0.0, 0.0, 1.0]
    """
    if positive:
        return jnp.maximum(x - threshold, 0)
    return x - jnp.clip(x, -threshold, threshold)


def sparse_cost(dictionary: jax.Array, x: jax.Array, codes: jax.Array, penalty: Any) -> jax.Array:
    """½‖x − codes @ dictionary‖² + penalty · ‖codes‖₁ of each example.

    Args:
      dictionary: (features, inputs), an atom a row.
      x: (..., inputs).
      codes: (..., features).
      penalty: at least 0; a number, or one a feature (features,).

    Returns:
      (...,).

    Example:
      >>> sparse_cost(jnp.eye(2, 3), jnp.array([3.0, 4, 1]), jnp.array([2.0, 4]), 0.5).tolist()
      4.0
    """
    missed = x - jnp.matmul(codes, dictionary, precision=EXACT)  # (..., features) -> (..., inputs)
    return (missed**2).sum(-1) / 2 + (penalty * jnp.abs(codes)).sum(-1)


def ista(
    dictionary: jax.Array,
    x: jax.Array,
    penalty: Any,
    steps: int = 100,
    *,
    positive: bool = False,
    codes: jax.Array | None = None,
) -> jax.Array:
    """Codes by iterative shrinkage and thresholding: gradient step, soft threshold, and again.

    The cost falls with every step, towards its minimum as 1 / steps; `fista` is quicker and costs
    the same. Can be jitted, vmapped and differentiated.

    Args:
      dictionary: (features, inputs), an atom a row, of any length.
      x: (..., inputs).
      penalty: at least 0; a number, or one a feature (features,).
      steps: at least 0.
      positive: whether codes must not be negative.
      codes: (..., features) to start from; 0 by default.

    Returns:
      Codes (..., features).

    Raises:
      ValueError: for shapes that do not fit, or negative steps.

    Example:
      >>> ista(jnp.eye(3), jnp.array([[2.0, -0.3, -4.0]]), 0.5, 10).tolist()
      [[1.5, 0.0, -3.5]]

    Reference: Daubechies et al. 2004, "An iterative thresholding algorithm for linear inverse
    problems with a sparsity constraint".
    """
    step, start = _proximal_step("ista", dictionary, x, penalty, steps, positive, codes)
    return jax.lax.scan(lambda z, _: (step(z), None), start, length=steps)[0]


def fista(
    dictionary: jax.Array,
    x: jax.Array,
    penalty: Any,
    steps: int = 100,
    *,
    positive: bool = False,
    codes: jax.Array | None = None,
) -> jax.Array:
    """Codes as by `ista`, with momentum: towards the minimum as 1 / steps².

    Where the momentum of an example points uphill it begins anew, so that the cost hardly rises on
    its way. A small penalty takes many steps: begin with a larger one, and hand its codes on. Can
    be jitted, vmapped and differentiated.

    Args:
      dictionary: (features, inputs), an atom a row, of any length.
      x: (..., inputs).
      penalty: at least 0; a number, or one a feature (features,).
      steps: at least 0.
      positive: whether codes must not be negative.
      codes: (..., features) to start from; 0 by default.

    Returns:
      Codes (..., features).

    Raises:
      ValueError: for shapes that do not fit, or negative steps.

    Example:
      A signal of 3 entries in 50, from 30 numbers:

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
    step, start = _proximal_step("fista", dictionary, x, penalty, steps, positive, codes)

    def body(carry, _):
        old, ahead, t = carry
        new = step(ahead)
        uphill = ((ahead - new) * (new - old)).sum(-1, keepdims=True) > 0
        t = jnp.where(uphill, 1, t)
        t_next = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return (new, new + (t - 1) / t_next * (new - old), t_next), None

    t = jnp.ones((*start.shape[:-1], 1), start.dtype)
    return jax.lax.scan(body, (start, start, t), length=steps)[0][0]


def _proximal_step(
    who: str, dictionary: Any, x: Any, penalty: Any, steps: int, positive: bool, codes: Any
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """Codes to better codes, and the codes to start from."""
    dictionary, x = jnp.asarray(dictionary), jnp.asarray(x)
    if dictionary.ndim != 2 or x.ndim < 1 or x.shape[-1] != dictionary.shape[1]:
        raise ValueError(
            f"{who}: a dictionary (features, inputs) and x (..., inputs) are needed, "
            f"got {dictionary.shape} and {x.shape}"
        )
    if steps < 0:
        raise ValueError(f"{who}: steps must be at least 0, got {steps}")
    features, inputs = dictionary.shape
    dtype = jnp.result_type(dictionary, x)
    dtype = dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.float32  # type: ignore[assignment]
    dictionary, x, penalty = (jnp.asarray(a, dtype) for a in (dictionary, x, penalty))
    shape = (*x.shape[:-1], features)
    if codes is not None and jnp.shape(codes) != shape:
        raise ValueError(f"{who}: codes must be {shape}, got {jnp.shape(codes)}")
    start = jnp.zeros(shape, dtype) if codes is None else jnp.asarray(codes, dtype)

    def dot(a, b):
        return jnp.matmul(a, b, precision=EXACT)

    gram = dot(dictionary, dictionary.T)  # (features, features)
    # The gradient's Lipschitz constant: the largest eigenvalue, of the smaller of the two products.
    smaller = gram if features <= inputs else dot(dictionary.T, dictionary)
    largest = jnp.linalg.eigvalsh(smaller.astype(jnp.promote_types(dtype, jnp.float32)))[-1]
    curvature = jnp.maximum(largest, jnp.finfo(dtype).tiny).astype(dtype)
    target = dot(x, dictionary.T)  # (..., inputs) -> (..., features)

    def step(z):
        downhill = target - (
            dot(z, gram) if features < 2 * inputs else dot(dot(z, dictionary), dictionary.T)
        )
        return soft_threshold(z + downhill / curvature, penalty / curvature, positive=positive)

    return step, start


def sparse_code(
    features: int,
    penalty: float,
    *,
    steps: int = 50,
    positive: bool = False,
    name: str = "sparse_code",
) -> Layer:
    """The codes of x by steps of `fista`, as a layer: encodes better than one product can.

    Everything is differentiable, so the dictionary can be fine-tuned through the steps.

    Args:
      features: atoms of the dictionary, at least 1.
      penalty: at least 0, in the units of x; more of it, fewer entries that are not 0.
      steps: of `fista`, at least 1.
      positive: whether codes must not be negative.
      name: of the layer.

    Params:
      dictionary (features, inputs), an atom a row; `fit_dictionary` learns it, init draws it.

    Raises:
      ValueError: where features or steps is below 1, penalty is negative, or the input has no
        feature axis.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (90, 7))
      >>> params = fit_dictionary(jax.random.key(1), x, 5, penalty=0.5, epochs=3)
      >>> codes, _ = sparse_code(5, 0.5).apply(params, {}, x)
      >>> codes.shape, bool((codes == 0).any())
      ((90, 5), True)

    Reference: Gregor and LeCun 2010, "Learning fast approximations of sparse coding".
    """
    if features < 1 or steps < 1:
        raise ValueError(f"{name}: features and steps must be at least 1, got {features}, {steps}")
    if penalty < 0:
        raise ValueError(f"{name}: penalty must be at least 0, got {penalty}")

    def init(key, x):
        if len(x.shape) < 2:
            raise ValueError(f"{name}: needs (batch, ..., features), got {x.shape}")
        return {"dictionary": _unit(normal(1.0)(key, (features, x.shape[-1]), param_dtype(x)))}

    def apply(params, x):
        return fista(params["dictionary"], x, penalty, steps, positive=positive)

    return stateless(init, apply, name=name)


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
    """Learns atoms of which few make up an example: params of `sparse_code(features, penalty)`.

    Each batch gets its codes by `fista`; then every atom in turn goes where the cost is least, the
    codes being held [Mairal et al. 2009]. Atoms have length 1. They begin as examples with some
    noise, and one that no example uses begins anew. The mean is not taken out: data of a large mean
    are better whitened or centred before.

    Args:
      key: the same key and data give the same atoms.
      x: (n, inputs), not NaN.
      features: atoms, 1 to n; may be more than inputs.
      penalty: positive, in the units of x; more of it, fewer atoms an example. None takes
        1.2 times the root mean square of the entries of x, the choice of Mairal et al.
      positive: whether codes must not be negative.
      epochs: passes over the data.
      batch_size: examples a step.
      steps: of `fista`, for each batch.
      progress: whether a bar runs.

    Returns:
      {"dictionary": (features, inputs)}.

    Raises:
      ValueError: for another shape, no data, a NaN, more features than examples, a penalty that is
        not positive, or so large that every code is 0.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (90, 7))
      >>> atoms = fit_dictionary(jax.random.key(1), x, 5, epochs=3)["dictionary"]
      >>> bool(jnp.allclose(jnp.linalg.norm(atoms, axis=1), 1, atol=1e-5))
      True

    Reference: Olshausen and Field 1996, "Emergence of simple-cell receptive field properties by
    learning a sparse code for natural images"; Mairal et al. 2009, "Online dictionary learning for
    sparse coding".
    """
    x = check_examples(x, features, "fit_dictionary", limit=0)
    penalty = _usual_penalty(x) if penalty is None else penalty
    if not penalty > 0:
        raise ValueError(
            f"fit_dictionary: penalty must be positive, got {penalty}"
            + ("; x is 0 everywhere" if not bool(x.any()) else "")
        )
    batch_size = min(batch_size, len(x))
    keep = 1 - batch_size / len(x)  # the sums reach back about an epoch

    def init(key, spec):
        rows = jax.random.choice(child_key(key, "rows"), len(x), (features,), replace=False)
        noise = jax.random.normal(child_key(key, "noise"), (features, x.shape[1]), x.dtype)
        atoms = _unit(x[rows] + 0.1 * jnp.sqrt((x**2).mean()) * noise)
        state = {
            "codes": jnp.zeros((features, features), x.dtype),  # Σ zᵀ z
            "examples": jnp.zeros((features, x.shape[1]), x.dtype),  # Σ zᵀ x
        }
        return {"dictionary": atoms}, state

    def rule(params, state, batch, *, key, train):
        atoms = params["dictionary"]
        codes = fista(atoms, batch, penalty, steps, positive=positive)  # (batch, features)
        state = {
            "codes": keep * state["codes"] + jnp.matmul(codes.T, codes, precision=EXACT),
            "examples": keep * state["examples"] + jnp.matmul(codes.T, batch, precision=EXACT),
        }
        rows = jax.random.randint(key, (features,), 0, len(batch))
        better = _better_atoms(atoms, state["codes"], state["examples"], _unit(batch[rows]))
        cost = sparse_cost(atoms, batch, codes, penalty).mean()
        metrics = {"loss": cost, "active": (codes != 0).mean()}
        return {"dictionary": atoms - better}, (state, metrics)

    optimizer = optax.sgd(1.0)  # takes the rule's atoms as they are
    learner = Layer(init, sparse_code(features, penalty).apply, "sparse_code")
    train_state = init_training(learner, optimizer, key, x)
    step = make_step(learning_rule(rule), optimizer)
    active = 0.0
    for epoch in fit(
        train_state, step, x, epochs=epochs, batch_size=batch_size, progress=progress
    ):  # fmt: skip
        train_state, active = epoch.train_state, epoch.train["active"]
    if active == 0:
        raise ValueError(
            f"fit_dictionary: with a penalty of {penalty:.3g} every code is 0; take less of it, "
            f"such as {_usual_penalty(x):.3g}"
        )
    return {"dictionary": _unit(train_state.params["dictionary"])}


def fit_sparse_coding(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    penalty: float | None = None,
    scale: float | None = None,
    positive: bool = True,
    epochs: int = 10,
    batch_size: int = 256,
    steps: int = 50,
    progress: bool = True,
) -> Params:
    """Atoms learned by `fit_dictionary`, as params of `jn.dense(features)`, relu to follow.

    The kernel's columns are the atoms, and every bias is -penalty. So `relu(dense(x))` is a first
    step of `ista` from 0 towards codes that are not negative, of step size 1: the soft threshold
    encoder of Coates and Ng. Codes of both signs (positive=False) would take a second dense layer,
    of the negative kernel.

    Awkward: where x has a large mean, such as ink on paper, nearly every product with an atom is
    above the penalty, and the step is all but linear. Take x whitened or centred, or a `scale`.

    Args:
      key, x, features, penalty, positive, epochs, batch_size, steps, progress: see
        `fit_dictionary`.
      scale: positive: the outputs get mean 0 and this standard deviation over x, by one factor and
        one shift for all, as those of `fit_kmeans`. None leaves atoms and penalty as they are.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Raises:
      ValueError: as `fit_dictionary`, or for a scale that is not positive.

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
    check_scale(scale, "fit_sparse_coding")
    x = check_examples(x, features, "fit_sparse_coding", limit=0)
    penalty = _usual_penalty(x) if penalty is None else penalty
    atoms = fit_dictionary(
        key, x, features, penalty=penalty, positive=positive, epochs=epochs,
        batch_size=batch_size, steps=steps, progress=progress,
    )["dictionary"]  # fmt: skip
    bias = jnp.full(features, -penalty, atoms.dtype)
    return {"kernel": atoms.T, "bias": bias} if scale is None else scaled(atoms.T, bias, x, scale)


def _usual_penalty(x: jax.Array) -> float:
    return 1.2 * float(jnp.sqrt((x**2).mean()))


def _better_atoms(
    atoms: jax.Array, codes: jax.Array, examples: jax.Array, fresh: jax.Array
) -> jax.Array:
    """One pass over the atoms, each put where the cost is least while all others stay.

    Args:
      atoms: (features, inputs).
      codes: (features, features), Σ zᵀ z.
      examples: (features, inputs), Σ zᵀ x.
      fresh: (features, inputs), which takes the place of an atom that no code uses.
    """
    used = jnp.diag(codes)
    unused = used <= 1e-6 * used.mean()

    def one(j, atoms):
        pull = examples[j] - jnp.matmul(codes[j], atoms, precision=EXACT)
        moved = _unit(used[j] * atoms[j] + pull)
        return atoms.at[j].set(jnp.where(unused[j], fresh[j], moved))

    return jax.lax.fori_loop(0, len(atoms), one, atoms)


def _unit(atoms: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(atoms, axis=-1, keepdims=True)
    return atoms / jnp.maximum(length, jnp.finfo(atoms.dtype).tiny)
