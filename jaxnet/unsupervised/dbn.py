"""Deep belief net: restricted Boltzmann machines on top of each other, each fitted to the last.

Its params are those of `jn.serial(rbm(500), rbm(250), ...)`: a dict of "rbm", "rbm_1", ... from the
data upward.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Params, child_key
from jaxnet.unsupervised.rbm import Visible, bernoulli, fit_whole_rbm, gibbs


def fit_dbn(
    key: jax.Array,
    x: Any,
    sizes: Sequence[int],
    *,
    visible: Visible = bernoulli,
    **options: Any,
) -> Params:
    """The params of a stack of RBMs, fitted one after another, from the data upward.

    Each machine's data are the hidden probabilities of the one below.

    Args:
      key: of all starts and draws.
      x: (n, inputs), as the visible units want it.
      sizes: hidden units of each machine, such as (500, 250).
      visible: kind of the lowest visible units; all above are `bernoulli`.
      options: those of `fit_whole_rbm`, for each machine.

    Returns:
      {"rbm": {"kernel", "bias", "visible_bias"}, "rbm_1": ...}, the params of
      `jn.serial(rbm(500), rbm(250))`. See `generate` and `mlp_params`.

    Raises:
      ValueError: where sizes is empty, and as `fit_whole_rbm` does.

    Example:
      >>> x = np.random.default_rng(0).integers(0, 2, (50, 6))
      >>> params = fit_dbn(jax.random.key(0), x, (4, 3), epochs=2)
      >>> jax.tree.map(jnp.shape, params["rbm_1"])
      {'bias': (3,), 'kernel': (4, 3), 'visible_bias': (4,)}

    Reference: Hinton, Osindero and Teh 2006, "A Fast Learning Algorithm for Deep Belief Nets".
    """
    if isinstance(sizes, int) or not len(sizes):
        raise ValueError(
            f"fit_dbn: sizes needs one size a machine, such as (500, 250), got {sizes}"
        )
    params = {}
    for i, size in enumerate(sizes):
        here = _name("rbm", i)
        params[here] = fit_whole_rbm(child_key(key, here), x, size, visible=visible, **options)
        x = jax.nn.sigmoid(jnp.asarray(x) @ params[here]["kernel"] + params[here]["bias"])
        visible = bernoulli
    return params


def generate(
    key: jax.Array, params: Params, n: int, steps: int, *, visible: Visible = bernoulli
) -> tuple[jax.Array, jax.Array]:
    """Samples: Gibbs sampling in the highest machine, then down through the others.

    Args:
      key: of all draws.
      params: of `fit_dbn`, or {"rbm": params of one `rbm`}.
      n: number of samples, each of a chain of its own that begins with coin flips.
      steps: of Gibbs sampling, at least 1; chains that have not yet forgotten their beginning
        need more.
      visible: kind of the lowest visible units.

    Returns:
      The samples, and the means that they were drawn from, which make the better picture; both
      (n, inputs).

    Example:
      >>> dbn = jn.serial(jn.unsupervised.rbm(4), jn.unsupervised.rbm(3))
      >>> params, _ = dbn.init(jax.random.key(0), jn.spec((2, 6)))  # or those of fit_dbn
      >>> x, mean = generate(jax.random.key(1), params, n=5, steps=10)
      >>> x.shape, mean.shape
      ((5, 6), (5, 6))
    """
    if n < 1:
        raise ValueError(f"generate: n must be at least 1, got {n}")
    kinds = [visible] + [bernoulli] * (len(params) - 1)
    below = [params[_name("rbm", i)] for i in range(len(params))]
    top, kind = below.pop(), kinds.pop()
    start = kind.sample(child_key(key, "start"), jnp.zeros((n, top["kernel"].shape[0])))
    x, mean = gibbs(child_key(key, "top"), top, start, steps, visible=kind)
    while below:
        machine, kind = below.pop(), kinds.pop()
        field = x @ machine["kernel"].T + machine["visible_bias"]
        x, mean = kind.sample(child_key(key, _name("rbm", len(below))), field), kind.mean(field)
    return x, mean


def mlp_params(params: Params) -> Params:
    """The hidden layers of a perceptron from the params of a deep belief net, to be fine-tuned.

    The names are those of `jn.models.mlp([*sizes, classes], jax.nn.sigmoid)`, and its output layer
    is not among them.

    Args:
      params: of `fit_dbn`.

    Returns:
      {"dense": {"kernel", "bias"}, "dense_1": ...}.

    Example:
      >>> x = jn.spec((50, 6))
      >>> dbn, _ = jn.serial(jn.unsupervised.rbm(4), jn.unsupervised.rbm(3)).init(
      ...     jax.random.key(0), x)  # or those of fit_dbn
      >>> net, optimizer = jn.models.mlp([4, 3, 10], jax.nn.sigmoid), optax.adam(1e-3)
      >>> train_state = jn.init_training(net, optimizer, jax.random.key(1), x)
      >>> train_state = train_state._replace(params=train_state.params | mlp_params(dbn))
      >>> sorted(train_state.params)  # make_step and fit go on from here
      ['dense', 'dense_1', 'output']
    """
    return {
        _name("dense", i): {
            "kernel": params[_name("rbm", i)]["kernel"],
            "bias": params[_name("rbm", i)]["bias"],
        }
        for i in range(len(params))
    }


def _name(layer: str, i: int) -> str:
    return f"{layer}_{i}" if i else layer
