"""Restricted Boltzmann machine: hidden units that explain visible ones, learned from samples.

Visible units x and binary hidden units h have an energy, and the lower it is the likelier they are:

    E(x, h) = visible.energy(x, visible_bias) - x·kernel·h - bias·h        p(x, h) = exp(-E) / Z

Each layer is independent given the other, so block Gibbs sampling draws a whole layer at once.
The gradient of log p(x) is that of the free energy of the data against that of the model's own
samples; contrastive divergence takes for these the end of a short chain that starts at the data,
persistent contrastive divergence that of chains that go on for all of training.

References: Hinton 2002, "Training Products of Experts by Minimizing Contrastive Divergence";
Tieleman 2008, "Training Restricted Boltzmann Machines using Approximations to the Likelihood
Gradient"; Hinton 2010, "A Practical Guide to Training Restricted Boltzmann Machines".
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxnet.core import Layer, Params, checked, child_key, param_dtype
from jaxnet.initializers import Initializer, normal, zeros
from jaxnet.training import fit, init_training, learning_rule, make_step
from jaxnet.unsupervised.check import check_examples

MOST_UNITS = 20  # that are enumerated: a million states
BLOCK = 2**12  # states in memory at once


class Visible(NamedTuple):
    """A kind of visible units: `bernoulli`, `gaussian`, `softmax(k)`, or one of your own.

    Fields:
      energy: `(x, bias) -> (...)`, the part of the energy that the visible units have alone, for
        x (..., inputs).
      log_partition: `(input, bias) -> (...)`, the logarithm of the sum (or integral) over all x of
        exp(x·input - energy(x, bias)).
      mean: of the units, `(field) -> (..., inputs)`, where the field is input + bias.
      sample: `(key, field) -> (..., inputs)`.
      bias: `(mean) -> (..., inputs)`, the bias at which units without input have this mean.
      name: what it prints as.
    """

    energy: Callable[[jax.Array, jax.Array], jax.Array]
    log_partition: Callable[[jax.Array, jax.Array], jax.Array]
    mean: Callable[[jax.Array], jax.Array]
    sample: Callable[[jax.Array, jax.Array], jax.Array]
    bias: Callable[[jax.Array], jax.Array]
    name: str = "visible"

    def __repr__(self) -> str:
        return self.name


def _draw(key: jax.Array, p: jax.Array) -> jax.Array:
    """0 or 1, with these probabilities of 1."""
    return (jax.random.uniform(key, p.shape, p.dtype) < p).astype(p.dtype)


def _logit(mean: jax.Array) -> jax.Array:
    p = jnp.clip(mean, 1e-3, 1 - 1e-3)  # a pixel that is always 0 would have a bias of -inf
    return jnp.log(p) - jnp.log1p(-p)


# Units that are 0 or 1; as data, probabilities in [0, 1] will do as well.
bernoulli = Visible(
    energy=lambda x, bias: -x @ bias,
    log_partition=lambda input, bias: jax.nn.softplus(input + bias).sum(-1),
    mean=jax.nn.sigmoid,
    sample=lambda key, field: _draw(key, jax.nn.sigmoid(field)),
    bias=_logit,
    name="bernoulli",
)

# Real units of variance 1 around their mean: energy ½‖x - bias‖². Data must be standardized, each
# column to mean 0 and variance 1. Learning rates are ten times smaller than with binary units.
gaussian = Visible(
    energy=lambda x, bias: jnp.square(x - bias).sum(-1) / 2,
    log_partition=lambda input, bias: (input * (input / 2 + bias) + 0.5 * jnp.log(2 * jnp.pi)).sum(
        -1
    ),
    mean=lambda field: field,
    sample=lambda key, field: field + jax.random.normal(key, field.shape, field.dtype),
    bias=lambda mean: mean,
    name="gaussian",
)


@cache  # the same value each time, so that nothing compiles twice
def softmax(k: int) -> Visible:
    """Visible units in groups of k, of which exactly one is 1: categories, ratings, words.

    Args:
      k: units a group, at least 2; units 0 to k - 1 are the first group. The number of visible
        units is a multiple of k.

    Example:
      >>> softmax(3).mean(jnp.zeros((2, 6))).sum(-1).tolist()  # two groups of probabilities
      [2.0, 2.0]

    Reference: Salakhutdinov, Mnih and Hinton 2007, "Restricted Boltzmann Machines for Collaborative
    Filtering".
    """
    if k < 2:
        raise ValueError(f"softmax: a group needs at least 2 units, got {k}")

    def groups(units: jax.Array) -> jax.Array:
        if units.shape[-1] % k:
            raise ValueError(
                f"softmax({k}): the number of visible units must be a multiple of {k}, "
                f"got {units.shape[-1]}"
            )
        return units.reshape(*units.shape[:-1], -1, k)  # (..., groups * k) -> (..., groups, k)

    def sample(key, field):
        chosen = jax.random.categorical(key, groups(field))  # (..., groups)
        return jax.nn.one_hot(chosen, k, dtype=field.dtype).reshape(field.shape)

    return Visible(
        energy=lambda x, bias: -x @ bias,
        log_partition=lambda input, bias: jax.nn.logsumexp(groups(input + bias), axis=-1).sum(-1),
        mean=lambda field: jax.nn.softmax(groups(field)).reshape(field.shape),
        sample=sample,
        bias=lambda mean: jnp.log(jnp.clip(mean, 1e-3, 1)),
        name=f"softmax({k})",
    )


def rbm(
    features: int,
    *,
    visible: Visible = bernoulli,
    chains: int = 0,
    kernel_init: Initializer = normal(0.01),
    name: str = "rbm",
) -> Layer:
    """The hidden units' probabilities, sigmoid(x @ kernel + bias), with what training needs.

    In `serial` it stands as `dense` and a sigmoid do. It is trained by `contrastive_divergence`,
    which moves the chains; `apply` leaves them as they are.

    Args:
      features: number of hidden units, at least 1.
      visible: kind of the visible units, which the first samples of the chains are drawn from.
      chains: number of persistent chains; 0 for contrastive divergence that starts at the data.
      kernel_init: draws the kernel; small, since the hidden units must not be alike.
      name: of the layer.

    Params:
      kernel (inputs, features); bias (features,), of the hidden units; visible_bias (inputs,).

    State:
      chain (chains, inputs), where chains is not 0.

    Raises:
      ValueError: for features below 1 or chains below 0.

    Example:
      >>> layer = rbm(4, chains=7)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((5, 3)))
      >>> jax.tree.map(jnp.shape, (params, state))
      ({'bias': (4,), 'kernel': (3, 4), 'visible_bias': (3,)}, {'chain': (7, 3)})
      >>> h, state = layer.apply(params, state, jnp.ones((5, 3)))
      >>> h.shape
      (5, 4)
    """
    if features < 1:
        raise ValueError(f"{name}: features must be at least 1, got {features}")
    if chains < 0:
        raise ValueError(f"{name}: chains must not be negative, got {chains}")

    def init(key, x):
        if len(x.shape) < 2:
            raise ValueError(f"{name}: needs (batch, ..., inputs), got {x.shape}")
        inputs, dtype = x.shape[-1], param_dtype(x)
        params = {
            "kernel": kernel_init(child_key(key, "kernel"), (inputs, features), dtype),
            "bias": zeros(key, (features,), dtype),
            "visible_bias": zeros(key, (inputs,), dtype),
        }
        if not chains:
            return params, {}
        field = jnp.zeros((chains, inputs), dtype)
        return params, {"chain": visible.sample(child_key(key, "chain"), field)}

    def apply(params, state, x, *, key=None, train=False):
        return jax.nn.sigmoid(_hidden_field(params, x)), state

    return checked(Layer(init, apply, name))


def _hidden_field(params: Params, x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]  # (..., inputs) -> (..., features)


def _visible_field(params: Params, h: jax.Array) -> jax.Array:
    return h @ params["kernel"].T + params["visible_bias"]  # (..., features) -> (..., inputs)


def free_energy(params: Params, x: ArrayLike, *, visible: Visible = bernoulli) -> jax.Array:
    """-log of the sum over all hidden h of exp(-E(x, h)): minus log p(x), up to log Z.

    Differences of it mean something, its value alone does not: over training, compare that of
    training examples with that of held-out ones; where they part, the machine overfits.

    Args:
      params: of an `rbm`.
      x: (..., inputs).
      visible: kind of the visible units.

    Returns:
      (...).

    Example:
      >>> params = {"kernel": jnp.eye(3, 2), "bias": jnp.zeros(2), "visible_bias": jnp.ones(3)}
      >>> free_energy(params, jnp.zeros((5, 3)))[0]  # -2 log 2
      Array(-1.386..., dtype=float32)
    """
    x = jnp.asarray(x)
    hidden = jax.nn.softplus(_hidden_field(params, x)).sum(-1)
    return visible.energy(x, params["visible_bias"]) - hidden


def gibbs(
    key: jax.Array, params: Params, x: ArrayLike, steps: int, *, visible: Visible = bernoulli
) -> tuple[jax.Array, jax.Array]:
    """Block Gibbs sampling: all hidden units given the visible ones, then all visible, and again.

    Args:
      key: of all draws.
      params: of an `rbm`.
      x: (..., inputs), where the chains begin.
      steps: at least 1; each draws both layers once.
      visible: kind of the visible units.

    Returns:
      The last visible sample, and the mean that it was drawn from, which makes the better picture;
      both (..., inputs).

    Example:
      >>> params = {"kernel": jnp.eye(3, 2), "bias": jnp.zeros(2), "visible_bias": jnp.zeros(3)}
      >>> x, mean = gibbs(jax.random.key(0), params, jnp.zeros((5, 3)), steps=10)
      >>> x.shape, mean[:, 2].tolist()  # the third unit has no weights
      ((5, 3), [0.5, 0.5, 0.5, 0.5, 0.5])
    """
    if steps < 1:
        raise ValueError(f"gibbs: steps must be at least 1, got {steps}")
    return _gibbs(key, params, jnp.asarray(x, params["kernel"].dtype), steps, visible)


@partial(jax.jit, static_argnames=("steps", "visible"))
def _gibbs(key, params, x, steps, visible):
    def step(i, carry):
        here = jax.random.fold_in(key, i)
        p = jax.nn.sigmoid(_hidden_field(params, carry[0]))
        field = _visible_field(params, _draw(child_key(here, "hidden"), p))
        return visible.sample(child_key(here, "visible"), field), visible.mean(field)

    return jax.lax.fori_loop(0, steps, step, (x, x))


def contrastive_divergence(*, k: int = 1, visible: Visible = bernoulli) -> Callable[..., Any]:
    """The rule CD-k, and persistent CD-k where the state has a chain; for `jn.learning_rule`.

    The update tree is the gradient of the mean free energy of the batch less that of the samples,
    both held fixed: what an optimizer subtracts. For the kernel it is (x'ᵀh' - xᵀh) / n with the
    hidden probabilities h and h' of data x and samples x'. It is the gradient of no function.

    Its "loss" is the mean squared error of the reconstruction (up and down by the means), which
    is easy to watch and proves little; "free_energy" is the batch's mean. A batch is x alone,
    (n, inputs). The examples that fill up the last batch of an epoch count there as others do.

    Args:
      k: Gibbs steps from the data, or from the chains; at least 1.
      visible: kind of the visible units.

    Example:
      >>> x = jnp.tile(jnp.array([[1.0, 1, 0, 0], [0, 0, 1, 1]]), (20, 1))
      >>> net, optimizer = rbm(3, chains=10), optax.sgd(0.5)  # rbm(3) for CD
      >>> step = jn.make_step(jn.learning_rule(contrastive_divergence()), optimizer)
      >>> train_state = jn.init_training(net, optimizer, jax.random.key(0), x)
      >>> for epoch in jn.fit(train_state, step, x, epochs=200, batch_size=20):
      ...     pass
      >>> log_likelihood(epoch.train_state.params, x).mean() > -2  # log(1/16) = -2.8 at first
      Array(True, dtype=bool)

    References: Hinton 2002; Tieleman 2008.
    """
    if k < 1:
        raise ValueError(f"contrastive_divergence: k must be at least 1, got {k}")

    def rule(params, state, batch, *, key, train):
        if not hasattr(batch, "shape"):
            raise TypeError(
                "contrastive_divergence: a batch is the inputs alone, (n, inputs), got "
                f"{type(batch).__name__}; leave the labels out, as in jn.fit(train_state, step, x)"
            )
        x = jnp.asarray(batch, params["kernel"].dtype)
        h = jax.nn.sigmoid(_hidden_field(params, x))
        error = jnp.square(visible.mean(_visible_field(params, h)) - x).mean()
        metrics = {"loss": error, "free_energy": free_energy(params, x, visible=visible).mean()}
        if not train:
            return jax.tree.map(jnp.zeros_like, params), (state, metrics)
        samples, _ = gibbs(key, params, state.get("chain", x), k, visible=visible)

        def contrast(params):
            data = free_energy(params, x, visible=visible).mean()
            return data - free_energy(params, samples, visible=visible).mean()

        state = {name: samples for name in state}  # the chain, if there is one
        return jax.grad(contrast)(params), (state, metrics)

    return rule


def log_partition(params: Params, *, visible: Visible = bernoulli) -> jax.Array:
    """log Z, exactly: the sum over all states of one layer, where that has at most 20 units.

    It is the smaller layer with Bernoulli units on both sides, else the hidden one.

    Raises:
      ValueError: where that layer has more than 20 units; `ais` estimates it then.

    Example:
      >>> params = {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3), "visible_bias": jnp.zeros(5)}
      >>> log_partition(params) / jnp.log(2)  # 5 + 3 coins
      Array(8., dtype=float32)
    """
    inputs, features = params["kernel"].shape
    if visible is bernoulli and inputs < features:  # the same machine, upside down
        params = {
            "kernel": params["kernel"].T,
            "bias": params["visible_bias"],
            "visible_bias": params["bias"],
        }
    units = params["bias"].shape[0]
    if units > MOST_UNITS:
        raise ValueError(
            f"log_partition: sums over the 2**{units} states of a layer of {units} units, and does "
            f"so up to {MOST_UNITS}; for an estimate write ais(key, params).log_partition"
        )
    return _enumerate(params, visible)


@partial(jax.jit, static_argnames="visible")
def _enumerate(params, visible):
    units = params["bias"].shape[0]
    block = min(2**units, BLOCK)

    def sum_block(first):
        states = first + jnp.arange(block)
        bits = (states[:, None] >> jnp.arange(units)) & 1  # (block,) -> (block, units)
        h = bits.astype(params["kernel"].dtype)
        below = visible.log_partition(h @ params["kernel"].T, params["visible_bias"])
        return jax.nn.logsumexp(h @ params["bias"] + below)

    return jax.nn.logsumexp(jax.lax.map(sum_block, jnp.arange(0, 2**units, block)))


def log_likelihood(params: Params, x: ArrayLike, *, visible: Visible = bernoulli) -> jax.Array:
    """log p(x) of each example, exactly, in nats; see `log_partition` for the limit.

    Args:
      params: of an `rbm`.
      x: (..., inputs).
      visible: kind of the visible units; with gaussian ones it is a density.

    Returns:
      (...).

    Example:
      >>> params = {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3), "visible_bias": jnp.zeros(5)}
      >>> log_likelihood(params, jnp.ones((2, 5))) / jnp.log(2)
      Array([-5., -5.], dtype=float32)
    """
    return -free_energy(params, x, visible=visible) - log_partition(params, visible=visible)


class AISResult(NamedTuple):
    """What `ais` gives.

    Fields:
      log_partition: the estimate of log Z.
      standard_error: of it, from the spread of the runs; too small where one run outweighs all.
      log_weights: (runs,), of which Z is the mean: log Z is log mean exp of them.
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
    """An estimate of log Z by annealed importance sampling.

    Each run starts at a machine without weights, whose Z is known, and goes to this one by small
    steps of an inverse temperature β: kernel β·kernel, bias β·bias, visible bias from the one to
    the other. Z is estimated without bias, log Z therefore a little low (and likelihoods high) on
    average, much so with too few steps: double them and see whether the estimate stays.

    Args:
      key: of all draws.
      params: of an `rbm`.
      runs: independent chains, at least 2.
      betas: (steps + 1,), rising from 0 to 1; by default 1,001 at equal distances. Large machines
        need ten times as many, most of them above 0.9 [Salakhutdinov and Murray 2008].
      data: (n, inputs), whose mean gives the visible bias at the start; a start near the data needs
        fewer steps. By default that bias is 0.
      visible: kind of the visible units.

    Raises:
      ValueError: for fewer than 2 runs, or betas that do not rise from 0 to 1.

    Example:
      >>> params = {"kernel": jnp.eye(5, 3), "bias": jnp.ones(3), "visible_bias": jnp.zeros(5)}
      >>> estimate = ais(jax.random.key(0), params, betas=np.linspace(0, 1, 201))
      >>> error = estimate.log_partition - log_partition(params)
      >>> bool(abs(error) < 4 * estimate.standard_error)
      True

    Reference: Salakhutdinov and Murray 2008, "On the Quantitative Analysis of Deep Belief
    Networks".
    """
    betas = np.linspace(0, 1, 1001) if betas is None else np.asarray(betas)
    rises = betas.ndim == 1 and len(betas) > 1 and (np.diff(betas) > 0).all()
    if not (rises and betas[0] == 0 and betas[-1] == 1):
        raise ValueError("ais: betas must rise from 0 to 1, such as np.linspace(0, 1, 1001)")
    if runs < 2:
        raise ValueError(f"ais: the error needs at least 2 runs, got {runs}")
    start = jnp.zeros_like(params["visible_bias"])
    if data is not None:
        start = visible.bias(jnp.asarray(data, start.dtype).mean(0))
    return _ais(key, params, start, jnp.asarray(betas, start.dtype), runs, visible)


