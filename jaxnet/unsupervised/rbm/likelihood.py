"""Likelihood of a restricted Boltzmann machine: exact sums over states, or estimated by AIS."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxnet import child_key
from jaxnet.ops import add_bias
from jaxnet.services.checks import as_array, at_least, check_key, on_host
from jaxnet.typing import Params
from jaxnet.unsupervised.rbm.machine import free_energy, read_params
from jaxnet.unsupervised.rbm.units import Visible, bernoulli, draw

MOST_UNITS = 20  # largest layer that is enumerated: a million states
BLOCK = 2**12  # number of states in memory at once


def log_partition(params: Params, *, visible: Visible = bernoulli) -> jax.Array:
    """Return log Z, exactly, as a sum over all states of one layer of at most 20 units.

    The sum runs over the smaller layer if the visible units are Bernoulli, else over the hidden
    layer.

    Args:
      params: Params of an `rbm`.
      visible: Kind of the visible units.

    Returns:
      log Z, a scalar, in nats.

    Raises:
      TypeError: If `params` are not params of an `rbm`.
      ValueError: If that layer has more than 20 units; `ais` gives an estimate.

    Example:
      >>> params = {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3), "visible_bias": jnp.zeros(5)}
      >>> log_partition(params) / jnp.log(2)  # 5 + 3 coins
      Array(8., dtype=float32)
    """
    params, _ = read_params("log_partition", params, visible)
    inputs, features = params["kernel"].shape
    if visible is bernoulli and inputs < features:  # the same machine with its layers exchanged
        biases = {"bias": params["visible_bias"], "visible_bias": params["bias"]}
        params = biases | {"kernel": params["kernel"].T}
    units = params["bias"].shape[0]
    if units > MOST_UNITS:
        raise ValueError(
            f"log_partition: a layer of {units} units has 2**{units} states; the sum is limited to "
            f"{MOST_UNITS} units. For an estimate write ais(key, params).log_partition"
        )
    return _enumerate(params, visible)


@partial(jax.jit, static_argnames="visible")
def _enumerate(params, visible):
    units = params["bias"].shape[0]
    block = min(2**units, BLOCK)

    def sum_block(first):
        states = first + jnp.arange(block)
        bits = (states[:, None] >> jnp.arange(units)[None]) & 1  # (block,) -> (block, units)
        h = bits.astype(params["kernel"].dtype)
        input = h @ params["kernel"].T
        below = visible.log_partition(input, params["visible_bias"])
        return jax.nn.logsumexp(h @ params["bias"] + below)

    blocks = jnp.arange(0, 2**units, block)
    return jax.nn.logsumexp(jax.lax.map(sum_block, blocks))


def log_likelihood(params: Params, x: ArrayLike, *, visible: Visible = bernoulli) -> jax.Array:
    """Return log p(x) of each example, exactly, in nats; `log_partition` limits the units.

    Args:
      params: Params of an `rbm`.
      x: Examples (..., inputs).
      visible: Kind of the visible units; with gaussian units p is a density.

    Returns:
      Log-likelihoods (...), one per example.

    Raises:
      TypeError, ValueError: As in `log_partition`, or if x has the wrong shape.

    Example:
      >>> params = {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3), "visible_bias": jnp.zeros(5)}
      >>> log_likelihood(params, jnp.ones((2, 5))) / jnp.log(2)
      Array([-5., -5.], dtype=float32)
    """
    params, sizes = read_params("log_likelihood", params, visible)
    x = as_array("log_likelihood", "x", x, "(..., inputs)", "reals", sizes)
    return -free_energy(params, x, visible=visible) - log_partition(params, visible=visible)


class AISResult(NamedTuple):
    """Result of `ais`.

    Fields:
      log_partition: Estimate of log Z.
      standard_error: Standard error of the estimate, from the spread of the runs; too small if one
        run outweighs all others.
      log_weights: Log-weights (runs,), whose log-mean-exp is the estimate of log Z.
    """

    log_partition: jax.Array
    standard_error: jax.Array
    log_weights: jax.Array


def ais(
    key: jax.Array,
    params: Params,
    *,
    runs: int = 100,
    betas: Any = None,
    data: Any = None,
    visible: Visible = bernoulli,
) -> AISResult:
    """Estimate log Z by annealed importance sampling.

    Each run starts at a machine without weights, whose Z is known, and moves to the given machine
    as an inverse temperature β rises from 0 to 1: the kernel is β·kernel, the bias β·bias, and the
    visible bias is interpolated. The estimate of Z is unbiased, so the estimate of log Z is too low
    on average (and likelihoods are too high), by a large amount if there are too few steps. Double
    the steps to test whether the estimate changes.

    Args:
      key: Random key of all draws.
      params: Params of an `rbm`.
      runs: Number of independent chains, at least 2.
      betas: Inverse temperatures (steps + 1,), rising from 0 to 1; by default 1,001 equally spaced
        values. Large machines need ten times that number, most of it above 0.9 [Salakhutdinov and
        Murray 2008].
      data: Examples (n, inputs), whose mean sets the initial visible bias; a start near the data
        needs fewer steps. By default the initial bias is 0.
      visible: Kind of the visible units.

    Returns:
      An `AISResult` of the estimate of log Z, its standard error and the log weights of the runs.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If params or data do not fit, if there are fewer than 2 runs, or if the betas do
        not rise from 0 to 1.

    Example:
      >>> params = {"kernel": jnp.eye(5, 3), "bias": jnp.ones(3), "visible_bias": jnp.zeros(5)}
      >>> estimate = ais(jax.random.key(0), params, betas=np.linspace(0, 1, 201))
      >>> print(f"{estimate.log_partition:.2f}, exactly {log_partition(params):.2f}")
      8.87, exactly 8.87

    Reference: Salakhutdinov and Murray 2008, "On the Quantitative Analysis of Deep Belief
    Networks".
    """
    check_key(key, "ais")
    params, sizes = read_params("ais", params, visible)
    if betas is None:
        betas = np.linspace(0, 1, 1001)
    betas = on_host("ais", "betas", betas, "(n,)")
    rises = len(betas) > 1 and (np.diff(betas) > 0).all()
    if not (rises and betas[0] == 0 and betas[-1] == 1):
        raise ValueError("ais: betas must rise from 0 to 1, such as np.linspace(0, 1, 1001)")
    at_least("ais", "runs", runs, 2)
    start = jnp.zeros_like(params["visible_bias"])
    if data is not None:
        data = as_array("ais", "data", data, "(n, inputs)", "reals", sizes)
        if not len(data):
            raise ValueError(f"ais: data must hold at least one example, got {data.shape}")
        start = visible.bias(data.astype(start.dtype).mean(0))
    return _ais(key, params, start, jnp.asarray(betas, start.dtype), runs, visible)


@partial(jax.jit, static_argnames=("runs", "visible"))
def _ais(key, params, start, betas, runs, visible):
    kernel, bias = params["kernel"], params["bias"]

    def visible_bias(beta):
        return (1 - beta) * start + beta * params["visible_bias"]

    def free(beta, x, field):  # the free energy at β; field is the field at β = 1
        hidden = jax.nn.softplus(beta * field).sum(-1)
        return visible.energy(x, visible_bias(beta)) - hidden

    def step(i, carry):
        x, log_weights = carry
        beta = betas[i + 1]
        step_key = jax.random.fold_in(key, i)
        field = add_bias(x @ kernel, bias)  # (runs, inputs) -> (runs, features)
        log_weights += free(betas[i], x, field) - free(beta, x, field)
        h = draw(child_key(step_key, "hidden"), jax.nn.sigmoid(beta * field))
        below = add_bias(beta * (h @ kernel.T), visible_bias(beta))
        return visible.sample(child_key(step_key, "visible"), below), log_weights

    fields = jnp.broadcast_to(start, (runs, *start.shape))
    x = visible.sample(child_key(key, "start"), fields)
    features = bias.shape[0]
    log_z = features * jnp.log(2.0) + visible.log_partition(jnp.zeros_like(start), start)
    log_weights = jnp.full(runs, log_z, kernel.dtype)
    steps = betas.shape[0] - 1
    _, log_weights = jax.lax.fori_loop(0, steps, step, (x, log_weights))
    log_z = jax.nn.logsumexp(log_weights) - jnp.log(runs)
    weights = jnp.exp(log_weights - log_z)
    error = weights.std(ddof=1) / jnp.sqrt(runs)
    return AISResult(log_z, error, log_weights)
