"""Deep belief nets: stacks of restricted Boltzmann machines, each fitted to the machine below.

Its params have the structure of `jn.serial(rbm(500), rbm(250), ...)`: a dict of "rbm", "rbm_1", ...
from the data upward.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet import child_key
from jaxnet.ops import add_bias
from jaxnet.services.checks import all_at_least, at_least, check_key, to_device
from jaxnet.typing import Params
from jaxnet.unsupervised.rbm import Visible, bernoulli, fit_rbm, gibbs
from jaxnet.unsupervised.rbm.machine import read_params


def fit_dbn(
    key: jax.Array, x: Any, sizes: Sequence[int], *, visible: Visible = bernoulli, **options: Any
) -> Params:
    """Fit a stack of RBMs, one after another, from the data upward.

    The data of each machine are the hidden probabilities of the machine below.

    Args:
      key: Random key of the initial params and of all draws.
      x: Examples (n, inputs), in the form that the visible units need, see `rbm.fit_rbm`.
      sizes: Numbers of hidden units of each machine, such as (500, 250).
      visible: Kind of the lowest visible units; all others are `bernoulli`.
      options: Options of `rbm.fit_rbm`, for each machine.

    Returns:
      {"rbm": {"kernel", "bias", "visible_bias"}, "rbm_1": ...}, the params of
      `jn.serial(rbm(500), rbm(250))`. See `generate` and `mlp_params`.

    Raises:
      ValueError: If `sizes` is empty.
      ValueError: As in `rbm.fit_rbm`.

    Example:
      >>> x = np.random.default_rng(0).integers(0, 2, (50, 6))
      >>> params = fit_dbn(jax.random.key(0), x, (4, 3), epochs=2)
      >>> jax.tree.map(jnp.shape, params["rbm_1"])
      {'bias': (3,), 'kernel': (4, 3), 'visible_bias': (4,)}

    Reference: Hinton, Osindero and Teh 2006, "A Fast Learning Algorithm for Deep Belief Nets".
    """
    check_key(key, "fit_dbn")
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or not sizes:
        raise ValueError(
            f"fit_dbn: sizes must hold one size per machine, such as (500, 250), got {sizes!r:.60}"
        )
    for i, size in enumerate(sizes):
        at_least("fit_dbn", f"sizes[{i}]", size)
    params = {}
    for i, size in enumerate(sizes):
        name = _name("rbm", i)
        layer_key = child_key(key, name)
        machine = fit_rbm(layer_key, x, size, full=True, visible=visible, **options)
        field = to_device("fit_dbn", "x", x) @ machine["kernel"]
        x = jax.nn.sigmoid(add_bias(field, machine["bias"]))
        visible = bernoulli
        params[name] = machine
    return params


def generate(
    key: jax.Array, params: Params, n: int, steps: int, *, visible: Visible = bernoulli
) -> tuple[jax.Array, jax.Array]:
    """Sample by Gibbs sampling in the highest machine, then down through the others.

    Args:
      key: Random key of all draws.
      params: Params from `fit_dbn`, or {"rbm": params of one `rbm`}.
      n: Number of samples, each from its own chain that starts with coin flips; at least 1.
      steps: Number of steps of Gibbs sampling, at least 1; use more if chains still depend on their
        start.
      visible: Kind of the lowest visible units.

    Returns:
      The samples, and their means given the units above, which look better as images; both (n,
      inputs).

    Raises:
      TypeError: If `params` has the wrong structure.
      ValueError: If `n` or `steps` is below 1.

    Example:
      >>> from jaxnet.unsupervised.rbm import rbm
      >>> dbn = jn.serial(rbm(4), rbm(3))
      >>> params, _ = dbn.init(jax.random.key(0), jn.spec((2, 6)))  # or those of fit_dbn
      >>> x, mean = generate(jax.random.key(1), params, n=5, steps=10)
      >>> x.shape, mean.shape
      ((5, 6), (5, 6))
    """
    check_key(key, "generate")
    all_at_least("generate", n=n, steps=steps)
    *below, top = _machines("generate", params, visible)
    kind = bernoulli if below else visible
    inputs = top["kernel"].shape[0]
    start = kind.sample(child_key(key, "start"), jnp.zeros((n, inputs)))
    x, mean = gibbs(child_key(key, "top"), top, start, steps, visible=kind)
    for i, machine in reversed([*enumerate(below)]):
        kind = bernoulli if i else visible
        layer_key = child_key(key, _name("rbm", i))
        field = add_bias(x @ machine["kernel"].T, machine["visible_bias"])
        x = kind.sample(layer_key, field)
        mean = kind.mean(field)
    return x, mean


def mlp_params(params: Params) -> Params:
    """Convert params of a deep belief net to params of hidden layers, to fine-tune.

    They are for the hidden layers of a perceptron. The names are as in
    `jn.models.mlp([*sizes, classes], jax.nn.sigmoid)`, without its output layer.

    Args:
      params: Params from `fit_dbn`.

    Returns:
      {"dense": {"kernel", "bias"}, "dense_1": ...}.

    Raises:
      TypeError: If `params` has the wrong structure.

    Example:
      >>> from jaxnet.unsupervised.rbm import rbm
      >>> x = jnp.ones((50, 6))
      >>> dbn, _ = jn.serial(rbm(4), rbm(3)).init(jax.random.key(0), x)  # or those of fit_dbn
      >>> net = jn.models.mlp([4, 3, 10], jax.nn.sigmoid)
      >>> objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
      >>> trainer = jn.trainer(objective, optax.adam(1e-3))
      >>> batch = x, jnp.zeros(50, int)
      >>> train_state = trainer.init(jax.random.key(1), batch, params=mlp_params(dbn))
      >>> sorted(train_state.params)  # jn.fit continues from here
      ['dense', 'dense_1', 'output']
    """
    layers = {}
    for i, machine in enumerate(_machines("mlp_params", params)):
        layers[_name("dense", i)] = {"kernel": machine["kernel"], "bias": machine["bias"]}
    return layers


def _machines(who: str, params: Any, visible: Visible = bernoulli) -> list[Params]:
    """Return the checked params of each machine, from the data upward."""
    wrong = f'{who}: params must be the result of fit_dbn, {{"rbm": ...}}, got'
    if not isinstance(params, dict):
        raise TypeError(f"{wrong} {type(params).__name__}")
    names = [_name("rbm", i) for i in range(len(params))]
    if not names or set(names) != set(params):
        raise TypeError(f"{wrong} {sorted(map(str, params))}")
    return [read_params(who, params[name], visible)[0] for name in names]


def _name(layer: str, i: int) -> str:
    return f"{layer}_{i}" if i else layer
