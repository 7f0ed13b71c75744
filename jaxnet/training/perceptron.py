"""The rules of the perceptron and of ADALINE, and a perceptron's training to the end."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.initializers import zeros
from jaxnet.layers.dense import dense
from jaxnet.ops import add_bias
from jaxnet.ops.product import product
from jaxnet.services import checks
from jaxnet.services.trees import describe
from jaxnet.typing import Params, State

Batch = tuple[jax.Array, jax.Array]
Update = tuple[Params, tuple[State, dict[str, jax.Array]]]


def perceptron_rule(
    params: Params, state: State, batch: Batch, *, key: jax.Array | None = None, train: bool = True
) -> Update:
    """Return the perceptron's changes for `learning_rule`: Δw = η (y - o) x, Δb = η (y - o).

    With `optax.sgd(η)` it is exactly that; other optimizers use it like a gradient. A batch of one
    example is the online rule; in a larger batch the changes add up. The "loss" is the fraction of
    wrong outputs.

    Args:
      params: Params of `jn.models.perceptron` itself, not inside another layer. Apply a fixed
        feature map to the data beforehand.
      state, key, train: Unused; every rule has them.
      batch: Inputs x (batch, inputs) and targets y (batch, features), 0 or 1.

    Returns:
      A tree like `params` of what an optimizer subtracts, that is -Σ (y - o) x, and the pair of the
      state and {"loss": fraction of wrong outputs}.

    Raises:
      ValueError: If outputs and targets have different shapes.

    Example:
      >>> objective = jn.training.learning_rule(jn.models.perceptron(), perceptron_rule)
      >>> trainer = jn.trainer(objective, optax.sgd(0.5))
      >>> data = jnp.array([[2.0, 3.0, 4.0]]), jnp.array([[1.0]])  # output 0, a mistake
      >>> train_state, metrics = trainer.step(trainer.init(jax.random.key(0), data), data)
      >>> jax.tree.map(lambda a: a.ravel().tolist(), train_state.params)
      {'bias': [0.5], 'kernel': [1.0, 1.5, 2.0]}

    Reference: Rosenblatt 1958, "The Perceptron".
    """
    params, x, y = _check_batch("perceptron_rule", params, batch)
    fired = _fired(_score(params, x))
    error = fired - y  # (batch, features); the optimizer subtracts
    loss = jnp.abs(error).mean()
    return _outer(x, error), (state, {"loss": loss})


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
      params: Params of `jn.models.adaline` itself, not inside another layer.
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
    error = _score(params, x) - t  # (batch, features)
    loss = jnp.square(error).sum() / 2
    return _outer(x, error), (state, {"loss": loss})


class PerceptronRun(NamedTuple):
    """The result of `train_perceptron`, which prints as a report.

    Fields:
      params: Params of `jn.models.perceptron(features)` after the last pass.
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
    x: Any,
    y: Any,
    *,
    learning_rate: float = 1.0,
    max_epochs: int = 1000,
    params: Params | None = None,
) -> PerceptronRun:
    """Train a perceptron by its rule, one example at a time, until a pass makes no mistakes.

    The params are those of `jn.models.perceptron`. The whole run is one compiled loop. Every pass
    takes the examples in the order given: shuffle data that are sorted by class. It converges on
    separable data, within `mistake_bound` mistakes; otherwise the result reports it, in `converged`
    and when printed.

    Args:
      x: Inputs (n, inputs), finite.
      y: Targets (n,) or (n, features), 0 or 1, or booleans.
      learning_rate: Positive number. If the weights start from zeros it only scales them.
      max_epochs: Largest number of passes over the data, at least 1.
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
    checks.within("train_perceptron", "learning_rate", learning_rate, "(0, inf)")
    checks.at_least("train_perceptron", "max_epochs", max_epochs, 1)
    layer = dense(y.shape[1], kernel_init=zeros, name="perceptron")
    if params is None:
        params, _ = layer.init(jax.random.key(0), x)
    first = _check_params("train_perceptron", params)
    first = {name: entry.astype(x.dtype) for name, entry in first.items()}
    layer.apply(first, {}, x[:1])  # raises if the params do not fit
    trained, mistakes, epochs_run, cycles = _train(first, x, y, learning_rate, max_epochs)
    mistakes = np.asarray(mistakes)[: int(epochs_run)]
    return PerceptronRun(
        params=trained,
        mistakes=mistakes,
        converged=bool(mistakes[-1] == 0),
        cycles=bool(cycles),
    )


def mistake_bound(x: Any, y: Any, params: Params) -> float:
    """Return Novikoff's bound (R / γ)² on the mistakes of a perceptron that starts at 0.

    R is the largest norm of the examples, γ their smallest distance from a separating hyperplane;
    both treat the bias as a weight on a constant input of 1. Every separating hyperplane gives a
    bound; the hyperplane of the largest margin gives the best. For several units the bounds add up.

    Args:
      x: Inputs (n, inputs), finite.
      y: Targets (n,) or (n, features), 0 or 1, or booleans.
      params: Params of a `jn.models.perceptron` without mistakes on these examples.

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
    n, inputs = x.shape
    features = y.shape[1]
    _check_params("mistake_bound", params)
    kernel = np.asarray(params["kernel"])
    bias = np.asarray(params["bias"])
    if kernel.shape != (inputs, features):
        raise ValueError(
            f"mistake_bound: expected params of perceptron({features}) on {inputs} inputs, got "
            f"kernel {kernel.shape} and bias {bias.shape}"
        )
    x = np.append(x, np.ones((n, 1)), axis=1).astype(np.float64)  # (n, inputs + 1)
    w = np.vstack([kernel, bias]).astype(np.float64)  # (inputs + 1, features)
    sides = np.where(y > 0, 1, -1)
    margins = (sides * (x @ w)).min(0)  # (features,)
    if (margins <= 0).any():
        raise ValueError(
            "mistake_bound: expected params that separate the classes, got a smallest margin of "
            f"{margins.min() + 0.0:g}. A linear support vector machine has the largest margin"
        )
    radius_squared = np.square(x).sum(1).max()
    length_squared = np.square(w).sum(0)
    bounds = radius_squared * length_squared / margins**2
    return float(bounds.sum())


