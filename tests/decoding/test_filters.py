"""Filters against loops in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.decoding import filter_logits

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(6, 12))
SEEN = (RNG.random((6, 12)) < 0.3) | (np.arange(12) == 4)
OPTIONS = [
    {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.6}, {"top_p": 1e-6}, {"min_p": 0.2},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 1.3, "temperature": 1.4, "top_k": 7, "top_p": 0.9, "min_p": 0.1},
]  # fmt: skip


def reference_filter(
    logits, seen, temperature=1.0, top_k=None, top_p=None, min_p=None, penalty=None
):
    """One row at a time, by probabilities."""
    found = []
    for z, old in zip(logits.copy(), seen, strict=True):
        if penalty:
            for i in np.flatnonzero(old):
                z[i] = z[i] * penalty if z[i] < 0 else z[i] / penalty
        z /= temperature
        order = np.argsort(-z, kind="stable").tolist()
        keep = order[:top_k]
        total = sum(np.exp(z[i]) for i in keep)
        p = {i: np.exp(z[i]) / total for i in keep}
        if top_p is not None:
            total = 0.0
            nucleus = []
            for i in keep:
                if total < top_p:
                    nucleus.append(i)
                total += p[i]
            keep = nucleus
        if min_p is not None:
            least = min_p * p[order[0]]
            keep = [i for i in keep if p[i] >= least]
        row = np.full(len(z), -np.inf)
        row[keep] = z[keep]
        found.append(row)
    return np.array(found)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_filters_equal_a_plain_loop(x64, options):
    renamed = {"penalty" if n == "repetition_penalty" else n: v for n, v in options.items()}
    expected = reference_filter(LOGITS, SEEN, **renamed)
    found = jax.jit(partial(filter_logits, seen=jnp.asarray(SEEN), **options))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_nucleus_that_has_reached_its_share_takes_no_more():
    z = np.log(np.float32([0.5, 0.25, 0.25]))
    found = jax.jit(partial(filter_logits, top_p=0.5))(z)
    assert np.isfinite(found).tolist() == [True, False, False]


def test_among_equal_tokens_those_of_lower_id_stay():
    found = filter_logits(jnp.zeros((2, 4)), top_k=2)
    np.testing.assert_array_equal(found, [[0, 0, -jnp.inf, -jnp.inf]] * 2)


def test_numbers_may_be_traced_and_axes_free():
    logits = jnp.asarray(LOGITS.reshape(2, 3, 12), jnp.bfloat16)
    run = jax.jit(lambda t, p: filter_logits(logits, temperature=t, top_p=p, min_p=p / 9))
    assert run(0.5, 0.3).shape == (2, 3, 12)
    assert run(0.5, 0.3).dtype == jnp.float32
    run(0.7, 0.9)
    assert run._cache_size() == 1


@pytest.mark.parametrize(("options", "words"), [
    ({"temperature": 0}, r"temperature is what divides the logits, in \(0, inf\), got 0"),
    ({"top_k": 5}, "top_k must be 1 to 4, the number of tokens, got 5"),
    ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
    ({"min_p": -1}, r"min_p must be in \[0, 1\], got -1"),
    ({"repetition_penalty": 2.0}, "repetition_penalty needs seen"),
])  # fmt: skip
def test_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        filter_logits(jnp.zeros((1, 4)), **options)


@pytest.mark.slow
def test_a_nucleus_of_everything_drops_no_token():
    """The sum of all probabilities is rounded to 1 before the last tokens."""
    logits = np.random.default_rng(0).normal(size=(2, 50_000)).astype(np.float32) * 4
    for given in (1.0, jnp.float32(1.0)):
        found = jax.jit(lambda z, p=given: filter_logits(z, top_p=p))(logits)
        assert np.isfinite(found).all()
    n = 50_000
    for options, kept in ({"min_p": 0.0}, n), ({"top_k": n}, n), ({"top_p": 1e-9}, 1):
        found = jax.jit(partial(filter_logits, **options))(logits)
        assert (np.isfinite(found).sum(-1) == kept).all()


@pytest.mark.parametrize("top_p", [1e-40, 1e-30, 1e-7])
def test_a_nucleus_of_almost_nothing_keeps_the_most_probable_token(top_p):
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, -1.0, 0.0]])
    found = filter_logits(logits, top_p=top_p)
    assert jnp.isfinite(found).tolist() == [[False, True, False], [True, False, False]]
