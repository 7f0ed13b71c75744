"""Sizes of a model, found without drawing it."""

import jax

import jaxnet as jn


def count(net, shape):
    """Number of parameters."""
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec(shape))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def shapes(net, shape):
    """Path of a layer -> shape of its output."""
    return {row.path: row.output.shape for row in jn.inspect.summary(net, jn.spec(shape)).rows}
