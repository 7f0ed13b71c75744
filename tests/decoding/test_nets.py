"""Nets that read more than tokens, against the whole net applied to each sequence again."""

import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.decoding import beam_search, generate
from tests.compiled import jit_init
from tests.decoding.test_generate import KEY, PROMPTS, one_by_one


@pytest.mark.parametrize("draft", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_inputs_before_the_tokens_are_the_same_at_each_step(x64, draft):
    def forward(m, given):
        extra, tokens = given
        x = m(jn.embedding(13, 8), tokens) + m.whole(jn.dense(8), extra)[:, None]
        return m(jn.dense(13), m(jn.transformer_block(2, 9, causal=True), x))

    net, extra = jn.compose(forward), np.eye(3)
    params, _ = jit_init(net, KEY, (extra, np.ones((3, 1), int)))
    params = jax.tree.map(lambda leaf: 2 * jax.device_get(leaf), params)
    options = {"length": 6, "temperature": 0, "inputs": (extra,)}
    if draft:
        options["draft"] = net, jax.tree.map(lambda leaf: -leaf, params)
    made = generate(net, params, PROMPTS, **options)
    for i, prompt in enumerate(PROMPTS):
        row = jn.compose(lambda m, x, i=i: m.inline(net, (extra[i : i + 1], x)))
        found = one_by_one(row, params, {}, prompt, 6, lambda t, z, ids: z.argmax())
        assert made.tokens[i].tolist() == found[0]
    other = generate(net, params, PROMPTS, **options | {"inputs": (extra[::-1],)})
    assert (made.tokens != other.tokens).any()


@pytest.mark.parametrize(("inputs", "error", "words"), [
    ((np.eye(2),), ValueError, r"inputs must have a row per prompt, \(3, ...\)"),
    (np.eye(3), TypeError, r"inputs must be a tuple, such as \(source, lengths\), got ndarray"),
])  # fmt: skip
def test_inputs_that_do_not_fit(inputs, error, words):
    net = lambda given: jax.nn.one_hot(given[1], 13) + given[0].sum()  # noqa: E731
    with pytest.raises(error, match=words):
        generate(net, {}, PROMPTS, temperature=0, inputs=inputs)
    with pytest.raises(error, match=words):
        beam_search(net, {}, np.ones((3, 1), int), beams=2, length=2, end=0, inputs=inputs)