@partial(jax.jit, static_argnames=("runs", "visible"))
def _ais(key, params, start, betas, runs, visible):
    kernel, bias = params["kernel"], params["bias"]

    def visible_bias(beta):
        return (1 - beta) * start + beta * params["visible_bias"]

    def free(beta, x, field):  # the free energy at β; field is that of β = 1
        hidden = jax.nn.softplus(beta * field).sum(-1)
        return visible.energy(x, visible_bias(beta)) - hidden

    def step(i, carry):
        x, log_weights = carry
        field = x @ kernel + bias  # (runs, inputs) -> (runs, features)
        log_weights += free(betas[i], x, field) - free(betas[i + 1], x, field)
        beta, here = betas[i + 1], jax.random.fold_in(key, i)
        h = _draw(child_key(here, "hidden"), jax.nn.sigmoid(beta * field))
        below = beta * (h @ kernel.T) + visible_bias(beta)
        return visible.sample(child_key(here, "visible"), below), log_weights

    x = visible.sample(child_key(key, "start"), jnp.broadcast_to(start, (runs, *start.shape)))
    first = bias.shape[0] * jnp.log(2.0) + visible.log_partition(jnp.zeros_like(start), start)
    weights = jnp.full(runs, first, kernel.dtype)
    _, log_weights = jax.lax.fori_loop(0, betas.shape[0] - 1, step, (x, weights))
    log_z = jax.nn.logsumexp(log_weights) - jnp.log(runs)
    error = jnp.exp(log_weights - log_z).std(ddof=1) / jnp.sqrt(runs)
    return AISResult(log_z, error, log_weights)


