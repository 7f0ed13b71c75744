"""Sizes as published: table 1 of the paper."""

import jax
import pytest

import jaxnet as jn


def count(net, shape):
    params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec(shape))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def shapes(net, shape):
    return {row.path: row.output.shape for row in jn.inspect.summary(net, jn.spec(shape)).rows}


def test_parameters():
    assert count(jn.models.googlenet(), (2, 224, 224, 3)) == 6_998_552
    # A head: 1x1 convolution from 512 or 528 maps to 128, 2048 to 1024, 1024 to the classes.
    heads = sum((maps + 1) * 128 + 2049 * 1024 + 1025 * 1000 for maps in (512, 528))
    assert count(jn.models.googlenet(auxiliary=True), (2, 224, 224, 3)) == 6_998_552 + heads


def test_stages():
    found = shapes(jn.models.googlenet(classes=7), (2, 224, 224, 3))
    wanted = {
        "conv_1": (112, 112, 64), "pool_1": (56, 56, 64), "conv_2": (56, 56, 192),
        "pool_2": (28, 28, 192), "inception_3a": (28, 28, 256), "inception_3b": (28, 28, 480),
        "inception_4a": (14, 14, 512), "inception_4e": (14, 14, 832), "inception_5a": (7, 7, 832),
        "inception_5b": (7, 7, 1024), "inception_3a/conv_5x5": (28, 28, 32), "output": (7,),
    }  # fmt: skip
    assert {name: found[name][1:] for name in wanted} == wanted


@pytest.mark.slow
def test_auxiliary_heads_see_the_middle():
    """Three logits, and the gradient of a head's does not reach the modules above it."""
    net = jn.models.googlenet(classes=3, auxiliary=True)
    x = jax.random.normal(jax.random.key(1), (1, 80, 80, 3))
    params, state = net.init(jax.random.key(0), x)

    @jax.jit
    def gradient(params):
        def of_head(params):
            logits, first, second = net.apply(params, state, x)[0]
            assert logits.shape == first.shape == second.shape == (1, 3)
            return first.sum()

        return jax.grad(of_head)(params)

    found = {name: max(abs(leaf).max() for leaf in jax.tree.leaves(tree))
             for name, tree in gradient(params).items()}  # fmt: skip
    assert found["inception_4a"] > 0 and found["auxiliary_4a"] > 0 and found["conv_1"] > 0
    assert found["inception_4b"] == found["auxiliary_4d"] == found["output"] == 0
