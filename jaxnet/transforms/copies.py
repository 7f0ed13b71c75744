"""Copies of a layer, each with its own parameters, in sequence or in parallel."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.core import Layer, transformed
from jaxnet.core.inputs import first_and_further, with_further
from jaxnet.services.checks import at_least, check_dict, on_device
from jaxnet.services.trees import PyTree, describe, flat


def repeat(layer: Layer, n: int) -> Layer:
    """Return n copies of a layer in sequence, each with its own parameters.

    Params and state have the layer's paths with a leading axis of n. The copies run in one
    `jax.lax.scan`, so compile time does not grow with n.

    Args:
      layer: Layer whose output has the shape and dtype of its input. Its further inputs, such as
        the mask of `transformer_block`, go to each copy unchanged.
      n: Number of copies, at least 1.

    Returns:
      A layer whose params and state have a leading axis of the copies.

    Raises:
      TypeError: If `layer` is not a layer or `n` is not an integer.
      ValueError: If `n` is below 1.
      ValueError: If the layer changes the shape, or if params have a different n.

    Example:
      >>> net = jn.repeat(jn.residual(jn.dense(3)), 5)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> params["dense"]["kernel"].shape
      (5, 3, 3)
      >>> y, state = net.apply(params, state, jnp.ones((2, 3)))
      >>> y.shape
      (2, 3)
    """
    at_least("repeat", "n", n)

    names = getattr(layer, "inputs", ())  # what is no layer raises below

    def one(run, params, state, x, further, turn):
        y, after = run(params, state, with_further(names, x, further), turn=turn)
        if describe(y) != describe(x) or jax.tree.structure(y) != jax.tree.structure(x):
            raise ValueError(
                f"repeat: {run.layer.name} must keep the shape and dtype of its input, "
                f"{describe(x)}, got {describe(y)}"
            )
        return y, after

    def init(run, key, inputs):
        drawn = stacked_init(run.init, key, inputs, n)

        def of_one(leaf):
            return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

        params, state = jax.tree.map(of_one, drawn)
        x, further = first_and_further(names, inputs)
        first = partial(one, run, turn=0)
        jax.eval_shape(first, params, state, x, further)  # raises if it changes the shape
        return drawn

    def apply(run, params, state, inputs):
        _check_copies("repeat", n, params, state)
        x, further = first_and_further(names, inputs)

        def body(x, each):
            i, params, state = each
            return one(run, params, state, x, further, i)

        def in_place(carry, each):
            x, states = carry
            i, params = each

            def take(stack):
                return jax.lax.dynamic_index_in_dim(stack, i, 0, keepdims=False)

            def put(stack, new):
                return jax.lax.dynamic_update_index_in_dim(stack, new, i, 0)

            y, after = one(run, params, jax.tree.map(take, states), x, further, i)
            next_states = {name: after.pop(name) for name in states}
            return (y, jax.tree.map(put, states, next_states)), after  # only sown values remain

        turns = jnp.arange(n)
        if run.mode.stream is None:
            return jax.lax.scan(body, x, (turns, params, state))
        # A scan that returned the states would make a new stack of caches for each token.
        (y, state), sown = jax.lax.scan(in_place, (x, state), (turns, params))
        return y, state | sown

    return transformed(layer, apply, kind="repeat", init=init, copies=n)


def ensemble(layer: Layer, n: int) -> Layer:
    """Return n members of a layer in parallel, each with its own parameters and randomness.

    All get the same input; the output has a leading axis of n, before the batch axis. Params and
    state have the layer's paths with a leading axis of n. To train each member on its own loss,
    sum the losses: gradients do not pass between members.

    Args:
      layer: Any layer.
      n: Number of members, at least 1.

    Returns:
      A layer whose params, state and output have a leading axis of the members.

    Raises:
      TypeError: If `layer` is not a layer or `n` is not an integer.
      ValueError: If `n` is below 1, or if params have a different n.

    Example:
      >>> net = jn.ensemble(jn.dense(4), 5)
      >>> params, state = net.init(jax.random.key(0), jn.spec((2, 3)))
      >>> y, state = net.apply(params, state, jnp.ones((2, 3)))
      >>> params["kernel"].shape, y.shape
      ((5, 3, 4), (5, 2, 4))
    """
    at_least("ensemble", "n", n)

    def init(run, key, x):
        return stacked_init(run.init, key, x, n)

    def apply(run, params, state, x):
        _check_copies("ensemble", n, params, state)

        def member(i, params, state):
            return run(params, state, x, turn=i)

        return jax.vmap(member)(jnp.arange(n), params, state)

    return transformed(layer, apply, kind="ensemble", init=init, copies=n)


def mapped(layer: Layer, axis: int = 1) -> Layer:
    """Return a layer that applies another one to each entry along an axis of its input.

    The entries share the params, and each has a random key of its own. Inside a forward function,
    `jax.vmap(lambda x: m(layer, x))` has no key, which raises in training for a layer that draws.

    Args:
      layer: Any layer without state that changes in training.
      axis: Axis of every array of the input and of the output, from 0.

    Params, state:
      Those of `layer`.

    Returns:
      A layer with the same params, whose inputs and outputs have the mapped axis.

    Raises:
      TypeError: If `layer` is not a layer or `axis` is not an integer.
      ValueError: If an array of the input lacks the axis, or the arrays differ in its size.
      ValueError: In training, if the layer changes its state, such as batch norm.

    Example:
      >>> frames = jn.transforms.mapped(jn.serial(jn.conv(3, 3), jn.dropout(0.5)), axis=1)
      >>> x = jnp.ones((2, 5, 8, 8, 1))  # (batch, time, height, width, channels)
      >>> params, state = frames.init(jax.random.key(0), x)
      >>> y, _ = frames.apply(params, state, x, key=jax.random.key(1), train=True)
      >>> y.shape, params["conv"]["kernel"].shape
      ((2, 5, 8, 8, 3), (3, 3, 1, 3))
    """
    at_least("mapped", "axis", axis, 0)

    def size(x):
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
        sizes = {shape[axis : axis + 1] for shape in shapes}  # () of an array without this axis
        if len(sizes) != 1 or () in sizes:
            raise ValueError(
                f"mapped: every array must have axis {axis} of one size, got {describe(x)}"
            )
        (length,) = sizes.pop()
        return length

    def init(run, key, x):
        size(x)

        def entry(a):
            return jax.ShapeDtypeStruct(a.shape[:axis] + a.shape[axis + 1 :], a.dtype)

        return run.init(key, jax.tree.map(entry, x))

    def apply(run, params, state, x):
        def one(i, x):
            y, after = run(params, state, x, turn=i)
            next_state = {name: after[name] for name in state}
            sown = {name: value for name, value in after.items() if name not in state}
            return y, next_state, sown

        each = jax.vmap(one, in_axes=(0, axis), out_axes=(axis, None, 0))
        try:
            y, after, sown = each(jnp.arange(size(x)), x)
        except ValueError as error:
            if "out_axes" not in str(error):
                raise
            raise ValueError(
                f"mapped: {run.layer.name} changes its state, {', '.join(state)}, which all "
                "entries share. Apply it to the whole array, or to x.reshape(-1, ...)"
            ) from error
        return y, after | sown

    return transformed(layer, apply, kind="mapped", init=init)


def _check_copies(who: str, n: int, params: PyTree, state: PyTree) -> None:
    """Raise unless every entry has a leading axis of n."""
    for kind, tree in (("params", params), ("state", state)):
        check_dict(who, kind, tree)
        for path, leaf in flat(tree):
            if jnp.shape(leaf)[:1] != (n,):
                raise ValueError(
                    f"{who}: {kind}/{path} must have a leading axis of n = {n}, got "
                    f"{jnp.shape(leaf)}; do they belong to a different n?"
                )


def stacked_init(init: Callable, key: jax.Array, x: PyTree, n: int) -> tuple[PyTree, PyTree]:
    """Return n stacked draws of params and state; draw i has the key fold_in(key, i).

    Example:
      >>> params, state = stacked_init(jn.dense(4).init, jax.random.key(0), jn.spec((2, 3)), 5)
      >>> params["kernel"].shape
      (5, 3, 4)
    """
    draws = []
    try:
        # One by one, since drawing is faster than compiling a program for n.
        for i in range(n):
            draw = init(jax.random.fold_in(key, i), x)
            draws.append(jax.tree.map(np.asarray, draw))
    except jax.errors.TracerArrayConversionError:  # inside jit or vmap
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
        return jax.vmap(lambda key: init(key, x))(keys)
    return jax.tree.map(lambda *leaves: on_device(np.stack(leaves)), *draws)
