"""Greedy layer-wise pretraining: each layer is fitted to the output of the layers below it."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet import Layer, child_key, observe, predict, tools
from jaxnet.services.checks import a_function, check_key
from jaxnet.services.progress import progress_bar
from jaxnet.transforms import as_layer
from jaxnet.typing import Params, State

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
    """Return initial params of a net whose dense layers are fitted in turn without labels.

    The first layer is fitted to the data, the next to its input under the params fitted so far (in
    evaluation mode), and so on. Layers in between (activations, `flatten`, dropout) are used as
    they are. Afterwards the net is trained as usual, which is called fine-tuning.

    Args:
      net: A composed layer; the layers to fit are of kind "dense".
      data: Input of the net, (examples, ...), without labels.
      method: Function `(key, x, features) -> {"kernel", "bias"}`: `rbm.fit_rbm` (contrastive
        divergence), `autoencoder.fit_sparse_autoencoder`, `sparse_coding.fit_sparse_coding`,
        `kmeans.fit_kmeans`, `kmeans.fit_random_vectors`, or your own; bind options by
        `functools.partial`. None returns the params drawn by `net.init`.
      key: Random key of the params that are not fitted, also passed to the method; None is
        `jax.random.key(0)`.
      layers: Paths of the layers to fit, such as "dense" or "encoder/dense_1", in any order; by
        default all dense layers but the last, which is taken for the output.
      batch_size: Number of examples per forward pass.
      progress: Whether to show a progress bar.

    Returns:
      (params, state), as from `net.init`.

    Raises:
      TypeError: If an argument has the wrong type.
      TypeError: If `method` does not return a dict.
      ValueError: If `data` is empty.
      ValueError: If an entry of `layers` is not in the net or not dense.
      ValueError: If the net has fewer than two dense layers.
      ValueError: If `method` returns params with wrong names or shapes.

    Example:
      >>> x = jax.random.uniform(jax.random.key(1), (50, 8))
      >>> net = jn.models.mlp([6, 5, 3], activation=jax.nn.sigmoid)
      >>> params, state = pretrain_greedy(net, x, lambda key, x, features: {
      ...     "kernel": x[:features].T, "bias": jnp.zeros(features)})
      >>> jax.tree.map(jnp.shape, params)
      {'dense': {'bias': (6,), 'kernel': (8, 6)}, 'dense_1': {'bias': (5,), 'kernel': (6, 5)},
       'output': {'bias': (3,), 'kernel': (5, 3)}}

      Then fine-tuning:

      >>> objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
      >>> trainer = jn.trainer(objective, optax.adam(1e-3))
      >>> train_state = trainer.init(jax.random.key(0), (x, jnp.zeros(50, int)), params=params)

    Reference: Hinton, Osindero and Teh 2006, "A Fast Learning Algorithm for Deep Belief Nets";
    Bengio et al. 2007, "Greedy Layer-Wise Training of Deep Networks"; for k-means and random
    vectors Coates and Ng 2011, "The Importance of Encoding Versus Training with Sparse Coding and
    Vector Quantization".
    """
    who = "pretrain_greedy"
    net = as_layer(net, who, "net")
    key = jax.random.key(0) if key is None else key
    check_key(key, who)
    x = tools.as_array(who, "data", data, "(examples, ...)")
    if not len(x):
        raise ValueError(f"{who}: data must hold at least one example, got {x.shape}")
    a_function(who, "method", method, "(key, x, features)", optional=True)
    if isinstance(layers, str) or not (layers is None or isinstance(layers, Sequence)):
        raise TypeError(f"{who}: layers must be a list of paths, such as ['dense'], got {layers!r}")
    tools.at_least(who, "batch_size", batch_size)
    tools.check_options(who, progress=progress)
    params, state = net.init(child_key(key, "init"), x)
    if method is None:
        return params, state
    dense_paths = _dense_paths(net, params, state, x)
    chosen = dense_paths[:-1] if layers is None else layers
    there = f"its dense layers: {', '.join(dense_paths) or 'none'}"
    wrong = [path for path in chosen if path not in dense_paths]
    if wrong:
        raise ValueError(f"{who}: {net.name} has no dense layer {wrong[0]!r}; {there}")
    if not chosen:
        raise ValueError(
            f"{who}: {net.name} has no dense layer before its output; {there}. Choose the layers "
            "to fit with layers=[...]"
        )
    order = [path for path in dense_paths if path in chosen]
    with progress_bar(len(order), "layers", progress) as bar:
        for path in order:
            seen = predict(_input_of(net, path), params, state, x, batch_size=batch_size)
            old = reduce(dict.__getitem__, path.split("/"), params)
            inputs, features = old["kernel"].shape
            examples = jnp.reshape(seen, (-1, inputs))
            fitted = method(child_key(key, path), examples, features)
            params = _replaced(params, path, _converted(fitted, old, path))
            bar.update(1)
    return params, state


def _dense_paths(net: Layer, params: Params, state: State, x: jax.Array) -> list[str]:
    """Return the paths of the dense layers inside, in the order of their first calls."""
    paths: dict[str, None] = {}

    def see(path, layer, x, y):
        if path and getattr(layer, "kind", "") == "dense":
            paths.setdefault("/".join(path))
        return y

    jax.eval_shape(observe(net, see).apply, params, state, x[:1])
    return list(paths)


def _input_of(net: Layer, path: str) -> Layer:
    """Return a layer whose output is the input of the layer at `path`, at its first call."""

    def apply(params, state, x, *, key=None, train=False):
        seen = []

        def see(names, layer, x, y):
            if "/".join(names) == path:
                seen.append(x)
            return y

        observed = observe(net, see)
        _, state = observed.apply(params, state, x, key=key, train=train)
        return seen[0], state

    return as_layer(Layer(net.init, apply, net.name))


def _replaced(params: Params, path: str, entry: Params) -> Params:
    """Return the params with another entry at a path."""
    first, _, rest = path.partition("/")
    if rest:
        entry = _replaced(params[first], rest, entry)
    return {**params, first: entry}


def _converted(fitted: Params, old: Params, path: str) -> Params:
    """Return the fitted params in the dtypes of the old ones, with a bias only if they have one."""
    needed = {name: leaf.shape for name, leaf in old.items()}
    must = f"pretrain_greedy: the method must return params of {path}, {needed}"
    if not isinstance(fitted, dict):
        raise TypeError(f"{must}, got {type(fitted).__name__}")
    got = {name: jnp.shape(leaf) for name, leaf in fitted.items()}
    if "bias" not in needed:
        got.pop("bias", None)
    if needed != got:
        raise ValueError(f"{must}, got {got}")
    return {name: jnp.asarray(fitted[name], leaf.dtype) for name, leaf in old.items()}
