"""Sizes of a model, found without drawing it."""

import jax

import jaxnet as jn
from tests import helpers


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


def trained(net, shape):
    """Shapes of the output of a step of training; gradients and state have those of init."""
    x = jn.spec(shape)
    key = jax.random.key(1)
    params, state = jax.eval_shape(net.init, key, x)

    def loss(params, state, x):
        y, after = net.apply(params, state, x, key=key, train=True)
        return y.sum(), (y, after)

    found, (y, after) = jax.eval_shape(jax.grad(loss, has_aux=True), params, state, x)
    assert helpers.shapes((params, state)) == helpers.shapes((found, after))
    return y.shape
