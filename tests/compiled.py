"""Layers as one program: operations one by one are compiled for each shape of each."""

from typing import Any

import jax
import jax.numpy as jnp

import jaxnet as jn


def jit_apply(
    layer: jn.Layer, params: Any, state: Any, x: Any, *, key: Any = None, train: bool = False
) -> tuple[Any, Any]:
    """`layer.apply(params, state, x, key=key, train=train)`, compiled once per layer and shape.

    `tests/test_laws.py` shows for each layer that it equals the call outside of `jit`. The results
    are NumPy arrays, outside of transforms: what a test asks of them compiles nothing.
    """
    run = jax.jit(layer.apply, static_argnames="train")
    return jax.tree.map(on_host, run(params, state, x, key=key, train=train))


def on_host(leaf: Any) -> Any:
    """An array as NumPy's; a tracer or a key as it is."""
    stays = isinstance(leaf, jax.core.Tracer) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    return leaf if stays else jax.device_get(leaf)


def jit_init(layer: jn.Layer, key: Any, x: Any) -> tuple[Any, Any]:
    """`layer.init(key, x)` as one program, where more than one layer draws."""
    return jax.jit(lambda key: layer.init(key, x))(key)


def jit_pull(function: Any, x: Any, cotangent: Any) -> tuple[Any, Any]:
    """(function(x), the cotangent pulled back to x), as one program."""

    @jax.jit
    def both(x, cotangent):
        y, pull = jax.vjp(function, x)
        return y, pull(cotangent)[0]

    return jax.tree.map(on_host, both(x, cotangent))
