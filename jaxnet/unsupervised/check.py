"""Checked examples, whole batches and outputs of one scale, for all fits."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet import Trainer, TrainState, fit
from jaxnet.services import checks
from jaxnet.typing import Params


def check_fit(
    key: Any, x: Any, features: int, who: str, *, limit: int | None = None, **counts: Any
) -> jax.Array:
    """Validate what every fit takes, and numbers of at least 1; return the examples."""
    checks.check_key(key, who)
    checks.all_at_least(who, **counts)
    return check_examples(x, features, who, limit=limit)


def check_examples(x: Any, features: int, who: str, *, limit: int | None = None) -> jax.Array:
    """Validate the examples and return them as an array (n, inputs) of floats.

    Args:
      x: Examples (n, inputs); integers become float32.
      features: Number of features to fit, at least 1.
      who: Name of the caller, for messages.
      limit: Axis of x whose size bounds the features: 0 for examples, 1 for inputs, None without a
        bound.

    Raises:
      TypeError: If `x` is not an array of numbers.
      TypeError: If `features` is not an integer.
      ValueError: If `x` is not (n, inputs), is empty, or contains NaN or Inf.
      ValueError: If `features` is below 1 or above the bound.

    Example:
      >>> check_examples(np.ones((5, 3, 2)), 4, "kmeans")
      Traceback (most recent call last):
      ...
      ValueError: kmeans: x must have shape (n, inputs), got (5, 3, 2); write x.reshape(len(x), -1)
    """
    if getattr(x, "ndim", 2) > 2:
        raise ValueError(
            f"{who}: x must have shape (n, inputs), got {x.shape}; write x.reshape(len(x), -1)"
        )
    x = checks.as_array(who, "x", x, "(n, inputs)", "reals")
    if not x.size:
        raise ValueError(f"{who}: x must hold at least one example and one input, got {x.shape}")
    checks.check_finite(who, x)
    checks.at_least(who, "features", features)
    if limit is not None:
        meaning = f"for {x.shape[0]} examples of {x.shape[1]} inputs"
        checks.between(who, "features", features, 1, x.shape[limit], meaning)
    return x


def fill_last_batch(key: jax.Array, x: jax.Array, batch_size: int) -> tuple[jax.Array, int]:
    """Repeat random examples until a batch size divides their number.

    It is for objectives that give one value per batch and so cannot leave padding out. Each example
    occurs once or twice.

    Args:
      key: Random key that chooses the examples to repeat, each at most once.
      x: Examples (n, inputs).
      batch_size: Number of examples per batch, at least 1.

    Returns:
      (m, inputs), where the smaller of batch_size and n divides m, and that batch size.

    Example:
      >>> x, batch_size = fill_last_batch(jax.random.key(0), jnp.ones((7, 2)), 3)
      >>> x.shape, batch_size
      ((9, 2), 3)
    """
    size = min(batch_size, len(x))
    missing = -len(x) % size
    if missing:
        repeated = jax.random.choice(key, len(x), (missing,), replace=False)
        x = jnp.concatenate([x, x[repeated]])
    return x, size


def trained(
    learner: Trainer, train_state: TrainState, x: jax.Array, epochs: int, size: int, progress: bool
) -> Params:
    """Return the params after all epochs."""
    options = {"epochs": epochs, "batch_size": size, "progress": progress}
    for epoch in fit(learner, train_state, x, **options):
        train_state = epoch.train_state
    return train_state.params


MEASURED = 10_000  # number of examples used to measure the scale of outputs


@jax.jit
def standardized(kernel: jax.Array, bias: jax.Array, x: jax.Array) -> Params:
    """Return params of `jn.dense` whose outputs have mean 0 and standard deviation 1 over x.

    All units share one factor and one shift, so the order of the outputs stays the same. On other
    scales, units with a ReLU would be always on or always off, and sigmoids would saturate.

    Args:
      kernel: Kernel (inputs, features).
      bias: Bias (features,).
      x: Examples (n, inputs).

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}.

    Example:
      >>> x = jnp.array([[0.0, 2.0], [4.0, 2.0]])
      >>> params = standardized(jnp.eye(2), jnp.zeros(2), x)
      >>> y, _ = jn.dense(2).apply(params, {}, x)
      >>> y.mean().round(5).tolist(), y.std().round(5).tolist()
      (0.0, 1.0)
    """
    step = math.ceil(len(x) / MEASURED)
    outputs = x[::step] @ kernel + bias[None]
    spread = outputs.std()
    factor = 1 / jnp.where(spread > 0, spread, 1)
    return {"kernel": factor * kernel, "bias": factor * (bias - outputs.mean())}
