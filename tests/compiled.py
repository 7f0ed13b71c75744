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