def pseudo_likelihood(params: Params, x: ArrayLike) -> jax.Array:
    """Σ_i log p(x_i | all others) of each example, for Bernoulli units: needs no Z.

    Args:
      params: of an `rbm`.
      x: (n, inputs), of 0 and 1.

    Returns:
      (n,).

    Example:
      >>> params = {"kernel": jnp.zeros((5, 3)), "bias": jnp.zeros(3), "visible_bias": jnp.zeros(5)}
      >>> pseudo_likelihood(params, jnp.ones((2, 5))) / jnp.log(2)
      Array([-5., -5.], dtype=float32)

    Reference: Besag 1975, "Statistical Analysis of Non-Lattice Data".
    """
    x = jnp.asarray(x)
    field = _hidden_field(params, x)
    here = jax.nn.softplus(field).sum(-1)

    def unit(total, column):
        x, kernel, bias = column
        turn = 1 - 2 * x  # from 0 to 1, or from 1 to 0
        there = jax.nn.softplus(field + turn[:, None] * kernel).sum(-1)
        return total + jax.nn.log_sigmoid(here - there - turn * bias), None

    columns = x.T, params["kernel"], params["visible_bias"]
    return jax.lax.scan(unit, jnp.zeros_like(here), columns)[0]


def fit_whole_rbm(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    k: int = 1,
    persistent: bool = False,
    epochs: int = 10,
    learning_rate: float = 0.05,
    momentum: float = 0.5,
    weight_decay: float = 1e-4,
    batch_size: int = 100,
    visible: Visible = bernoulli,
    progress: bool = True,
) -> Params:
    """The params of an `rbm`, trained by contrastive divergence: `fit_rbm` with the visible bias.

    The visible bias starts where it gives the data's mean, and the learning rate falls to 0 in a
    line, which persistent chains need. To watch or change more, write the loop yourself, as in
    `contrastive_divergence`.

    Args:
      key: of the start and of all draws.
      x: (n, inputs), as the visible units want it: in [0, 1] for `bernoulli`, standardized for
        `gaussian`, one-hot groups for `softmax(k)`.
      features: number of hidden units, at least 1.
      k: Gibbs steps an update.
      persistent: whether `batch_size` chains go on through all of training.
      epochs: passes over the data.
      learning_rate: of the first step; for `gaussian` take 0.005 or less.
      momentum: in [0, 1).
      weight_decay: pulls the kernel, and no bias, to 0.
      batch_size: examples a step.
      visible: kind of the visible units.
      progress: whether a bar runs.

    Raises:
      ValueError: for data of another shape, without examples, with NaN, or outside [0, 1] where
        the units are not gaussian; for features below 1.

    Example:
      >>> x = np.random.default_rng(0).integers(0, 2, (50, 6))
      >>> params = fit_whole_rbm(jax.random.key(0), x, 4, epochs=2)
      >>> jax.tree.map(jnp.shape, params)
      {'bias': (4,), 'kernel': (6, 4), 'visible_bias': (6,)}
    """
    x = _check_data(x, features, visible)
    net = rbm(features, visible=visible, chains=batch_size if persistent else 0)
    steps = epochs * -(-len(x) // min(batch_size, len(x)))
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay, mask={"kernel": True, "bias": False,
                                                      "visible_bias": False}),
        optax.sgd(optax.linear_schedule(learning_rate, 0, steps), momentum),
    )  # fmt: skip
    rule = contrastive_divergence(k=k, visible=visible)
    step = make_step(learning_rule(rule), optimizer)
    start = init_training(net, optimizer, key, x)
    bias = visible.bias(x.mean(0))
    start = start._replace(params=start.params | {"visible_bias": bias})
    for epoch in fit(start, step, x, epochs=epochs, batch_size=batch_size, progress=progress):
        start = epoch.train_state
    return start.params


