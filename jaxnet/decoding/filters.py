"""Filters of logits before a token is drawn."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.ops.precision import at_least_float32
from jaxnet.services.checks import as_array, between, within
from jaxnet.services.meshes import on_auto_axes
from jaxnet.services.trees import describe


@on_auto_axes
def filter_logits(
    logits: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    top_k: int | None = None,
    top_p: float | jax.Array | None = None,
    min_p: float | jax.Array | None = None,
    repetition_penalty: float | jax.Array | None = None,
    seen: jax.Array | None = None,
) -> jax.Array:
    """Return logits in which tokens that must not be drawn are -inf.

    The filters apply in this order: the repetition penalty, the temperature, top_k, top_p, min_p.
    All numbers but top_k may be traced, so that changing them compiles nothing.

    Args:
      logits: Floats (..., vocabulary).
      temperature: Number above 0 that divides the logits. Below 1, probable tokens become more
        probable.
      top_k: Number of most probable tokens to keep; among equal ones, the tokens of lower id are
        kept.
      top_p: Probability in (0, 1]. The smallest set of most probable tokens whose total
        probability is at least top_p is kept (the nucleus).
      min_p: Fraction in [0, 1] of the largest probability, below which tokens are dropped.
      repetition_penalty: Number above 0 that divides positive logits of tokens that were seen, and
        multiplies negative ones. Above 1, repetitions become less probable.
      seen: Booleans (..., vocabulary), true for tokens that were seen; for repetition_penalty.

    Returns:
      Logits (..., vocabulary), in float32 at least.

    Raises:
      ValueError: If a number is out of range.
      ValueError: If `repetition_penalty` is given without `seen`.

    Example:
      >>> logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
      >>> np.asarray(jax.nn.softmax(filter_logits(logits, top_k=2)))
      array([0.625, 0.375, 0.   , 0.   ], dtype=float32)
      >>> np.asarray(jax.nn.softmax(filter_logits(logits, min_p=0.4)))
      array([0.625, 0.375, 0.   , 0.   ], dtype=float32)

    Reference: top_p: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration"; min_p:
    Nguyen et al. 2024, "Turning Up the Heat"; penalty: Keskar et al. 2019, "CTRL".
    """
    who = "filter_logits"
    z = at_least_float32(as_array(who, "logits", logits, "(..., vocabulary)", "floats"))
    vocabulary = z.shape[-1]
    check_filters(who, temperature, top_k, top_p, min_p, repetition_penalty, vocabulary)
    if repetition_penalty is not None:
        if seen is None:
            raise ValueError(
                f"{who}: repetition_penalty needs seen, booleans (..., vocabulary) that are True "
                "for the tokens so far"
            )
        less = jnp.where(z < 0, z * repetition_penalty, z / repetition_penalty)
        z = jnp.where(seen, less, z)
    z = z / jnp.maximum(temperature, 1e-30)  # 0 if traced: the most probable token
    if top_k is not None or top_p is not None:
        best, order = jax.lax.top_k(z, top_k or vocabulary)
        if top_p is not None:
            p = jax.nn.softmax(best)
            before = jnp.cumsum(p, -1) - p
            # The first token stays even if top_p is rounded to 0. The sum of all may be rounded to
            # 1 before the last tokens.
            is_first = np.arange(best.shape[-1]) == 0
            stays = is_first | (before < top_p) | (top_p >= 1)
            best = jnp.where(stays, best, -jnp.inf)
        nothing = jnp.full_like(z, -jnp.inf)
        z = jnp.put_along_axis(nothing, order, best, axis=-1, inplace=False)
    if min_p is not None:
        least = z.max(-1, keepdims=True) + jnp.log(min_p)
        z = jnp.where(z >= least, z, -jnp.inf)
    return z


def check_filters(who, temperature, top_k, top_p, min_p, repetition_penalty, vocabulary) -> None:
    """Raise unless the numbers of `filter_logits` are in their ranges."""
    within(who, "temperature", temperature, "(0, inf)", "what divides the logits")
    within(who, "top_p", top_p, "(0, 1]", optional=True)
    within(who, "min_p", min_p, "[0, 1]", optional=True)
    within(who, "repetition_penalty", repetition_penalty, "(0, inf)", optional=True)
    if top_k is not None:
        between(who, "top_k", top_k, 1, vocabulary, "the number of tokens")


def latest(n: int, tokens: jax.Array, written: Any) -> jax.Array:
    """Return the last n of the tokens that were written, after -1 where there are fewer."""
    at = jnp.arange(n) - n + written
    return jnp.where(at >= 0, tokens[at], -1)


def changed(function: Callable, logits: jax.Array, tokens: jax.Array, written: Any) -> jax.Array:
    """Return what the caller's function makes of logits (vocabulary,), after `written` tokens."""
    new_logits = function(logits, latest(len(tokens), tokens, written))
    if getattr(new_logits, "shape", None) != logits.shape:
        raise ValueError(
            f"logits: the function must return values of shape (vocabulary,) = {logits.shape}, "
            f"got {describe(new_logits)}"
        )
    return new_logits
