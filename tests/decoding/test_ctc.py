"""CTC decoding against a plain Python search and sums over all alignments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.decoding import ctc_beam_search, ctc_greedy


def plain_prefixes(log_p, beams, blank):
    """Prefix beam search with a dict of (log p ending in a blank, in a label)."""
    found = {(): (0.0, -np.inf)}
    for y in log_p:
        new = {}

        def add(labels, in_blank, in_label, new=new):
            a, b = new.get(labels, (-np.inf, -np.inf))
            new[labels] = np.logaddexp(a, in_blank), np.logaddexp(b, in_label)

        for labels, (in_blank, in_label) in found.items():
            both = np.logaddexp(in_blank, in_label)
            repeated = in_label + y[labels[-1]] if labels else -np.inf
            add(labels, both + y[blank], repeated)
            for c in set(range(len(y))) - {blank}:
                again = labels[-1:] == (c,)
                before = in_blank if again else both
                add((*labels, c), -np.inf, before + y[c])
        new = sorted(new.items(), key=lambda item: -np.logaddexp(*item[1]))
        found = dict(new[:beams])
    return {labels: np.logaddexp(*both) for labels, both in found.items()}


def ctc_logits(steps, classes, seed=0):
    return 2 * np.random.default_rng(seed).normal(size=(2, steps, classes))


prefix_search = jax.jit(ctc_beam_search, static_argnames=("beams", "blank"))


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 3])
def test_ctc_beam_search_equals_a_plain_one(x64, beams):
    for seed in range(4):
        z = ctc_logits(8, 4, seed)
        labels, n, scores = jax.device_get(prefix_search(z, beams=beams))
        for i in range(2):
            expected = plain_prefixes(np.asarray(jax.nn.log_softmax(z[i])), beams, 0)
            got = [tuple(labels[i, j, : n[i, j]]) for j in range(beams)]
            assert got == list(expected)
            np.testing.assert_allclose(scores[i], list(expected.values()), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 3])
def test_no_steps_give_no_labels(steps):
    z = np.ones((1, steps, 4), np.float32)
    lengths = np.array([0])
    labels, n = jax.jit(ctc_greedy)(z, lengths)
    assert labels.shape == (1, steps)
    assert n.tolist() == [0]
    labels, n, scores = jax.device_get(prefix_search(z, lengths, beams=3))
    assert labels.shape == (1, 3, steps)
    assert (labels == 0).all()
    assert n.tolist() == [[0, 0, 0]]
    assert scores[0].tolist() == [0, -np.inf, -np.inf]


@pytest.mark.slow
def test_bfloat16_logits_are_summed_in_float32():
    """log 1000 = 6.9078 in float32, 6.9062 in bfloat16."""
    _, _, scores = prefix_search(jnp.zeros((1, 1, 1000), jnp.bfloat16), beams=1)
    np.testing.assert_allclose(scores, [[-np.log(1000)]], rtol=1e-6)


def with_nan():
    """Logits and lengths: whole, with NaN, with nothing possible, with NaN after the end.

    The lengths of the last three are more than the steps, below 0, and 0.
    """
    z = np.repeat(np.eye(3, dtype=np.float32)[[[1, 0, 2, 2]]], 7, 0)
    z[1, 1] = np.nan
    z[2] = -np.inf
    z[3, 3] = np.nan
    return z, np.array([4, 4, 4, 3, 5, -1, 0])


def test_nan_and_lengths_that_do_not_fit_give_no_labels():
    """Labels of -1, as many as there are; inside of `jit` for lengths beyond the steps too."""
    labels, n = jax.jit(ctc_greedy)(*with_nan())
    right = [1, 2, 0, 0]
    none = [-1] * 4
    assert labels.tolist() == [right, none, none, right, none, none, [0] * 4]
    assert n.tolist() == [2, 4, 4, 2, 4, 4, 0]


@pytest.mark.slow
def test_nan_and_lengths_that_do_not_fit_give_scores_of_nan():
    _, _, scores = jax.device_get(prefix_search(*with_nan(), beams=2))
    wrong = [1, 2, 4, 5]
    assert np.isnan(scores[wrong]).all()
    assert not np.isnan(np.delete(scores, wrong, 0)).any()


@pytest.mark.parametrize(("call", "words"), [
    (lambda: ctc_greedy(jnp.ones((5, 3))), r"must have shape \(batch, steps, cl.* pass x\[None\]"),
    (lambda: ctc_greedy((jnp.ones((2, 5, 3)), jnp.array([5, 5]))), "JAX or NumPy array, got tuple"),
    (lambda: ctc_greedy(jnp.ones((2, 5, 3)), blank=3), "blank must be 0 to 2, the last class, "),
    (lambda: ctc_greedy(jnp.ones((2, 5, 3)), blank=-1), "ctc_greedy: blank must be at least 0"),
    (lambda: ctc_greedy(jnp.ones((2, 5, 3)), jnp.array([5, 6])), r"lengths .* \[0, 6\), got 6"),
    (lambda: ctc_greedy(jnp.ones((2, 5, 3)), np.array([5, -1])), r"lengths .* \[0, 6\), got -1"),
    (lambda: ctc_greedy(jnp.ones((2, 5, 3)), jnp.array([5])), r"lengths must .* \(batch,\)"),
    (lambda: ctc_greedy(jnp.ones((2, 5, 3)), [5, 5]), "ctc_greedy: lengths must .* got list"),
    (lambda: ctc_beam_search(jnp.ones((2, 5, 3)), beams=0), "beams must be at least 1"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()