def fit_rbm(key: jax.Array, x: Any, features: int, **options: Any) -> Params:
    """Features by contrastive divergence: the params of `jn.dense(features)` before a sigmoid.

    Args:
      key: of the start and of all draws.
      x: (n, inputs), in [0, 1] unless `visible` says otherwise.
      features: number of hidden units, at least 1.
      options: those of `fit_whole_rbm`, such as epochs, k, persistent, visible, progress.

    Raises:
      ValueError: as `fit_whole_rbm` does.

    Example:
      >>> x = np.random.default_rng(0).integers(0, 2, (50, 6))
      >>> params = fit_rbm(jax.random.key(0), x, 4, epochs=2)
      >>> net = jn.serial(jn.dense(4), jax.nn.sigmoid)
      >>> y, _ = net.apply({"dense": params}, {}, jnp.asarray(x, jnp.float32))
      >>> y.shape
      (50, 4)
    """
    params = fit_whole_rbm(key, x, features, **options)
    return {"kernel": params["kernel"], "bias": params["bias"]}


def _check_data(x: Any, features: int, visible: Visible) -> jax.Array:
    x = check_examples(x, features, "fit_rbm")
    low, high = float(x.min()), float(x.max())
    if visible is not gaussian and (low < 0 or high > 1):
        raise ValueError(
            f"fit_rbm: binary visible units need values in [0, 1], got {low:.4g} to {high:.4g}; "
            "scale x, or standardize its columns and write visible=gaussian"
        )
    return x
