"""What fits have in common: a look at the data before, the scale of the outputs after."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Params, param_dtype

MEASURED = 10_000  # examples from which a scale is taken


def check_examples(x: Any, features: int, who: str, *, limit: int | None = None) -> jax.Array:
    """The examples as an array (n, inputs) of floats, after a look at shape and values.

    Args:
      x: (n, inputs); integers become float32.
      features: how many are to be fitted.
      who: named in messages.
      limit: 0 or 1 where there cannot be more features than examples or inputs; None where there
        can.

    Raises:
      ValueError: where x is not (n, inputs), empty, or holds a NaN or Inf, and for features below 1
        or above the limit.

    Example:
      >>> check_examples(np.ones((5, 3, 2)), 4, "fit_kmeans")
      Traceback (most recent call last):
      ...
      ValueError: fit_kmeans: x must be (n, inputs), got (5, 3, 2); write x.reshape(len(x), -1)
    """
    shape = np.shape(x)
    if len(shape) != 2:
        hint = "; write x.reshape(len(x), -1)" if len(shape) > 2 else ""
        raise ValueError(f"{who}: x must be (n, inputs), got {shape}{hint}")
    if 0 in shape:
        raise ValueError(f"{who}: x must hold at least one example and one input, got {shape}")
    x = jnp.asarray(x)
    x = x.astype(param_dtype(x))
    finite = np.asarray(jnp.isfinite(x).all(1))
    if not finite.all():
        raise ValueError(
            f"{who}: {(~finite).sum()} of {len(finite)} examples hold a NaN or Inf, "
            f"the first is number {int(np.argmin(finite))}"
        )
    if features < 1:
        raise ValueError(f"{who}: features must be at least 1, got {features}")
    if limit is not None and features > shape[limit]:
        raise ValueError(
            f"{who}: {shape[0]} examples of {shape[1]} inputs give at most {shape[limit]} "
            f"features, got {features}"
        )
    return x


def check_scale(scale: float | None, who: str) -> None:
    """Raises unless the scale is positive or None.

    Example:
      >>> check_scale(-1, "fit_kmeans")
      Traceback (most recent call last):
      ...
      ValueError: fit_kmeans: scale must be positive or None, got -1
    """
    if scale is not None and not scale > 0:
        raise ValueError(f"{who}: scale must be positive or None, got {scale}")


def scaled(kernel: jax.Array, bias: jax.Array, x: jax.Array, scale: float) -> Params:
    """Params of `jn.dense` whose outputs have mean 0 and this standard deviation over x.

    One factor and one shift for all units, so that what was larger stays larger. With other scales
    relu and sigmoid find units that never sleep or never wake.

    Args:
      kernel: (inputs, features).
      bias: (features,).
      x: (n, inputs), of which at most 10,000 are looked at.
      scale: positive. Where all outputs are equal they become 0.

    Example:
      >>> params = scaled(jnp.ones((1, 1)), jnp.zeros(1), jnp.array([[3.0], [5.0]]), 1.0)
      >>> params["kernel"].tolist(), params["bias"].tolist()
      ([[1.0]], [-4.0])
    """
    outputs = x[:: -(-len(x) // MEASURED)] @ kernel + bias
    spread = outputs.std()
    factor = scale / jnp.where(spread > 0, spread, 1)
    return {"kernel": factor * kernel, "bias": factor * (bias - outputs.mean())}
