"""Cross-entropy of a vocabulary in chunks, against the loss of all logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.losses import cross_entropy, linear_cross_entropy
from tests.helpers import close, jit_apply, jit_init, refuses, temporary

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(3, 7, 8)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 50, (3, 7)))
KERNEL, BIAS = (jnp.asarray(RNG.normal(size=size), jnp.float32) for size in ((8, 50), 50))


def full_cross_entropy(x, kernel, labels, bias=None, softcap=None, transposed=False, **options):
    logits = x @ (kernel.T if transposed else kernel) + (0 if bias is None else bias)
    logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
    return cross_entropy(logits, labels, **options)


@pytest.mark.fast_cases("1-{}", "21-{'transposed': True}", "4-{'softcap': 3.0}")
@pytest.mark.parametrize(
    ("chunk", "options"),
    [
        (1, {}),
        (4, {}),
        (100, {}),
        (4, {"softcap": 3.0}),
        (4, {"label_smoothing": 0.1}),
        (21, {"transposed": True}),
        (5, {"transposed": True}),
    ],
    ids=str,
)
def test_equals_the_loss_of_all_logits(chunk, options):
    kernel = KERNEL.T if "transposed" in options else KERNEL
    weights = jnp.asarray(RNG.uniform(size=LABELS.shape))

    def slopes(loss):

        def total(x, w, b):
            return (weights * loss(x, w, LABELS, bias=b, **options)).sum()

        return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(X, kernel, BIAS)

    found = slopes(lambda *a, **k: linear_cross_entropy(*a, chunk=chunk, **k))
    close(found, slopes(full_cross_entropy))


@pytest.mark.slow
def test_one_chunk_has_the_same_bits():
    found = linear_cross_entropy(X, KERNEL, LABELS)
    assert found.tolist() == cross_entropy(jn.product(X, KERNEL), LABELS).tolist()


@pytest.mark.slow
def test_gradients_of_16_bits_are_summed_in_float32():
    x = jnp.ones((4096, 1), jnp.bfloat16)
    kernel = jnp.zeros((1, 2), jnp.bfloat16)
    labels = jnp.zeros(4096, jnp.int32)

    def loss(w, b):
        return linear_cross_entropy(x, w, labels, bias=b, chunk=2).sum()

    for slope in jax.grad(loss, (0, 1))(kernel, kernel[0]):
        np.testing.assert_allclose(np.float32(slope).ravel(), [-2048, 2048], rtol=0.01)


@pytest.mark.slow
def test_memory_is_that_of_a_chunk():
    x = jn.spec((2048, 32))
    labels = jn.spec((2048,), jnp.int32)

    def held(loss):
        slopes = jax.grad(lambda x, w, y: loss(x, w, y).sum(), (0, 1))
        return temporary(slopes, x, jn.spec((32, 8000)), labels)

    assert held(lambda *a: linear_cross_entropy(*a, chunk=128)) < held(full_cross_entropy) / 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: jn.quantized(net, where="words"),
        lambda net: jn.lora(net, 2, where="words"),
    ],
)
def test_kernels_as_stored_have_the_loss_of_merged_ones(wrap):
    def language(m, batch):
        ids, labels = batch
        words = m.kernel("words", jn.initializers.normal(), (50, 8))
        x = m(jn.dense(8), jn.rows(words, ids))
        return linear_cross_entropy(x, words, labels, transposed=True, chunk=4)

    objective = jn.compose(language)
    net = wrap(objective)
    params, state = jit_init(net, jax.random.key(0), (LABELS, LABELS))
    found, _ = jit_apply(net, params, state, (LABELS, LABELS))
    merged, _ = jit_apply(objective, jn.merge(net, params), state, (LABELS, LABELS))
    np.testing.assert_allclose(found, merged, 1e-5)


test_what_does_not_fit_is_named = refuses(
    [
        (
            lambda: linear_cross_entropy(X[..., :5], KERNEL, LABELS),
            r"expected x \(..., 8\) for a kernel \(8, 50\)",
        ),
        (lambda: linear_cross_entropy(X, KERNEL, LABELS + 50), r"labels in \[0, 50\)"),
    ]
)
