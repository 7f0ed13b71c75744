"""Kinds of visible units: binary or real."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.ops import add_bias
from jaxnet.services.checks import check_type


class Visible(NamedTuple):
    """A kind of visible units: `bernoulli`, `gaussian`, or one of your own.

    Fields:
      energy: Function `(x, bias) -> (...)`, the part of the energy of x (..., inputs) that does not
        depend on hidden units.
      log_partition: Function `(input, bias) -> (...)`, the logarithm of the sum (or integral) over
        all x of exp(x·input - energy(x, bias)).
      mean: Function `(field) -> (..., inputs)`, the mean of the units; the field is input + bias.
      sample: Function `(key, field) -> (..., inputs)`, a random sample of the units.
      bias: Function `(mean) -> (..., inputs)`, the bias at which units without input have this
        mean.
      name: Name shown by print.

    Example:
      >>> bernoulli.mean(jnp.zeros(3)).tolist(), gaussian.mean(jnp.zeros(3)).tolist()
      ([0.5, 0.5, 0.5], [0.0, 0.0, 0.0])
    """

    energy: Callable[[jax.Array, jax.Array], jax.Array]
    log_partition: Callable[[jax.Array, jax.Array], jax.Array]
    mean: Callable[[jax.Array], jax.Array]
    sample: Callable[[jax.Array, jax.Array], jax.Array]
    bias: Callable[[jax.Array], jax.Array]
    name: str = "visible"

    def __repr__(self) -> str:
        return self.name


def check_visible(who: str, visible: Any) -> None:
    """Raise unless a value is a kind of visible units.

    Example:
      >>> check_visible("rbm", "bernoulli")
      Traceback (most recent call last):
      ...
      TypeError: rbm: visible must be rbm.bernoulli, rbm.gaussian or a Visible, got str
    """
    check_type(who, "visible", visible, Visible, "rbm.bernoulli, rbm.gaussian or a Visible")


def draw(key: jax.Array, p: jax.Array) -> jax.Array:
    """Return samples 0 or 1, which are 1 with probabilities p.

    Example:
      >>> draw(jax.random.key(0), jnp.array([0.0, 1.0])).tolist()
      [0.0, 1.0]
    """
    return (jax.random.uniform(key, p.shape, p.dtype) < p).astype(p.dtype)


def _logit(mean: jax.Array) -> jax.Array:
    p = jnp.clip(mean, 1e-3, 1 - 1e-3)  # a pixel that is always 0 would have a bias of -inf
    return jnp.log(p) - jnp.log1p(-p)


bernoulli = Visible(
    energy=lambda x, bias: -x @ bias,
    log_partition=lambda input, bias: jax.nn.softplus(add_bias(input, bias)).sum(-1),
    mean=jax.nn.sigmoid,
    sample=lambda key, field: draw(key, jax.nn.sigmoid(field)),
    bias=_logit,
    name="bernoulli",
)
"""Units that are 0 or 1. Data may also be probabilities in [0, 1]."""

gaussian = Visible(
    energy=lambda x, bias: jnp.square(add_bias(x, -bias)).sum(-1) / 2,
    log_partition=lambda input, bias: (
        input * add_bias(input / 2, bias) + 0.5 * jnp.log(2 * jnp.pi)
    ).sum(-1),
    mean=lambda field: field,
    sample=lambda key, field: field + jax.random.normal(key, field.shape, field.dtype),
    bias=lambda mean: mean,
    name="gaussian",
)
"""Real units of variance 1 around their mean, with the energy ½‖x - bias‖².

Standardize the data: each column needs mean 0 and variance 1. Use a learning rate ten times smaller
than with binary units.
"""