@partial(jax.jit, static_argnums=4)
def _train(params, x, y, rate, max_epochs):
    """Return params, mistakes per pass, number of passes, and whether the weights cycle."""

    def moved(weight, change):
        return (weight + rate * change).astype(weight.dtype)

    def learn_one(params, example):
        x, y = example
        error = y - _fired(_score(params, x))  # (features,)
        change = {"kernel": jnp.outer(x, error), "bias": error}
        wrong = jnp.abs(error).sum().astype(jnp.int32)
        return jax.tree.map(moved, params, change), wrong

    def learn_all(carry):
        params, mistakes, done, seen, cycles = carry
        params, wrong = jax.lax.scan(learn_one, params, (x, y))
        wrong = wrong.sum()
        same = jax.tree.map(lambda now, old: (now == old).all(), params, seen)
        cycles = jnp.stack(jax.tree.leaves(same)).all() & (wrong > 0)
        # Brent 1980: kept from passes 1, 2, 4, 8, ...; a cycle of any length contains one of them.
        keep = (done & (done + 1)) == 0
        seen = jax.tree.map(partial(jnp.where, keep), params, seen)
        mistakes = mistakes.at[done].set(wrong)
        return params, mistakes, done + 1, seen, cycles

    def goes_on(carry):
        _, mistakes, done, _, cycles = carry
        more = (done < max_epochs) & (mistakes[done - 1] > 0) & ~cycles
        return (done == 0) | more

    mistakes = jnp.zeros(max_epochs, jnp.int32)
    nowhere = jax.tree.map(lambda w: jnp.full_like(w, jnp.nan), params)
    start = params, mistakes, jnp.int32(0), nowhere, jnp.bool_(False)
    params, mistakes, done, _, cycles = jax.lax.while_loop(goes_on, learn_all, start)
    return params, mistakes, done, cycles


def _score(params: Params, x: jax.Array) -> jax.Array:
    z = product(x, params["kernel"])  # (..., inputs) -> (..., features)
    return add_bias(z, params["bias"])


def _fired(z: jax.Array) -> jax.Array:
    return (z > 0).astype(z.dtype)


def _outer(x: jax.Array, error: jax.Array) -> Params:
    """Return the sums over the batch of x (batch, inputs) times error (batch, features)."""
    kernel = x.T.astype(error.dtype) @ error  # (inputs, features)
    return {"kernel": kernel, "bias": error.sum(0)}


def _check_batch(who: str, params: Any, batch: Any) -> tuple[Params, jax.Array, jax.Array]:
    """Return the params as JAX arrays, and inputs and targets of a batch that fits them."""
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise TypeError(f"{who}: the batch must be (x, targets), got {describe(batch)}")
    params = _check_params(who, params)
    inputs, features = params["kernel"].shape
    x, targets = batch
    x = checks.as_array(who, "x", x, "(batch, inputs)", "reals", {"inputs": inputs})
    targets = checks.as_array(who, "targets", targets, "(...)", "reals")
    if targets.shape != (len(x), features):
        raise ValueError(
            f"{who}: expected x (batch, inputs) and targets (batch, features), got outputs "
            f"{(len(x), features)} and targets {targets.shape}. For one unit, pass y[:, None]"
        )
    return params, x, targets


def _check_params(who: str, params: Any) -> Params:
    """Kernel and bias of a perceptron."""
    checks.check_dict(who, "params", params)
    sizes: dict[str, int] = {}
    forms = {"kernel": "(inputs, features)", "bias": "(features,)"}
    return {
        name: checks.as_array(who, f"the {name}", params.get(name), form, "reals", sizes)
        for name, form in forms.items()
    }


def _check_examples(who: str, x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    x = checks.on_host(who, "x", x, dtype="booleans or numbers")
    y = checks.on_host(who, "targets", y, dtype="booleans or numbers")
    checks.check_data((x, y), who)
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
    x = checks.to_device(who, "x", x)
    x = x.astype(jnp.result_type(jnp.float32, x))
    if y.ndim == 1:
        y = y[:, None]
    return x, jnp.asarray(y).astype(x.dtype)
