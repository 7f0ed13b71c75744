"""Functions of arrays have derivatives by each float argument, forward and in reverse.

Layers have the same law in `test_laws`, losses in `losses/test_laws`. Here stands everything else
that computes numbers from arrays.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import decoding, detection, metrics
from jaxnet.data import speech
from jaxnet.ops.attention import dot_product_attention
from jaxnet.ops.blockwise import blockwise_attention
from jaxnet.ops.product import add_bias, product, rows
from jaxnet.ops.scaling import length
from jaxnet.unsupervised import hmm, kmeans, rbm, sparse_coding, whitening
from tests.helpers import draw

KEYS_MAY_REPEAT = True  # a derivative compares two calls


class Function(NamedTuple):
    """A function, and its float arguments."""

    call: Callable
    arguments: Callable[[], tuple]


def of_image(augmentation: Callable) -> Function:
    """The function of the images that an augmentation is, with one key."""
    return Function(partial(augmentation, jax.random.key(0)), lambda: (draw(2, 8, 8, 3) / 9 + 0.5,))


def of_penalty(penalty: Callable) -> Function:
    return Function(lambda kernel: penalty({"dense": {"kernel": kernel}}), lambda: (draw(3, 4),))


def boxes() -> tuple:
    """Two groups of overlapping boxes, as corners."""
    first = draw(3, 2)
    return np.concatenate([first, first + 2], -1), np.concatenate([first, first + 3], -1) + 0.5


def of_hmm(function: Callable) -> Function:
    def call(start, transition, scores):
        return function({"start": start, "transition": transition}, scores)

    return Function(call, lambda: (draw(3), draw(3, 3, seed=1), draw(2, 5, 3, seed=2)))


def of_rbm(function: Callable, *, with_data: bool = True) -> Function:
    def call(kernel, bias, visible_bias, *x):
        return function({"kernel": kernel, "bias": bias, "visible_bias": visible_bias}, *x)

    def arguments():
        params = draw(5, 3), draw(3, seed=1), draw(5, seed=2)
        return (*params, draw(2, 5, seed=3)) if with_data else params

    return Function(call, arguments)


def heads(seed: int) -> np.ndarray:
    return draw(2, 5, 2, 4, seed=seed)


KEY = jax.random.key(0)
LABELS = np.array([0, 1])
MATRIX = np.array([[[0.9, 0.1], [-0.1, 1.1]]] * 2)

FUNCTIONS = {
    "fista": Function(
        partial(sparse_coding.fista, steps=20), lambda: (draw(4, 3), draw(2, 3, seed=1), 0.1)
    ),
    "fista with few atoms": Function(
        partial(sparse_coding.fista, steps=20), lambda: (draw(2, 5), draw(2, 5, seed=1), 0.1)
    ),
    "fit_dictionary": Function(
        lambda x: sparse_coding.fit_dictionary(KEY, x, 2, penalty=0.1), lambda: (draw(9, 3),)
    ),
    "hmm.forward": of_hmm(hmm.forward),
    "hmm.posteriors": of_hmm(hmm.posteriors),
    "hmm.viterbi": of_hmm(hmm.viterbi),
    "hmm.log_probabilities": Function(hmm.log_probabilities, lambda: (draw(3, 4),)),
    "hmm.scaled_likelihoods": Function(
        hmm.scaled_likelihoods, lambda: (draw(2, 5, 4), draw(4, seed=1))
    ),
    "rbm.free_energy": of_rbm(rbm.free_energy),
    "rbm.log_likelihood": of_rbm(rbm.log_likelihood),
    "rbm.log_partition": of_rbm(rbm.log_partition, with_data=False),
    "rbm.ais": of_rbm(partial(rbm.ais, KEY), with_data=False),
    "random_vectors": Function(lambda x: kmeans.random_vectors(KEY, x, 2), lambda: (draw(9, 3),)),
    "detection.area": Function(detection.area, lambda: boxes()[:1]),
    "detection.iou": Function(detection.iou, boxes),
    "detection.to_corners": Function(detection.to_corners, lambda: boxes()[:1]),
    "detection.to_middle": Function(detection.to_middle, lambda: boxes()[:1]),
    "metrics.accuracy": Function(lambda x: metrics.accuracy(x, LABELS), lambda: (draw(2, 3),)),
    "metrics.top_k_accuracy": Function(
        lambda x: metrics.top_k_accuracy(x, LABELS, k=2), lambda: (draw(2, 3),)
    ),
    "metrics.binary_accuracy": Function(
        lambda x: metrics.binary_accuracy(x, LABELS), lambda: (draw(2),)
    ),
    "metrics.scores": Function(metrics.scores, lambda: (np.abs(draw(3, 3)),)),
    "metrics.bits_per_character": Function(metrics.bits_per_character, lambda: (1.5,)),
    "filter_logits": Function(
        partial(decoding.filter_logits, temperature=0.7, top_k=3), lambda: (draw(2, 6),)
    ),
    "dot_product_attention": Function(
        dot_product_attention, lambda: (heads(0), heads(1), heads(2))
    ),
    "blockwise_attention": Function(blockwise_attention, lambda: (heads(0), heads(1), heads(2))),
    "product": Function(product, lambda: (draw(2, 5), draw(5, 3, seed=1))),
    "add_bias": Function(add_bias, lambda: (draw(2, 5), draw(5, seed=1))),
    "rows": Function(lambda table: rows(table, LABELS), lambda: (draw(3, 4),)),
    "length": Function(lambda x: length(x, -1), lambda: (draw(3, 4),)),
    "l1": of_penalty(jn.penalties.l1(0.1)),
    "l2": of_penalty(jn.penalties.l2(0.1)),
    "warp": Function(lambda x: jn.data.warp(x, MATRIX), lambda: (draw(2, 6, 6, 1),)),
    "random_shift": of_image(jn.data.random_shift(2)),
    "random_flip": of_image(jn.data.random_flip()),
    "random_crop": of_image(jn.data.random_crop(0.5)),
    "color_jitter": of_image(jn.data.color_jitter(brightness=0.1, contrast=0.1, saturation=0.1)),
    "cutout": of_image(jn.data.cutout(3)),
    "elastic": of_image(jn.data.elastic(rotation=10.0, displacement=1.0)),
    "rand_augment": of_image(jn.data.rand_augment()),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_those_of_differences(x64, name):
    function = FUNCTIONS[name]
    given = tuple(jnp.asarray(a, jnp.float64) for a in function.arguments())

    def number(*given):
        """A number in which every finite float of the results counts."""
        floats = [y for y in jax.tree.leaves(function.call(*given)) if y.dtype.kind == "f"]
        assert floats
        return sum(jnp.where(jnp.isfinite(y), jnp.sin(y + 1), 0).sum() for y in floats)

    each = tuple(range(len(given)))
    run = jax.jit(number) if name != "metrics.bits_per_character" else number
    backward = jax.grad(run, each)(*given)
    rng = np.random.default_rng(0)
    for i in each:
        direction = rng.normal(size=given[i].shape)

        def along(step, i=i, direction=direction):
            moved = list(given)
            moved[i] = given[i] + step * direction
            return run(*moved)

        wanted = (along(1e-6) - along(-1e-6)) / 2e-6
        _, forward = jax.jvp(along, [jnp.float64(0)], [jnp.float64(1)])
        np.testing.assert_allclose(forward, wanted, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose((backward[i] * direction).sum(), wanted, rtol=1e-5, atol=1e-7)


def test_a_dictionary_of_zeros_has_finite_derivatives():
    codes = jax.value_and_grad(lambda d: sparse_coding.fista(d, jnp.ones((2, 3)), 0.1).sum())
    y, slope = codes(jnp.zeros((4, 3)))
    assert y == 0 and not slope.any()


WITHOUT = {
    "fit_pca": lambda x: whitening.fit_pca(None, x),
    "fit_whitening": lambda x: whitening.fit_whitening(None, x),
    "kmeans": lambda x: kmeans.kmeans(KEY, x, 2),
    "gabor_fit": lambda x: jn.inspect.gabor_fit(x),
    "log_mel": lambda x: speech.log_mel(list(x), rate=8000),
    "mfcc": lambda x: speech.mfcc(list(x), rate=8000),
}


@pytest.mark.parametrize("name", WITHOUT)
@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
def test_what_has_no_derivatives_says_so(name, transform):
    with pytest.raises(TypeError, match=rf"^{name}: .* has no derivatives; call it outside"):
        transform(WITHOUT[name])(jnp.ones((5, 3)))
