"""Greedy layer-wise pretraining: each layer learns from what the layers below make of the data."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, Params, State, child_key, observe
from jaxnet.progress import progress_bar
from jaxnet.training import predict

Fit = Callable[[jax.Array, jax.Array, int], Params]  # (key, x, features) -> params of dense


def pretrain_greedy(
    net: Layer,
    data: Any,
    method: Fit | None,
    *,
    key: jax.Array | None = None,
    layers: Sequence[str] | None = None,
    batch_size: int = 1024,
    progress: bool = True,
) -> tuple[Params, State]:
    """Initial params of a net, whose dense layers were fitted one after another without labels.

    The first layer is fitted to the data, the next to what the net below it, with the fitted
    params, makes of the data (in evaluation mode), and so on. What stands between them
    (activations, `flatten`, dropout) is used as it is. Then the net is trained as usual, which is
    called fine-tuning.

    Args:
      net: composed of layers; those to be fitted are `jn.dense`.
      data: what the net takes, (examples, ...), without labels.
      method: `(key, x, features) -> {"kernel", "bias"}`, such as `fit_rbm`, `fit_kmeans`,
        `fit_random_vectors`, `fit_sparse_autoencoder` or `fit_sparse_coding`; options are bound by
        `functools.partial`. None gives the params that `net.init` draws.
      key: draws the params that are not fitted, and is the randomness of the method; None is
        `jax.random.key(0)`.
      layers: paths of the layers to fit, such as "dense" or "encoder/dense_1", in any order. By
        default all dense layers but the last, which gives the output.
      batch_size: examples at a time that are fed forward.
      progress: whether a bar runs.

    Returns:
      (params, state), as `net.init` gives them.

    Raises:
      ValueError: for layers that are not in the net or not dense, a net without any to fit, or a
        method that gives params of other names or shapes.

    Example:
      >>> x = jax.random.uniform(jax.random.key(1), (50, 8))
      >>> net = jn.models.mlp([6, 5, 3], activation=jax.nn.sigmoid)
      >>> params, state = pretrain_greedy(net, x, lambda key, x, features: {
      ...     "kernel": x[:features].T, "bias": jnp.zeros(features)})
      >>> bool((params["dense"]["kernel"] == x[:6].T).all()), params["dense_1"]["kernel"].shape
      (True, (6, 5))

      Then fine-tuning:

      >>> optimizer = optax.adam(1e-3)
      >>> train_state = jn.init_training(net, optimizer, jax.random.key(0), x)
      >>> train_state = train_state._replace(params=params, state=state)

    Reference: Hinton, Osindero and Teh 2006, "A Fast Learning Algorithm for Deep Belief Nets";
    Bengio et al. 2007, "Greedy Layer-Wise Training of Deep Networks"; for k-means and random
    vectors Coates and Ng 2011, "The Importance of Encoding Versus Training with Sparse Coding and
    Vector Quantization".
    """
    key = jax.random.key(0) if key is None else key
    x = jnp.asarray(data)
    params, state = net.init(child_key(key, "init"), x)
    if method is None:
        return params, state
    found = _dense_layers(net, params, state, x)
    paths = [path for path, output in found.items() if not output] if layers is None else layers
    for path in paths:
        if path not in found:
            raise ValueError(
                f"pretrain_greedy: {path!r} is no dense layer of {net.name}; "
                f"there are {', '.join(found) or 'none'}"
            )
    if not paths:
        raise ValueError(
            f"pretrain_greedy: {net.name} has no dense layer before its output; there are "
            f"{', '.join(found) or 'none at all'}; name the layers to fit with layers="
        )
    order = [path for path in found if path in paths]
    with progress_bar(len(order), "layers", progress) as bar:
        for path in order:
            seen = predict(_input_of(net, path), params, state, x, batch_size=batch_size)
            old = _at(params, path)
            features = old["kernel"].shape[1]
            fitted = method(child_key(key, path), jnp.asarray(seen), features)
            params = _with(params, path, _fitting(fitted, old, path))
            bar.update(1)
    return params, state


def _dense_layers(net: Layer, params: Params, state: State, x: jax.Array) -> dict[str, bool]:
    """Paths of the dense layers in the order of their calls; True for one that gives the output."""
    inputs: dict[str, Any] = {}

    def see(path, layer, x, y):
        if path and getattr(x, "ndim", 0) == 2 and "/".join(path) not in inputs:
            entry = _at(params, "/".join(path))
            if set(entry) <= {"kernel", "bias"} and jnp.ndim(entry.get("kernel", 0)) == 2:
                inputs["/".join(path)] = y
        return y

    def run(params, state, x):
        return observe(net, see).apply(params, state, x)[0]

    inside = jax.eval_shape(run, params, state, x[:1])
    last = list(inputs)[-1:]
    return {path: path in last and inputs[path].shape == inside.shape for path in inputs}


def _input_of(net: Layer, path: str) -> Layer:
    """The net up to a layer: what comes to it at its first call."""

    def apply(params, state, x, *, key=None, train=False):
        seen = []

        def see(here, layer, x, y):
            if "/".join(here) == path:
                seen.append(x)
            return y

        observe(net, see).apply(params, state, x, key=key, train=train)
        return seen[0], state

    return Layer(net.init, apply, net.name)


def _at(params: Params, path: str) -> Params:
    for name in path.split("/"):
        params = params.get(name, {}) if isinstance(params, dict) else {}
    return params


def _with(params: Params, path: str, entry: Params) -> Params:
    first, _, rest = path.partition("/")
    return {**params, first: _with(params[first], rest, entry) if rest else entry}


def _fitting(fitted: Params, old: Params, path: str) -> Params:
    """The fitted params, if they can take the place of the old ones."""
    needed = {name: leaf.shape for name, leaf in old.items()}
    got = {name: jnp.shape(leaf) for name, leaf in fitted.items()}
    if "bias" not in needed:
        got.pop("bias", None)
    if needed != got:
        raise ValueError(
            f"pretrain_greedy: the method must give params of {path}, {needed}, got {got}"
        )
    return {name: jnp.asarray(fitted[name], leaf.dtype) for name, leaf in old.items()}
