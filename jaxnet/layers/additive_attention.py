"""Additive attention: a small network scores each query against each entry of a memory."""

from typing import Any

import jax.numpy as jnp

from jaxnet.core import Layer, compose
from jaxnet.initializers import Initializer, lecun_normal
from jaxnet.layers.attention import check_mask
from jaxnet.layers.dense import dense
from jaxnet.ops import add_bias, at_least_float32
from jaxnet.ops.attention import expand_mask, masked_softmax
from jaxnet.services.checks import at_least, check_floats, check_options


def additive_attention(
    features: int,
    *,
    return_weights: bool = False,
    kernel_init: Initializer = lecun_normal(),
    name: str = "additive_attention",
) -> Layer:
    """Attend to a memory as in Bahdanau et al., by the softmax of v · tanh(W query + U memory).

    The output is the mean of the memory under these weights. A query whose mask is all False gets
    zeros.

    Args:
      features: Width of the hidden layer of the scores, at least 1.
      return_weights: Whether to return (y, weights), weights (batch, queries, memory), for plots.
      kernel_init: Initializer of the kernels.
      name: Name of the layer.

    Inputs, in a dict by name, or inside a model `m(layer, x, memory=memory, mask=mask)`:
      x: Queries (batch, time, width), or (batch, width) for one query per example, as in a step of
        a decoder; y has the same axes and the width of the memory.
      memory: (batch, places, width). If queries arrive one after another, U memory can be
        computed once, by `jn.dense(features, use_bias=False)`: then pass {"key": U memory, "value":
        memory}, and the layer does not have a key kernel.
      mask: Mask, as in `multi_head_attention`.

    Params:
      query/kernel (width of queries, features); key/kernel (width of memory, features);
      score/kernel (features, 1).

    Returns:
      A layer from the dict to means of the memory, (batch, time, width), or (batch, width)
      for one query.

    Raises:
      TypeError: If queries or memory are not float.
      ValueError: If `features` is below 1.
      ValueError: If the input has the wrong form.

    Example:
      >>> layer = additive_attention(10, return_weights=True)
      >>> queries, memory = jnp.ones((2, 3, 4)), jnp.ones((2, 5, 7))
      >>> lengths = jnp.array([5, 2])
      >>> given = {"x": queries, "memory": memory, "mask": lengths}
      >>> params, state = layer.init(jax.random.key(0), given)
      >>> (y, weights), _ = layer.apply(params, state, given)
      >>> np.asarray(weights[:, 0]).round(2)  # the second memory has two steps
      array([[0.2, 0.2, 0.2, 0.2, 0.2],
             [0.5, 0.5, 0. , 0. , 0. ]], dtype=float32)

      With the keys computed once:

      >>> kernel = params.pop("key")["kernel"]
      >>> memory = {"key": memory @ kernel, "value": memory}
      >>> given = {"x": queries[:, 0], "memory": memory, "mask": lengths}
      >>> (_, weights), _ = layer.apply(params, state, given)
      >>> np.asarray(weights).round(2)
      array([[0.2, 0.2, 0.2, 0.2, 0.2],
             [0.5, 0.5, 0. , 0. , 0. ]], dtype=float32)

    Reference: Bahdanau et al. 2015, "Neural Machine Translation by Jointly Learning to Align and
    Translate".
    """
    at_least(name, "features", features)
    check_options(name, return_weights=return_weights, kernel_init=kernel_init)

    def projected(m, part, x, features):
        return m(dense(features, use_bias=False, kernel_init=kernel_init, name=part), x)

    def forward(m, x, mask=None, memory: Any = None):
        check_mask(name, mask)
        queries, keys, values = x, None, memory
        if isinstance(memory, dict) and set(memory) == {"key", "value"}:
            keys, values = memory["key"], memory["value"]
        _check(name, queries, keys, values, features)
        single = queries.ndim == 2
        if single:
            queries = queries[:, None]  # (batch, width) -> (batch, 1, width)
        sizes = (queries.shape[0], 1, queries.shape[1], values.shape[1])
        seen, bias = expand_mask(name, mask, sizes)
        if seen is not None:  # 0 times NaN would be NaN
            is_seen = seen.any((1, 2))
            values = jnp.where(is_seen[..., None], values, 0)
            seen = seen[:, 0]  # (batch, time, places)
        if keys is None:
            keys = projected(m, "key", values, features)  # (batch, places, features)
        q = projected(m, "query", queries, features)  # (batch, time, features)
        # (batch, time, 1, features) + (batch, 1, places, features)
        hidden = jnp.tanh(add_bias(q[:, :, None], keys[:, None]))
        scores = at_least_float32(projected(m, "score", hidden, 1)[..., 0])  # (batch, time, places)
        if bias is not None:
            scores = scores + bias[:, 0]
        weights = masked_softmax(scores, seen).astype(values.dtype)
        y = weights @ values  # (batch, time, width of memory)
        if single:
            y, weights = y[:, 0], weights[:, 0]
        return (y, weights) if return_weights else y

    return compose(forward, name=name, kind="additive_attention")


def _check(name: str, queries: Any, keys: Any, values: Any, features: int) -> None:
    """Raise unless queries, keys and values have shapes that fit, and hold floats."""
    shape, memory = (getattr(part, "shape", ()) for part in (queries, values))
    if len(shape) not in (2, 3) or len(memory) != 3:
        raise ValueError(
            f'{name}: expected {{"x": queries, "memory": memory}} with queries (batch, time, '
            "width) or (batch, width) and a memory (batch, places, width), got "
            f"{shape} and {memory}"
        )
    for part in (queries, values, values if keys is None else keys):
        check_floats(name, part)
    wanted = (*memory[:2], features)
    if keys is not None and keys.shape != wanted:
        raise ValueError(
            f"{name}: expected keys of shape {wanted} for a memory of shape {memory}, got "
            f"{keys.shape}"
        )
