"""Networks of Haiku as layers. Haiku itself is not imported, since a network is two functions."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.core import Layer, as_layer
from jaxnet.services.checks import a_function
from jaxnet.services.trees import PyTree

FLAGS = {"is_training", "train", "training"}


def from_haiku(transformed: Any) -> Layer:
    """Return a layer from the result of `hk.transform` or `hk.transform_with_state`.

    The training mode is passed if the function has an argument `is_training`, `train` or
    `training`. If it has several other arguments, the layer takes a tuple of them. The layer's key
    is Haiku's random key. `init` passes zeros, since a layer is initialized by shapes alone.

    Args:
      transformed: Pair of functions `init` and `apply`, also after `hk.without_apply_rng`.

    Params and state:
      As Haiku's, where each "/" in the name of a module is a ".", because names of params have no
      "/". To use weights from Haiku, write `{name.replace("/", "."): leaves for name, leaves in
      params.items()}`.

    Raises:
      TypeError: If `transformed` is not such a pair.

    Example:
      >>> from types import SimpleNamespace  # as hk.transform(lambda x: hk.Linear(4)(x)) returns
      >>> pair = SimpleNamespace(
      ...     init=lambda rng, x: {"linear": {"w": jnp.ones((x.shape[-1], 4))}},
      ...     apply=lambda params, rng, x: x @ params["linear"]["w"],
      ... )
      >>> net = jn.serial(jn.interop.haiku.from_haiku(pair), jax.nn.relu)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> net.apply(params, state, jnp.ones((2, 3)))[0][0]
      Array([3., 3., 3., 3.], dtype=float32)
    """
    for what in ("init", "apply"):
        form = "any arguments, as in hk.transform(function)"
        a_function("from_haiku", what, getattr(transformed, what, transformed), form)
    names = list(inspect.signature(transformed.apply).parameters)  # params, state, rng, inputs
    has_state, has_key = "state" in names[1:2], "rng" in names[1:3]
    flags = FLAGS.intersection(names)
    count = len(names) - len(flags) - 1 - has_state - has_key  # of inputs

    def inputs_of(x: PyTree) -> tuple:
        return x if count > 1 and isinstance(x, tuple) else (x,)

    def init(key, x):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), x)
        initial = transformed.init(key, *inputs_of(zeros), **dict.fromkeys(flags, True))
        params, state = initial if has_state else (initial, {})
        return _renamed(params, "/", "."), _renamed(state, "/", ".")

    def apply(params, state, x, *, key=None, train=False):
        arguments: list[Any] = [_renamed(params, ".", "/")]
        if has_state:
            arguments.append(_renamed(state, ".", "/"))
        if has_key:
            arguments.append(key)
        result = transformed.apply(*arguments, *inputs_of(x), **dict.fromkeys(flags, train))
        if not has_state:
            return result, state
        y, state = result
        return y, _renamed(state, "/", ".")

    return as_layer(Layer(init, apply, "haiku"))


def _renamed(tree: Any, old: str, new: str) -> dict:
    return {name.replace(old, new): dict(leaves) for name, leaves in tree.items()}
