"""Sizes of a model, found without drawing it."""

import jax

import jaxnet as jn


def count(net, shape):
    """Number of parameters."""
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec(shape))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def shapes(net, shape):
    """Path of a layer -> shape of its output."""
    found = {}

    def note(path, layer, x, y):
        found["/".join(path)] = getattr(y, "shape", None)
        return y

    x = jn.spec(shape)
    params, state = jax.eval_shape(net.init, jax.random.key(0), x)
    jax.eval_shape(jn.observe(net, note).apply, params, state, x)
    return found
