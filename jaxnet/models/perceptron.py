"""The perceptron and ADALINE: single neurons, and the rules that trained them before gradients."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, Params, State, param_dtype, stateless
from jaxnet.initializers import Initializer, zeros
from jaxnet.layers.dense import dense

Batch = tuple[jax.Array, jax.Array]
Update = tuple[Params, tuple[State, dict[str, jax.Array]]]


def perceptron(
    features: int = 1,
    *,
    kernel_init: Initializer = zeros,
    bias_init: Initializer = zeros,
    name: str = "perceptron",
) -> Layer:
    """Threshold units: y = 1 where x @ kernel + bias > 0, else 0.

    Awkward: a threshold has slope 0 everywhere, so gradients teach it nothing. `train_perceptron`
    and `perceptron_rule` do. Several units are as many perceptrons on one input, one a class.

    Args:
      features: number of units, at least 1.
      kernel_init, bias_init: by default all is 0, where the bound on the mistakes begins.
      name: of the layer.

    Params:
      kernel (inputs, features); bias (features,).

    Raises:
      ValueError: where features is below 1, or the input has no feature axis.

    Example:
      >>> params = {"kernel": jnp.array([[1.0], [1.0]]), "bias": jnp.array([-1.5])}
      >>> x = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]])
      >>> y, _ = perceptron().apply(params, {}, x)  # AND
      >>> y[:, 0].tolist()
      [0.0, 0.0, 0.0, 1.0]

    Reference: Rosenblatt 1958, "The Perceptron".
    """
    if features < 1:
        raise ValueError(f"perceptron: features must be at least 1, got {features}")
    scores = dense(features, kernel_init=kernel_init, bias_init=bias_init, name=name)

    def init(key, x):
        return scores.init(key, x)[0]

    def apply(params, x):
        return _fires(params, x)

    return stateless(init, apply, name=name)


def adaline(
    features: int = 1,
    *,
    kernel_init: Initializer = zeros,
    bias_init: Initializer = zeros,
    name: str = "adaline",
) -> Layer:
    """Linear units, to be trained on targets -1 and +1; the class is the sign of the output.

    It is `dense` under the name of its rule, `delta_rule`, which looks at the output before the
    threshold, and so comes to rest where the squared error is least, separable data or not.

    Args:
      features: number of units, at least 1.
      kernel_init, bias_init: by default all is 0.
      name: of the layer.

    Params:
      kernel (inputs, features); bias (features,).

    Raises:
      ValueError: where features is below 1, or the input has no feature axis.

    Example:
      >>> params, _ = adaline().init(jax.random.key(0), jn.spec((5, 3)))
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (1,), 'kernel': (3, 1)}

    Reference: Widrow and Hoff 1960, "Adaptive Switching Circuits".
    """
    if features < 1:
        raise ValueError(f"adaline: features must be at least 1, got {features}")
    return dense(features, kernel_init=kernel_init, bias_init=bias_init, name=name)


def perceptron_rule(
    params: Params, state: State, batch: Batch, *, key: jax.Array | None = None, train: bool = True
) -> Update:
    """The perceptron's rule for `jn.learning_rule`: Δw = η (y - o) x, Δb = η (y - o).

    With `optax.sgd(η)` it is that, exactly; other optimizers take it as they take a gradient. A
    batch of one example is the online rule, for a larger one the changes add up. The "loss" it
    reports is the share of outputs that are wrong.

    Args:
      params: of `perceptron`, alone and not inside another layer. A fixed feature map in front of
        it is applied to the data beforehand.
      state, key, train: as every rule has them, without effect here.
      batch: x (batch, inputs) and targets y (batch, features), 0 or 1.

    Raises:
      ValueError: where the shapes do not belong together.

    Example:
      >>> step = jn.make_step(jn.learning_rule(perceptron_rule), optax.sgd(0.5))
      >>> data = jnp.array([[2.0, 3.0, 4.0]]), jnp.array([[1.0]])  # a mistake: 0 says no
      >>> train_state = jn.init_training(perceptron(), optax.sgd(0.5), jax.random.key(0), data)
      >>> train_state, metrics = step(train_state, data)
      >>> jax.tree.map(lambda a: a.ravel().tolist(), train_state.params)
      {'bias': [0.5], 'kernel': [1.0, 1.5, 2.0]}

    Reference: Rosenblatt 1958, "The Perceptron".
    """
    x, y = batch
    o = _fires(params, x)
    _check_targets("perceptron_rule", o, y)
    error = o - y  # (batch, features); the optimizer subtracts
    return _outer(x, error), (state, {"loss": jnp.abs(error).mean()})


def delta_rule(
    params: Params, state: State, batch: Batch, *, key: jax.Array | None = None, train: bool = True
) -> Update:
    """ADALINE's rule for `jn.learning_rule`: Δw = η Σ (t - o) x, Δb = η Σ (t - o).

    It is the gradient of E = ½ Σ (t - o)², summed over the examples of the batch, not averaged: so
    η is small where the batch is large, below 2 / (largest eigenvalue of Σ x xᵀ). All examples in
    one batch are the batch rule; one example a batch is the stochastic one (Widrow and Hoff's),
    which with a fixed η keeps moving about the least-squares solution unless the errors are 0
    there; let η fall. The "loss" it reports is E of the batch.

    Args:
      params: of `adaline`, alone and not inside another layer.
      state, key, train: as every rule has them, without effect here.
      batch: x (batch, inputs) and targets t (batch, features), mostly -1 or +1.

    Raises:
      ValueError: where the shapes do not belong together.

    Example:
      >>> params = {"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)}
      >>> batch = jnp.array([[2.0, 3.0, 4.0], [1.0, 0.0, 0.0]]), jnp.array([[1.0], [-1.0]])
      >>> tree, (state, metrics) = delta_rule(params, {}, batch)
      >>> tree["kernel"][:, 0].tolist(), tree["bias"].tolist(), float(metrics["loss"])
      ([-1.0, -3.0, -4.0], [0.0], 1.0)

    Reference: Widrow and Hoff 1960, "Adaptive Switching Circuits".
    """
    x, t = batch
    o = _score(params, x)
    _check_targets("delta_rule", o, t)
    return _outer(x, o - t), (state, {"loss": jnp.square(o - t).sum() / 2})


class PerceptronRun(NamedTuple):
    """What `train_perceptron` gives; prints as a report.

    Fields:
      params: after the last pass, of `perceptron(features)`.
      mistakes: (passes,), wrong outputs in each pass, over all units.
      converged: whether the last pass went without a mistake.
      cycles: whether the weights came back to what they had been after an earlier pass, mistakes
        and all: then they do so for ever.
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
            why = (
                "the weights came back to where they had been and would go round for ever, so no "
                "hyperplane separates the classes"
            )
        else:
            why = "either no hyperplane separates the classes, or more passes are needed"
        return (
            f"did not converge: {int(self.mistakes[-1])} mistakes in pass {passes}, {total} in "
            f"all; {why}. A perceptron finds a separating hyperplane where there is one, and never "
            "rests where there is none; XOR has none. A feature map can make one: train on "
            "jn.polynomial(2), jn.rbf or jn.random_fourier of x"
        )


def train_perceptron(
    x: Any,
    y: Any,
    *,
    learning_rate: float = 1.0,
    passes: int = 1000,
    params: Params | None = None,
) -> PerceptronRun:
    """Trains `perceptron` by its rule, one example after another, until a pass without a mistake.

    The whole run is one compiled loop. Examples come in the order given, in every pass: shuffle
    data that are sorted by class. On separable data it ends; `mistake_bound` says how soon. Where
    it does not end, the result says so: look at `converged`, or print it.

    Args:
      x: (n, inputs), finite.
      y: (n,) or (n, features), targets 0 or 1, or booleans.
      learning_rate: positive. From weights 0 it only scales them, and changes no decision.
      passes: over the data at most, at least 1.
      params: where to start; weights and biases 0 by default.

    Raises:
      ValueError: for empty data, another shape, a NaN or Inf, or targets that are not 0 and 1.

    Example:
      >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
      >>> run = train_perceptron(x, x[:, 0] + x[:, 1] > 0.5)  # OR
      >>> run.converged, run.mistakes.tolist()
      (True, [1, 2, 1, 0])
      >>> print(train_perceptron(x, x[:, 0] != x[:, 1]))  # XOR
      did not converge: ... so no hyperplane separates the classes. ...

    Reference: Rosenblatt 1958, "The Perceptron"; Minsky and Papert 1969, "Perceptrons", on cycles.
    """
    x, y = _check_data("train_perceptron", x, y)
    if not learning_rate > 0:
        raise ValueError(f"train_perceptron: learning_rate must be positive, got {learning_rate}")
    if passes < 1:
        raise ValueError(f"train_perceptron: passes must be at least 1, got {passes}")
    layer = perceptron(y.shape[1])
    first = layer.init(jax.random.key(0), x)[0] if params is None else params
    first = jax.tree.map(lambda w: jnp.asarray(w, x.dtype), first)
    layer.apply(first, {}, x[:1])  # says what does not fit
    trained, mistakes, made, cycles = _train(first, x, y, learning_rate, passes)
    counts = np.asarray(mistakes)[: int(made)]
    return PerceptronRun(trained, counts, bool(counts[-1] == 0), bool(cycles))


def mistake_bound(x: Any, y: Any, params: Params) -> float:
    """Novikoff's bound (R / γ)² on the mistakes of a perceptron that starts at 0.

    R is the largest length of an example, γ its smallest distance from a separating hyperplane,
    with the bias as a weight on a constant input of 1, in both. Any hyperplane that separates gives
    a bound; the one of the largest margin gives the best. For several units it is the sum of
    theirs.

    Args:
      x: (n, inputs), finite.
      y: (n,) or (n, features), targets 0 or 1, or booleans.
      params: of a `perceptron` that makes no mistake on them.

    Raises:
      ValueError: where params make a mistake, or an example lies on the hyperplane; for bad data.

    Example:
      >>> params = {"kernel": np.array([[1.0]]), "bias": np.array([0.0])}
      >>> mistake_bound([[-2.0], [3.0]], [0, 1], params)  # R² = 9 + 1, γ = 2
      2.5

    Reference: Novikoff 1962, "On Convergence Proofs on Perceptrons".
    """
    x, y = map(np.asarray, _check_data("mistake_bound", x, y))
    x = np.append(x, np.ones((len(x), 1)), axis=1).astype(np.float64)  # (n, inputs + 1)
    w = np.vstack([params["kernel"], params["bias"]]).astype(np.float64)  # (inputs + 1, features)
    if w.shape != (x.shape[1], y.shape[1]):
        raise ValueError(
            f"mistake_bound: needs the params of perceptron({y.shape[1]}) on {x.shape[1] - 1} "
            f"inputs, got kernel {np.shape(params['kernel'])} and bias {np.shape(params['bias'])}"
        )
    margins = (np.where(y > 0, 1, -1) * (x @ w)).min(0)  # (features,)
    if (margins <= 0).any():
        raise ValueError(
            "mistake_bound: needs params that have every example on its side of the hyperplane and "
            f"none on it, got a smallest margin of {margins.min() + 0.0:g}; such as those of a "
            "linear support vector machine, whose margin is the largest"
        )
    radius, length = np.square(x).sum(1).max(), np.square(w).sum(0)  # squared
    return float((radius * length / margins**2).sum())


@partial(jax.jit, static_argnums=4)
def _train(params, x, y, rate, passes):
    """(params, mistakes of each pass, passes made, whether the weights go round)."""

    def one(params, example):
        x, y = example
        error = y - _fires(params, x)  # (features,)
        change = {"kernel": jnp.outer(x, error), "bias": error}
        moved = jax.tree.map(lambda w, d: (w + rate * d).astype(w.dtype), params, change)
        return moved, jnp.abs(error).sum().astype(jnp.int32)

    def once(carry):
        params, mistakes, done, seen, cycles = carry
        params, wrong = jax.lax.scan(one, params, (x, y))
        same = [(a == b).all() for a, b in zip(*map(jax.tree.leaves, (params, seen)), strict=True)]
        cycles = jnp.stack(same).all() & (wrong.sum() > 0)
        # Brent 1980: kept from passes 1, 2, 4, 8, ...; a cycle of any length meets one of them.
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
    return x @ params["kernel"] + params["bias"]  # (..., inputs) -> (..., features)


def _fires(params: Params, x: jax.Array) -> jax.Array:
    z = _score(params, x)
    return (z > 0).astype(z.dtype)


def _outer(x: jax.Array, error: jax.Array) -> Params:
    """Σ over the batch: (batch, inputs), (batch, features) -> (inputs, features), (features,)."""
    return {"kernel": x.T.astype(error.dtype) @ error, "bias": error.sum(0)}


def _check_targets(who: str, outputs: jax.Array, targets: jax.Array) -> None:
    if outputs.ndim != 2 or outputs.shape != targets.shape:
        raise ValueError(
            f"{who}: needs x (batch, inputs) and targets (batch, features), got outputs "
            f"{outputs.shape} against targets {targets.shape}; for one unit write y[:, None]"
        )


def _check_data(who: str, x: Any, y: Any) -> tuple[jax.Array, jax.Array]:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"{who}: needs x (n, inputs) with examples in it, got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{who}: x holds a NaN or Inf")
    if y.ndim not in (1, 2) or len(y) != len(x):
        raise ValueError(
            f"{who}: {len(x)} examples need targets ({len(x)},) or ({len(x)}, features), got "
            f"{y.shape}"
        )
    if not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{who}: targets are 0 or 1, got {np.unique(y)[:5].tolist()}; from -1 and +1 write "
            "y > 0, for one unit a class y[:, None] == np.arange(classes)"
        )
    x = jnp.asarray(x)
    x = x.astype(param_dtype(x))
    return x, jnp.asarray(y.reshape(len(y), -1)).astype(x.dtype)
