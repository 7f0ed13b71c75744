"""Layer to layer: what changes a layer takes a layer and gives a layer.

Each keeps the contract, the layer's name and the paths of its entries, so that transforms nest and
weights pass between the changed and the unchanged layer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, PyTree, describe, unchecked


def repeat(layer: Layer, n: int) -> Layer:
    """The layer n times in a row, each time with parameters of its own.

    Params and state have the layer's paths with a leading axis of n. The layers run in one
    `jax.lax.scan`, so the time to compile does not grow with n.

    Args:
      layer: its output has the shape and dtype of its input.
      n: how often, at least 1.

    Raises:
      ValueError: where n is below 1 or the layer changes the shape.

    Example:
      >>> net = jn.repeat(jn.residual(jn.dense(3)), 5)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> params["dense"]["kernel"].shape
      (5, 3, 3)
      >>> y, state = net.apply(params, state, jnp.ones((2, 3)))
      >>> y.shape
      (2, 3)
    """
    if n < 1:
        raise ValueError(f"repeat: n must be at least 1, got {n}")

    def init(key, x):
        drawn = stacked_init(layer, key, x, n)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), drawn)
        key = jax.eval_shape(lambda: jax.random.key(0))
        y, _ = jax.eval_shape(lambda p, s, x, k: layer.apply(p, s, x, key=k), *one, x, key)
        if describe(y) != describe(x) or jax.tree.structure(y) != jax.tree.structure(x):
            raise ValueError(
                f"repeat: {layer.name} must keep the shape of its input, "
                f"{describe(x)}, got {describe(y)}"
            )
        return drawn

    def apply(params, state, x, *, key=None, train=False):
        def body(x, each):
            i, params, state = each
            here = None if key is None else jax.random.fold_in(key, i)
            return layer.apply(params, state, x, key=here, train=train)

        return jax.lax.scan(body, x, (jnp.arange(n), params, state))

    return unchecked(Layer(init, apply, layer.name), lambda change: repeat(change(layer), n))


def ensemble(layer: Layer, n: int) -> Layer:
    """n members of the layer side by side, each with parameters and randomness of its own.

    All see the same input; the output has a leading axis of n, before the batch axis. Params and
    state have the layer's paths with a leading axis of n. To train members on losses of their own,
    sum the losses: their gradients do not touch.

    Args:
      layer: any layer.
      n: members, at least 1.

    Example:
      >>> net = jn.ensemble(jn.dense(4), 5)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> y, state = net.apply(params, state, jnp.ones((2, 3)))
      >>> params["kernel"].shape, y.shape
      ((5, 3, 4), (5, 2, 4))
    """
    if n < 1:
        raise ValueError(f"ensemble: n must be at least 1, got {n}")

    def init(key, x):
        return stacked_init(layer, key, x, n)

    def apply(params, state, x, *, key=None, train=False):
        def member(i, params, state):
            here = None if key is None else jax.random.fold_in(key, i)
            return layer.apply(params, state, x, key=here, train=train)

        return jax.vmap(member)(jnp.arange(n), params, state)

    return unchecked(Layer(init, apply, layer.name), lambda change: ensemble(change(layer), n))


def remat(layer: Layer, *, policy: Callable[..., bool] | None = None) -> Layer:
    """The layer, whose inner values are computed again in the backward pass and not kept.

    Saves memory for about a third more time; values and gradients are the same.

    Args:
      layer: any layer.
      policy: which values to keep all the same, from `jax.checkpoint_policies`.

    Example:
      >>> net = jn.serial(*[jn.remat(jn.dense(3)) for _ in range(4)])
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> sorted(params)
      ['dense', 'dense_1', 'dense_2', 'dense_3']

    Reference: Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """

    def apply(params, state, x, *, key=None, train=False):
        def run(params, state, x, key):
            return layer.apply(params, state, x, key=key, train=train)

        return jax.checkpoint(run, policy=policy)(params, state, x, key)

    again = lambda change: remat(change(layer), policy=policy)  # noqa: E731
    return unchecked(Layer(layer.init, apply, layer.name), again)


def cast(layer: Layer, dtype: Any) -> Layer:
    """The layer computed in another float dtype, such as `jnp.bfloat16`.

    Parameters stay as they are and their gradients come in their own dtype; the layer gets copies.
    The output has the dtype of the input again (float32 for integers), and the state keeps its own.

    Args:
      layer: any layer.
      dtype: a float dtype.

    Raises:
      ValueError: where dtype is no float.

    Example:
      >>> net = jn.cast(jn.dense(4), jnp.bfloat16)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> y, state = net.apply(params, state, jnp.ones((2, 3)))
      >>> params["kernel"].dtype, y.dtype
      (dtype('float32'), dtype('float32'))

    Reference: Micikevicius et al. 2018, "Mixed precision training".
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"cast: dtype must be a float, such as jnp.bfloat16, got {dtype}")

    def to(tree: PyTree, dtype: Any) -> PyTree:
        floating = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
        return jax.tree.map(lambda a: a.astype(dtype) if floating(a) else a, tree)

    def apply(params, state, x, *, key=None, train=False):
        floats = [a.dtype for a in jax.tree.leaves(x) if jnp.issubdtype(a.dtype, jnp.floating)]
        y, after = layer.apply(to(params, dtype), state, to(x, dtype), key=key, train=train)
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)
        return to(y, jnp.result_type(*floats) if floats else jnp.float32), after

    return unchecked(
        Layer(layer.init, apply, layer.name), lambda change: cast(change(layer), dtype)
    )


def freeze(layer: Layer) -> Layer:
    """The layer as it is: no gradient reaches its params, and it always runs in evaluation mode.

    Its running statistics stay, its dropout is off; gradients still pass through it to its input.
    Awkward: an optimizer with weight decay, and a penalty, look at params themselves and so change
    frozen ones too. Keep them away by a mask, as `optax.masked(optimizer, mask)` takes it.

    Args:
      layer: any layer.

    Example:
      >>> net = jn.serial(jn.freeze(jn.dense(4)), jn.dense(2, name="head"))
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> loss = lambda params: net.apply(params, state, jnp.ones((2, 3)), train=True)[0].sum()
      >>> grads = jax.grad(loss)(params)
      >>> float(jnp.abs(grads["dense"]["kernel"]).sum()), float(grads["head"]["bias"].sum())
      (0.0, 4.0)
    """

    def apply(params, state, x, *, key=None, train=False):
        y, _ = layer.apply(jax.lax.stop_gradient(params), state, x, key=key)
        return y, jax.lax.stop_gradient(state)

    return unchecked(Layer(layer.init, apply, layer.name), lambda change: freeze(change(layer)))


def stacked_init(layer: Layer, key: jax.Array, x: PyTree, n: int) -> tuple[PyTree, PyTree]:
    """n draws of the layer's params and state, stacked; draw i has the key fold_in(key, i).

    Example:
      >>> params, state = stacked_init(jn.dense(4), jax.random.key(0), jn.spec((2, 3)), 5)
      >>> params["kernel"].shape
      (5, 3, 4)
    """
    draws = []
    try:
        # One by one, since a draw costs less than compiling it for n.
        for i in range(n):
            draw = layer.init(jax.random.fold_in(key, i), x)
            draws.append(jax.tree.map(np.asarray, draw))
    except jax.errors.TracerArrayConversionError:  # inside jit or vmap
        each = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
        return jax.vmap(lambda key: layer.init(key, x))(each)
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *draws)
