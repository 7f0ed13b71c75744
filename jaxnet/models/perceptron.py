"""The perceptron and ADALINE: single neurons with their learning rules."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet import Layer, compose, dense, product, tools
from jaxnet.initializers import Initializer, zeros
from jaxnet.ops import plus
from jaxnet.services.checks import check_data, check_dict, to_device
from jaxnet.services.trees import describe
from jaxnet.typing import Params, State

Batch = tuple[jax.Array, jax.Array]
Update = tuple[Params, tuple[State, dict[str, jax.Array]]]


def perceptron(
    features: int = 1,
    *,
    kernel_init: Initializer = zeros,
    bias_init: Initializer = zeros,
    name: str = "perceptron",
) -> Layer:
    """Make threshold units: y = 1 if x @ kernel + bias > 0, else 0.

    Note: the gradient of a threshold is 0 everywhere. Train with `train_perceptron` or
    `perceptron_rule`. Several units are separate perceptrons on one input, one per class.

    Args:
      features: Number of units, at least 1.
      kernel_init, bias_init: Initializers; zeros by default, as the bound on the mistakes assumes.
      name: Name of the layer.

    Params:
      kernel (inputs, features); bias (features,).

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> params = {"kernel": jnp.array([[1.0], [1.0]]), "bias": jnp.array([-1.5])}
      >>> x = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
      >>> y, _ = perceptron().apply(params, {}, x)  # AND
      >>> y[:, 0].tolist()
      [0.0, 0.0, 0.0, 1.0]

    Reference: Rosenblatt 1958, "The Perceptron".
    """
    scores = dense(features, kernel_init=kernel_init, bias_init=bias_init, name=name)

    def forward(m, x):
        return _fired(m.inline(scores, x))

    return compose(forward, name=name, kind="perceptron")


def adaline(
    features: int = 1,
    *,
    kernel_init: Initializer = zeros,
    bias_init: Initializer = zeros,
    name: str = "adaline",
) -> Layer:
    """Make linear units for targets -1 and +1; the class is the sign of the output.

    It is `dense` with zeros for initial params. Its rule, `delta_rule`, uses the output before the
    threshold and converges to the least squared error, whether or not the data are separable.

    Args:
      features: Number of units, at least 1.
      kernel_init, bias_init: Initializers; zeros by default.
      name: Name of the layer.

    Params:
      kernel (inputs, features); bias (features,).

    Raises:
      ValueError: If `features` is below 1.
      ValueError: If the input does not have a feature axis.

    Example:
      >>> params, _ = adaline().init(jax.random.key(0), jn.spec((5, 3)))
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (1,), 'kernel': (3, 1)}

    Reference: Widrow and Hoff 1960, "Adaptive Switching Circuits".
    """
    layer = dense(features, kernel_init=kernel_init, bias_init=bias_init, name=name)
    return layer._replace(kind="adaline")


def perceptron_rule(
    params: Params, state: State, batch: Batch, *, key: jax.Array | None = None, train: bool = True
) -> Update:
    """Return the perceptron's changes for `learning_rule`: Δw = η (y - o) x, Δb = η (y - o).

    With `optax.sgd(η)` it is exactly that; other optimizers use it like a gradient. A batch of one
    example is the online rule; in a larger batch the changes add up. The "loss" is the fraction of
    wrong outputs.

    Args:
      params: Params of `perceptron` itself, not inside another layer. Apply a fixed feature map to
        the data beforehand.
      state, key, train: Unused; every rule has them.
      batch: Inputs x (batch, inputs) and targets y (batch, features), 0 or 1.

    Returns:
      A tree like `params` of what an optimizer subtracts, that is -Σ (y - o) x, and the pair of the
      state and {"loss": fraction of wrong outputs}.

    Raises:
      ValueError: If outputs and targets have different shapes.

    Example:
      >>> objective = jn.training.learning_rule(perceptron(), perceptron_rule)
      >>> trainer = jn.trainer(objective, optax.sgd(0.5))
      >>> data = jnp.array([[2.0, 3.0, 4.0]]), jnp.array([[1.0]])  # output 0, a mistake
      >>> train_state, metrics = trainer.step(trainer.init(jax.random.key(0), data), data)
      >>> jax.tree.map(lambda a: a.ravel().tolist(), train_state.params)
      {'bias': [0.5], 'kernel': [1.0, 1.5, 2.0]}

    Reference: Rosenblatt 1958, "The Perceptron".
    """
    params, x, y = _check_batch("perceptron_rule", params, batch)
    error = _fired(_score(params, x)) - y  # (batch, features); the optimizer subtracts
    return _outer(x, error), (state, {"loss": jnp.abs(error).mean()})


def delta_rule(
    params: Params, state: State, batch: Batch, *, key: jax.Array | None = None, train: bool = True
) -> Update:
    """Return ADALINE's changes for `learning_rule`: Δw = η Σ (t - o) x, Δb = η Σ (t - o).

    It is the negative gradient of E = ½ Σ (t - o)², times η. E is a sum over the batch, not a mean,
    so large batches need a small η, below 2 / (largest eigenvalue of Σ x xᵀ). All examples in one
    batch give the batch rule; one example per batch gives the stochastic rule of Widrow and Hoff,
    which with a constant η fluctuates around the least-squares solution unless all errors are 0
    there; decrease η. The "loss" is E of the batch.

    Args:
      params: Params of `adaline` itself, not inside another layer.
      state, key, train: Unused; every rule has them.
      batch: Inputs x (batch, inputs) and targets t (batch, features), usually -1 or +1.

    Returns:
      A tree like `params` of what an optimizer subtracts, that is -Σ (t - o) x, and the pair of the
      state and {"loss": E}.

    Raises:
      ValueError: If outputs and targets have different shapes.

    Example:
      >>> params = {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}
      >>> batch = jnp.array([[2.0, 3.0, 4.0], [1.0, 0.0, 0.0]]), jnp.array([[1.0], [-1.0]])
      >>> tree, (state, metrics) = delta_rule(params, {}, batch)
      >>> tree["kernel"][:, 0].tolist(), tree["bias"].tolist(), float(metrics["loss"])
      ([-1.0, -3.0, -4.0], [0.0], 1.0)

    Reference: Widrow and Hoff 1960, "Adaptive Switching Circuits".
    """
    params, x, t = _check_batch("delta_rule", params, batch)
    o = _score(params, x)
    return _outer(x, o - t), (state, {"loss": jnp.square(o - t).sum() / 2})


class PerceptronRun(NamedTuple):
    """The result of `train_perceptron`, which prints as a report.

    Fields:
      params: Params of `perceptron(features)` after the last pass.
      mistakes: Numbers of wrong outputs per pass, over all units, (passes,).
      converged: Whether the last pass made no mistakes.
      cycles: Whether the weights did not converge and became equal to the weights after an earlier
        pass. They would then repeat endlessly.
    """

    params: Params
    mistakes: np.ndarray
    converged: bool
    cycles: bool

    def __str__(self) -> str:
        passes, total = len(self.mistakes), int(self.mistakes.sum())
        if self.converged:
            return f"converged: pass {passes} made no mistake, {total} before it"
        if self.cycles:
            why = "the weights repeat in a cycle, so no hyperplane separates the classes"
        else:
            why = "either no hyperplane separates the classes, or more passes are needed"
        return (
            f"did not converge: {int(self.mistakes[-1])} mistakes in pass {passes}, {total} in "
            f"all; {why}. A perceptron converges only if a hyperplane separates the classes, which "
            "is impossible for XOR. A feature map can make them separable: train on "
            "jn.layers.polynomial(2), jn.layers.rbf or jn.layers.random_fourier of x"
        )


def train_perceptron(
    x: Any, y: Any, *, learning_rate: float = 1.0, passes: int = 1000, params: Params | None = None
) -> PerceptronRun:
    """Train `perceptron` by its rule, one example at a time, until a pass makes no mistakes.

    The whole run is one compiled loop. Every pass takes the examples in the order given: shuffle
    data that are sorted by class. It converges on separable data, within `mistake_bound` mistakes;
    otherwise the result reports it, in `converged` and when printed.

    Args:
      x: Inputs (n, inputs), finite.
      y: Targets (n,) or (n, features), 0 or 1, or booleans.
      learning_rate: Positive number. If the weights start from zeros it only scales them.
      passes: Largest number of passes over the data, at least 1.
      params: Initial params; zeros by default.

    Returns:
      A `PerceptronRun` with the params, the mistakes of each pass and whether it converged. It
      prints as a sentence.

    Raises:
      ValueError: If the data is empty, has a wrong shape, or contains NaN or Inf.
      ValueError: If a target is neither 0 nor 1.

    Example:
      >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
      >>> run = train_perceptron(x, x[:, 0] + x[:, 1] > 0.5)  # OR
      >>> print(run)
      converged: pass 4 made no mistake, 4 before it
      >>> run.mistakes.tolist()  # of each pass
      [1, 2, 1, 0]
      >>> print(train_perceptron(x, x[:, 0] != x[:, 1]))  # XOR
      did not converge: ... so no hyperplane separates the classes. ...

    Reference: Rosenblatt 1958, "The Perceptron"; cycles: Minsky and Papert 1969, "Perceptrons".
    """
    x, y = _check_examples("train_perceptron", x, y)
    tools.within("train_perceptron", "learning_rate", learning_rate, "(0, inf)")
    tools.at_least("train_perceptron", "passes", passes, 1)
    layer = perceptron(y.shape[1])
    first = layer.init(jax.random.key(0), x)[0] if params is None else params
    first = _check_params("train_perceptron", first)
    first = {name: entry.astype(x.dtype) for name, entry in first.items()}
    layer.apply(first, {}, x[:1])  # raises if the params do not fit
    trained, mistakes, made, cycles = _train(first, x, y, learning_rate, passes)
    counts = np.asarray(mistakes)[: int(made)]
    return PerceptronRun(trained, counts, bool(counts[-1] == 0), bool(cycles))


def mistake_bound(x: Any, y: Any, params: Params) -> float:
    """Return Novikoff's bound (R / γ)² on the mistakes of a perceptron that starts at 0.

    R is the largest norm of the examples, γ their smallest distance from a separating hyperplane;
    both treat the bias as a weight on a constant input of 1. Every separating hyperplane gives a
    bound; the hyperplane of the largest margin gives the best. For several units the bounds add up.

    Args:
      x: Inputs (n, inputs), finite.
      y: Targets (n,) or (n, features), 0 or 1, or booleans.
      params: Params of a `perceptron` without mistakes on these examples.

    Returns:
      The bound, a float; the real number of mistakes is at most this.

    Raises:
      ValueError: If `params` does not separate the classes.
      ValueError: If the data is invalid.

    Example:
      >>> params = {"kernel": np.array([[1.0]]), "bias": np.array([0.0])}
      >>> mistake_bound([[-2.0], [3.0]], [0, 1], params)  # R² = 9 + 1, γ = 2
      2.5

    Reference: Novikoff 1962, "On Convergence Proofs on Perceptrons".
    """
    x, y = map(np.asarray, _check_examples("mistake_bound", x, y))
    x = np.append(x, np.ones((len(x), 1)), axis=1).astype(np.float64)  # (n, inputs + 1)
    _check_params("mistake_bound", params)
    w = np.vstack([params["kernel"], params["bias"]]).astype(np.float64)  # (inputs + 1, features)
    if w.shape != (x.shape[1], y.shape[1]):
        raise ValueError(
            f"mistake_bound: expected params of perceptron({y.shape[1]}) on {x.shape[1] - 1} "
            f"inputs, got kernel {np.shape(params['kernel'])} and bias {np.shape(params['bias'])}"
        )
    margins = (np.where(y > 0, 1, -1) * (x @ w)).min(0)  # (features,)
    if (margins <= 0).any():
        raise ValueError(
            "mistake_bound: expected params that separate the classes, got a smallest margin of "
            f"{margins.min() + 0.0:g}. A linear support vector machine has the largest margin"
        )
    radius, length = np.square(x).sum(1).max(), np.square(w).sum(0)  # squared
    return float((radius * length / margins**2).sum())


@partial(jax.jit, static_argnums=4)
def _train(params, x, y, rate, passes):
    """Return params, mistakes per pass, number of passes, and whether the weights cycle."""

    def one(params, example):
        x, y = example
        error = y - _fired(_score(params, x))  # (features,)
        change = {"kernel": jnp.outer(x, error), "bias": error}
        moved = jax.tree.map(lambda w, d: (w + rate * d).astype(w.dtype), params, change)
        return moved, jnp.abs(error).sum().astype(jnp.int32)

    def once(carry):
        params, mistakes, done, seen, cycles = carry
        params, wrong = jax.lax.scan(one, params, (x, y))
        same = [(a == b).all() for a, b in zip(*map(jax.tree.leaves, (params, seen)), strict=True)]
        cycles = jnp.stack(same).all() & (wrong.sum() > 0)
        # Brent 1980: kept from passes 1, 2, 4, 8, ...; a cycle of any length contains one of them.
        keep = (done & (done + 1)) == 0
        seen = jax.tree.map(lambda now, old: jnp.where(keep, now, old), params, seen)
        return params, mistakes.at[done].set(wrong.sum()), done + 1, seen, cycles

    def goes_on(carry):
        _, mistakes, done, _, cycles = carry
        return (done == 0) | ((done < passes) & (mistakes[done - 1] > 0) & ~cycles)

    nowhere = jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), params)
    start = params, jnp.zeros(passes, jnp.int32), jnp.int32(0), nowhere, jnp.bool_(False)
    params, mistakes, done, _, cycles = jax.lax.while_loop(goes_on, once, start)
    return params, mistakes, done, cycles


def _score(params: Params, x: jax.Array) -> jax.Array:
    return plus(product(x, params["kernel"]), params["bias"])  # (..., inputs) -> (..., features)


def _fired(z: jax.Array) -> jax.Array:
    return (z > 0).astype(z.dtype)


def _outer(x: jax.Array, error: jax.Array) -> Params:
    """Return Σ over the batch: (batch, inputs), (batch, features) -> (inputs, features),
    (features,)."""
    return {"kernel": x.T.astype(error.dtype) @ error, "bias": error.sum(0)}


def _check_batch(who: str, params: Any, batch: Any) -> tuple[Params, jax.Array, jax.Array]:
    """Return the params as JAX arrays, and inputs and targets of a batch that fits them."""
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise TypeError(f"{who}: the batch must be (x, targets), got {describe(batch)}")
    params = _check_params(who, params)
    inputs, features = params["kernel"].shape
    x = tools.as_array(who, "x", batch[0], "(batch, inputs)", "reals", {"inputs": inputs})
    targets = tools.as_array(who, "targets", batch[1], "(...)", "reals")
    if targets.shape != (len(x), features):
        raise ValueError(
            f"{who}: expected x (batch, inputs) and targets (batch, features), got outputs "
            f"{(len(x), features)} and targets {targets.shape}. For one unit, pass y[:, None]"
        )
    return params, x, targets


def _check_params(who: str, params: Any) -> Params:
    """Kernel and bias of a perceptron."""
    check_dict(who, "params", params)
    sizes: dict[str, int] = {}
    forms = {"kernel": "(inputs, features)", "bias": "(features,)"}
    return {
        name: tools.as_array(who, f"the {name}", params.get(name), form, "reals", sizes)
        for name, form in forms.items()
    }


def _check_examples(who: str, x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    x = tools.on_host(who, "x", x, dtype="booleans or numbers")
    y = tools.on_host(who, "targets", y, dtype="booleans or numbers")
    check_data((x, y), who)
    if x.ndim != 2 or y.ndim not in (1, 2):
        raise ValueError(
            f"{who}: expected x (n, inputs) and targets (n,) or (n, features), got {x.shape} and "
            f"{y.shape}"
        )
    if not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{who}: targets must be 0 or 1, got {np.unique(y)[:5].tolist()}. For -1 and +1, pass "
            "y > 0; for one unit per class, y[:, None] == np.arange(classes)"
        )
    x = to_device(who, "x", x)
    x = x.astype(jnp.result_type(jnp.float32, x))
    return x, jnp.asarray(y if y.ndim == 2 else y[:, None]).astype(x.dtype)
