"""Restricted Boltzmann machines: binary hidden units that explain visible units.

Visible units x and binary hidden units h have an energy; states of low energy are likely:

    E(x, h) = visible.energy(x, visible_bias) - x·kernel·h - bias·h        p(x, h) = exp(-E) / Z

The units of a layer are independent given the other layer, so block Gibbs sampling draws a whole
layer at once. The gradient of log p(x) is the gradient of the free energy at the model's samples
minus the gradient at the data. Contrastive divergence takes the samples from a short chain that
starts at the data, persistent contrastive divergence from chains that continue over all of
training.

References: Hinton 2002, "Training Products of Experts by Minimizing Contrastive Divergence";
Tieleman 2008, "Training Restricted Boltzmann Machines using Approximations to the Likelihood
Gradient"; Hinton 2010, "A Practical Guide to Training Restricted Boltzmann Machines".
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from jaxnet import Layer, child_key, compose, product, tools, trainer
from jaxnet.initializers import Initializer, normal, zeros
from jaxnet.ops import add_bias
from jaxnet.services.checks import check_key, check_rank
from jaxnet.training import learning_rule
from jaxnet.typing import Params
from jaxnet.unsupervised.check import check_fit, fill_last_batch, trained
from jaxnet.unsupervised.rbm.units import Visible, bernoulli, check_visible, draw


def rbm(
    features: int,
    *,
    visible: Visible = bernoulli,
    chains: int = 0,
    kernel_init: Initializer = normal(0.01),
    name: str = "rbm",
) -> Layer:
    """Compute the probabilities of hidden units, sigmoid(x @ kernel + bias).

    In `serial` it computes what `dense` and a sigmoid do. Train it by `contrastive_divergence`,
    which moves the chains; `apply` returns them unchanged.

    Args:
      features: Number of hidden units, at least 1.
      visible: Kind of the visible units, which determines how the chains are first sampled.
      chains: Number of persistent chains; 0 for contrastive divergence that starts at the data.
      kernel_init: Initializer of the kernel. Its values should be small and different, since equal
        hidden units stay equal.
      name: Name of the layer.

    Params:
      kernel (inputs, features); bias (features,), of the hidden units; visible_bias (inputs,).

    State:
      chain (chains, inputs), unless chains is 0.

    Returns:
      A layer from (batch, inputs) to probabilities (batch, features).

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If `features` is below 1, `chains` is below 0, or the input has no batch axis.

    Example:
      >>> layer = rbm(4, chains=7)
      >>> params, state = layer.init(jax.random.key(0), jn.spec((5, 3)))
      >>> jax.tree.map(jnp.shape, (params, state))
      ({'bias': (4,), 'kernel': (3, 4), 'visible_bias': (3,)}, {'chain': (7, 3)})
      >>> h, state = layer.apply(params, state, jnp.ones((5, 3)))
      >>> h.shape
      (5, 4)
    """
    tools.at_least(name, "features", features)
    tools.at_least(name, "chains", chains, 0)
    check_visible(name, visible)
    tools.check_options(name, kernel_init=kernel_init)

    def forward(m, x):
        check_rank(name, x, 2, "(batch, ..., inputs)")
        kernel = m.kernel("kernel", kernel_init, (x.shape[-1], features), array=True)
        params = {"kernel": kernel, "bias": m.param("bias", zeros, (features,))}
        m.param("visible_bias", zeros, x.shape[-1:])  # used only to reconstruct the visible units
        if chains:
            m.state("chain", chain_init, (chains, x.shape[-1]))
        return jax.nn.sigmoid(_hidden_field(params, x))

    def chain_init(key, shape, dtype):
        return visible.sample(key, jnp.zeros(shape, dtype))

    return compose(forward, name=name, kind="rbm")


def read_params(who: str, params: Any, visible: Visible) -> tuple[Params, dict[str, int]]:
    """Return the checked params of an `rbm`, and the sizes of their axes."""
    check_visible(who, visible)
    forms = {"kernel": "(inputs, features)", "bias": "(features,)", "visible_bias": "(inputs,)"}
    if not isinstance(params, dict) or not forms.keys() <= params.keys():
        got = sorted(map(str, params)) if isinstance(params, dict) else type(params).__name__
        raise TypeError(f"{who}: params must be a dict of {', '.join(forms)}, got {got}")
    sizes: dict[str, int] = {}
    read = {}
    for name, form in forms.items():
        what = f"params['{name}']"
        read[name] = tools.as_array(who, what, params[name], form, "reals", sizes)
    return read, sizes


def _hidden_field(params: Params, x: jax.Array) -> jax.Array:
    field = product(x, params["kernel"])  # (..., inputs) -> (..., features)
    return add_bias(field, params["bias"])


def _visible_field(params: Params, h: jax.Array) -> jax.Array:
    field = product(h, params["kernel"].T)  # (..., features) -> (..., inputs)
    return add_bias(field, params["visible_bias"])


def free_energy(params: Params, x: ArrayLike, *, visible: Visible = bernoulli) -> jax.Array:
    """Return -log Σ_h exp(-E(x, h)): minus log p(x), up to the constant log Z.

    Only differences have a meaning. During training, compare the free energy of training examples
    and held-out examples: a growing gap indicates overfitting.

    Args:
      params: Params of an `rbm`.
      x: (..., inputs).
      visible: Kind of the visible units.

    Returns:
      Free energies (...), one per example.

    Raises:
      TypeError, ValueError: If params or x do not fit.

    Example:
      >>> params = {"kernel": jnp.eye(3, 2), "bias": jnp.zeros(2), "visible_bias": jnp.ones(3)}
      >>> free_energy(params, jnp.zeros((5, 3)))[0]  # -2 log 2
      Array(-1.386..., dtype=float32)
    """
    params, sizes = read_params("free_energy", params, visible)
    x = tools.as_array("free_energy", "x", x, "(..., inputs)", "reals", sizes)
    hidden = jax.nn.softplus(_hidden_field(params, x)).sum(-1)
    return visible.energy(x, params["visible_bias"]) - hidden


def gibbs(
    key: jax.Array, params: Params, x: ArrayLike, steps: int, *, visible: Visible = bernoulli
) -> tuple[jax.Array, jax.Array]:
    """Sample all hidden and all visible units in turn: block Gibbs sampling.

    Args:
      key: Key of all draws.
      params: Params of an `rbm`.
      x: Start of the chains, (..., inputs).
      steps: Number of steps, at least 1; each draws both layers once.
      visible: Kind of the visible units.

    Returns:
      The last visible sample, and its mean given the hidden units, which looks better as an image;
      both (..., inputs).

    Raises:
      TypeError, ValueError: If params or x do not fit, or `steps` is below 1.

    Example:
      >>> params = {"kernel": jnp.eye(3, 2), "bias": jnp.zeros(2), "visible_bias": jnp.zeros(3)}
      >>> x, mean = gibbs(jax.random.key(0), params, jnp.zeros((5, 3)), steps=10)
      >>> x.shape, mean[:, 2].tolist()  # the third unit has no weights
      ((5, 3), [0.5, 0.5, 0.5, 0.5, 0.5])
    """
    check_key(key, "gibbs")
    tools.at_least("gibbs", "steps", steps)
    params, sizes = read_params("gibbs", params, visible)
    x = tools.as_array("gibbs", "x", x, "(..., inputs)", "reals", sizes)
    return _gibbs(key, params, x.astype(params["kernel"].dtype), steps, visible)


@partial(jax.jit, static_argnames=("steps", "visible"))
def _gibbs(key, params, x, steps, visible):
    def step(i, carry):
        x, _ = carry
        step_key = jax.random.fold_in(key, i)
        p = jax.nn.sigmoid(_hidden_field(params, x))
        h = draw(child_key(step_key, "hidden"), p)
        field = _visible_field(params, h)
        return visible.sample(child_key(step_key, "visible"), field), visible.mean(field)

    return jax.lax.fori_loop(0, steps, step, (x, x))


def contrastive_divergence(net: Layer, *, k: int = 1, visible: Visible = bernoulli) -> Layer:
    """Return the objective CD-k of an `rbm`, or persistent CD-k if the `rbm` has chains.

    An update is the gradient of the mean free energy of the batch minus the mean free energy of the
    samples, both held fixed. For the kernel it is (x'ᵀh' - xᵀh) / n with the hidden probabilities h
    and h' of data x and samples x'. It is not the gradient of any function, see `learning_rule`.

    The value is the mean squared error of the reconstruction (up and down by the means), which is
    easy to monitor but not a measure of the fit. The metric "free_energy" is the mean of the batch.
    A batch is x alone, (n, inputs). Padding cannot be left out of an update: choose a batch_size
    that divides the number of examples.

    Args:
      net: Layer `rbm`; the objective has the params and state of the net.
      k: Number of Gibbs steps from the data or from the chains, at least 1.
      visible: Kind of the visible units, as in the net.

    Returns:
      An objective: a layer from a batch (n, inputs) to the error and the metric.

    Raises:
      ValueError: If `k` is below 1.
      TypeError: If the net is not an `rbm`, or the batch is not an array.

    Example:
      >>> x = jnp.tile(jnp.array([[1.0, 1, 0, 0], [0, 0, 1, 1]]), (20, 1))
      >>> net = rbm(3, chains=10)  # rbm(3) for CD
      >>> trainer = jn.trainer(contrastive_divergence(net), optax.sgd(0.5))
      >>> train_state = trainer.init(jax.random.key(0), x)
      >>> for epoch in jn.fit(trainer, train_state, x, epochs=200, batch_size=20):
      ...     pass
      >>> free_energy(epoch.train_state.params, jnp.array([[1.0, 1, 0, 0], [1, 0, 1, 0]])).argmin()
      Array(0, dtype=int32)

    References: Hinton 2002; Tieleman 2008.
    """
    tools.at_least("contrastive_divergence", "k", k)
    check_visible("contrastive_divergence", visible)
    if not isinstance(net, Layer) or net.kind != "rbm":
        got = net.name if isinstance(net, Layer) else type(net).__name__
        raise TypeError(
            f"contrastive_divergence: expected a net made by rbm(features), got {got}; train "
            "stacked machines one after another, see dbn.fit_dbn"
        )

    def mean_free_energy(params, x):
        return free_energy(params, x, visible=visible).mean()

    def rule(params, state, batch, *, key, train):
        if isinstance(batch, tuple | list | dict):
            raise TypeError(
                "contrastive_divergence: a batch is the inputs alone, (n, inputs), got "
                f"{type(batch).__name__}; leave the labels out, as in jn.fit(trainer, state, x)"
            )
        x = tools.as_array("contrastive_divergence", "batch", batch, "(n, inputs)", "reals")
        x = x.astype(params["kernel"].dtype)
        h = jax.nn.sigmoid(_hidden_field(params, x))
        reconstruction = visible.mean(_visible_field(params, h))
        error = jnp.square(reconstruction - x).mean()
        metrics = {"loss": error, "free_energy": mean_free_energy(params, x)}
        if not train:
            return jax.tree.map(jnp.zeros_like, params), (state, metrics)
        start = state.get("chain", x)
        samples, _ = gibbs(key, params, start, k, visible=visible)

        def contrast(params):
            return mean_free_energy(params, x) - mean_free_energy(params, samples)

        state = {name: samples for name in state}  # the chain, if the net has chains
        return jax.grad(contrast)(params), (state, metrics)

    return learning_rule(net, rule)


def fit_rbm(
    key: jax.Array,
    x: Any,
    features: int,
    *,
    full: bool = False,
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
    """Learn features by contrastive divergence: params of `jn.dense(features)` before a sigmoid.

    The initial visible bias reproduces the mean of the data, and the learning rate falls linearly
    to 0, which persistent chains need. For other schedules or metrics, write the loop yourself, as
    in `contrastive_divergence`.

    Any number of examples is accepted: if batch_size does not divide it, random examples are
    repeated to fill the last batch.

    Args:
      key: Random key of the initial params and of all draws.
      x: Examples (n, inputs), in [0, 1] for `bernoulli`, standardized for `gaussian`.
      features: Number of hidden units, at least 1.
      full: Whether to return all params of `rbm(features)`, including visible_bias.
      k: Number of Gibbs steps per update.
      persistent: Whether `batch_size` chains continue over all of training.
      epochs: Number of passes over the data.
      learning_rate: Learning rate of the first step; use at most 0.005 for `gaussian`.
      momentum: Momentum, in [0, 1).
      weight_decay: Decay of the kernel; biases are not decayed.
      batch_size: Number of examples per step.
      visible: Kind of the visible units.
      progress: Whether to show a progress bar.

    Returns:
      {"kernel": (inputs, features), "bias": (features,)}, and with `full` "visible_bias": (inputs,)
      as well.

    Raises:
      TypeError: If an argument has the wrong type.
      ValueError: If an option is out of range, or if the data is empty, has the wrong shape, or
        contains NaN or, for binary units, values outside [0, 1].

    Example:
      >>> x = np.random.default_rng(0).integers(0, 2, (50, 6))
      >>> params = fit_rbm(jax.random.key(0), x, 4, epochs=2)
      >>> net = jn.serial(jn.dense(4), jax.nn.sigmoid)
      >>> y, _ = net.apply({"dense": params}, {}, jnp.asarray(x, jnp.float32))
      >>> y.shape
      (50, 4)
    """
    x = check_fit(key, x, features, "fit_rbm", k=k, epochs=epochs, batch_size=batch_size)
    tools.within("fit_rbm", "learning_rate", learning_rate, "(0, inf)")
    tools.within("fit_rbm", "momentum", momentum, "[0, 1)")
    tools.within("fit_rbm", "weight_decay", weight_decay, "[0, inf)")
    check_visible("fit_rbm", visible)
    tools.check_options("fit_rbm", full=full, persistent=persistent, progress=progress)
    low, high = float(x.min()), float(x.max())
    if visible is bernoulli and (low < 0 or high > 1):
        raise ValueError(
            f"fit_rbm: binary visible units need values in [0, 1], got {low:.4g} to {high:.4g}; "
            "scale x, or standardize its columns and write visible=gaussian"
        )
    examples, batch_size = fill_last_batch(child_key(key, "batches"), x, batch_size)
    net = rbm(features, visible=visible, chains=batch_size if persistent else 0)
    steps = epochs * (len(examples) // batch_size)
    schedule = optax.linear_schedule(learning_rate, 0, steps)
    decayed = {"kernel": True, "bias": False, "visible_bias": False}
    decay = optax.add_decayed_weights(weight_decay, mask=decayed)
    optimizer = optax.chain(decay, optax.sgd(schedule, momentum))
    learner = trainer(contrastive_divergence(net, k=k, visible=visible), optimizer)
    visible_bias = visible.bias(x.mean(0))
    train_state = learner.init(key, examples, params={"visible_bias": visible_bias})
    params = trained(learner, train_state, examples, epochs, batch_size, progress)
    return params if full else {"kernel": params["kernel"], "bias": params["bias"]}
