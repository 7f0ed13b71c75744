"""Beam search against a plain Python search and sums over all sequences."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.decoding import beam_search
from jaxnet.initializers import zeros

KEYS_MAY_REPEAT = True  # draws are compared
END = 2
VOCABULARY, WIDTH = 5, 4


def weights(seed):
    draw = np.random.default_rng(seed)
    shapes = (VOCABULARY, WIDTH), (WIDTH, WIDTH), (WIDTH, VOCABULARY)
    return [2 * draw.normal(size=shape) for shape in shapes]


def as_net(step):
    """The net of a step `(carry, tokens) -> (carry, logits)`, whose carry is its state."""

    def forward(m, tokens):
        entries = {"clock": (2,)} if step is dies else {"h": (WIDTH,), "n": ()}
        dtype = jnp.result_type(float)
        carry = {}
        for entry, shape in entries.items():
            carry[entry] = m.state(entry, zeros, (len(tokens), *shape), dtype)
        carry, logits = step(carry, tokens[:, 0])
        for entry, value in carry.items():
            m.update(entry, value)
        return logits[:, None]

    return jn.compose(forward, name="model")


def step_of(table, inner, out, numpy=np):
    """One step of a network, for one sequence in NumPy or for several in JAX."""

    def step(h, tokens):
        h = numpy.tanh(h @ inner + numpy.asarray(table)[tokens])
        return h, h @ out

    return step


def network(*weights):
    def step(carry, tokens):
        h, logits = step_of(*weights, jnp)(carry["h"], tokens)
        return {"h": h, "n": carry["n"] + 1}, logits

    return as_net(step)


def stateless(logits):
    """A model of the token before alone: tokens (batch,) -> logits, and its params."""
    return lambda tokens: logits(tokens[:, 0])[:, None], {}


@partial(jax.jit, static_argnames=("beams", "length", "penalty"))
def search(weights, carry, first, *, beams, length, penalty=1.0):
    """Beam search by the network."""
    options = {"beams": beams, "length": length, "end": END, "length_penalty": penalty}
    return beam_search(network(*weights), {}, first[:, None], state=carry, **options)


def start(batch, seed=0):
    h = np.random.default_rng(seed).normal(size=(batch, WIDTH))
    return {"h": jnp.asarray(h), "n": jnp.zeros(batch)}, jnp.arange(batch) % VOCABULARY


def plain_beam_search(model, state, first, beams, length, end, penalty):
    """One example: lists of (score, tokens before the end), the best first."""
    found = [(0.0, [], state, False)]
    for _ in range(length):
        complete = [h for h in found if h[3]]
        coming = []
        for score, tokens, state, ended in found:
            if ended:
                continue
            new, logits = model(state, tokens[-1] if tokens else first)
            log_p = logits - np.logaddexp.reduce(logits)
            for word in np.argsort(-logits, kind="stable").tolist():
                if log_p[word] > -math.inf:
                    coming.append((score + log_p[word], [*tokens, word], new, word == end))
        coming.sort(key=lambda h: -h[0])  # stable: of equals the first
        found = complete + coming[: beams - len(complete)]
    scored = [(score / len(tokens) ** penalty, tokens) for score, tokens, _, _ in found]
    scored.sort(key=lambda h: -h[0])
    return [(score, [t for t in tokens if t != end]) for score, tokens in scored]


def compare(result, expected):
    """The result of one example, (tokens, lengths, scores), with the list of a plain search."""
    tokens, lengths, scores = result
    for i, (score, words) in enumerate(expected):
        assert tokens[i, : lengths[i]].tolist() == words
        assert (tokens[i, lengths[i] :] == END).all()
        np.testing.assert_allclose(scores[i], score, rtol=1e-12)
    rest = slice(len(expected), None)
    assert (scores[rest] == -np.inf).all()
    assert (lengths[rest] == 0).all()
    assert (tokens[rest] == END).all()


@pytest.mark.slow
@pytest.mark.parametrize(("beams", "length", "penalty"), [(3, 7, 0.0), (8, 4, 0.6)])
def test_beam_search_equals_a_plain_one(x64, beams, length, penalty):
    for seed in range(3):
        carry, first = start(4, seed)
        options = {"beams": beams, "length": length, "penalty": penalty}
        result = jax.device_get(search(weights(seed), carry, first, **options))
        assert result[0].shape == (4, beams, length)
        for i in range(4):
            h = np.asarray(carry["h"][i])
            token = int(first[i])
            model = step_of(*weights(seed))
            expected = plain_beam_search(model, h, token, beams, length, END, penalty)
            compare([part[i] for part in result], expected)


@pytest.mark.slow
def test_beam_search_with_ties_and_impossible_tokens(x64):
    """Two of four tokens are possible after each, at log p = -log 2: every choice is a tie."""
    follow = np.array([[1, 3], [0, 2], [1, 3], [2, 3]])
    table = np.full((4, 4), -np.inf)
    table[np.arange(4)[:, None], follow] = 0

    def next_log_probs(s, token):
        return (s, table[token])

    model = stateless(lambda tokens: jnp.asarray(table)[tokens])
    for beams, length in [(3, 4), (9, 3)]:
        run = partial(beam_search, *model, beams=beams, length=length, end=END)
        result = jax.device_get(jax.jit(run)(jnp.array([[0], [1]])))
        for i in range(2):
            expected = plain_beam_search(next_log_probs, 0, i, beams, length, END, 1.0)
            assert any(len(words) < length for _, words in expected)
            compare([part[i] for part in result], expected)


def test_beams_beyond_the_vocabulary():
    model = stateless(lambda tokens: jnp.log(jnp.array([[0.2, 0.5, 0.3]] * len(tokens))))
    run = jax.jit(partial(beam_search, *model, beams=5, length=1, end=END))
    tokens, lengths, scores = jax.device_get(run(jnp.array([[0]])))
    assert tokens[0].tolist() == [[1], [2], [0], [2], [2]]
    assert lengths[0].tolist() == [1, 0, 1, 0, 0]
    np.testing.assert_allclose(np.exp(scores[0]), [0.5, 0.3, 0.2, 0, 0], rtol=1e-6)


@pytest.mark.slow
def test_beams_of_a_repeated_layer_and_of_inputs_are_those_of_whole_sequences(x64):
    """The log-probability of each beam is that of the net without a stream."""

    def forward(m, given):
        extra, tokens = given
        x = m(jn.embedding(VOCABULARY, 8), tokens)
        x = x + m.whole(jn.dense(8), extra)[:, None]
        block = jn.transformer_block(2, 9, causal=True)
        x = m(jn.repeat(block, 2), x)
        return m(jn.dense(VOCABULARY), x)

    net = jn.compose(forward)
    extra = jnp.eye(3)
    prompt = jnp.array([[4, 0, 1], [0, 1, 3], [3, 4, 0]])
    shapes, _ = jax.eval_shape(net.init, KEY, (extra, prompt))
    random = np.random.default_rng(5)
    params = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape)), shapes)
    axes = jn.transforms.batch_axes(jn.stream(net, 8), (extra, prompt))
    assert set(jax.tree.leaves(axes)) == {1}

    @jax.jit
    def run(params):
        options = {"length": 6, "end": END, "length_penalty": 0.0}
        return beam_search(net, params, prompt, beams=3, inputs=(extra,), **options)

    @jax.jit
    def log_p(params, tokens):
        so_far = jnp.concatenate([prompt, tokens[:, :-1]], 1)
        logits, _ = net.apply(params, {}, (extra, so_far))
        each = jax.nn.log_softmax(logits[:, 2:])
        chosen = jnp.take_along_axis(each, tokens[..., None], -1)
        return chosen[..., 0]

    tokens, lengths, scores = run(params)
    for k in range(3):
        steps = log_p(params, tokens[:, k])
        counted = jnp.arange(6) <= lengths[:, k, None]
        np.testing.assert_allclose(scores[:, k], (steps * counted).sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_loop_ends_with_the_last_sequence():
    calls = []

    def logits(tokens):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.log(0.001 + jax.nn.one_hot(tokens + 1, 5))

    run = jax.jit(partial(beam_search, *stateless(logits), beams=3, length=50, end=4))
    tokens, lengths, _ = jax.device_get(run(np.array([[1], [2]])))
    tokens = tokens[:, 0]
    lengths = lengths[:, 0]
    jax.effects_barrier()
    assert tokens[:, :3].tolist() == [[2, 3, 4], [3, 4, 4]]
    assert lengths.tolist() == [2, 1]
    assert (tokens[:, 3:] == 4).all()
    assert 3 <= len(calls) <= 10


@pytest.mark.slow
def test_logits_of_few_digits_are_summed_with_many():
    """log 1000 = 6.9078 in float32, 6.9062 in bfloat16."""

    def logits(tokens):
        return jnp.zeros((len(tokens), 1000), jnp.bfloat16)

    options = {"beams": 1, "length": 3, "end": END, "length_penalty": 0.0}
    _, _, scores = beam_search(*stateless(logits), jnp.array([[0]]), **options)
    np.testing.assert_allclose(scores, [[-3 * np.log(1000)]], rtol=1e-6)


@pytest.mark.slow
def test_no_sequences_at_all():
    model = stateless(lambda tokens: jnp.zeros((len(tokens), 3)))
    nothing = jnp.zeros((0, 1), jnp.int32)
    assert beam_search(*model, nothing, beams=2, length=4, end=1)[0].shape == (0, 2, 4)


def dies(carry, tokens):
    """The second sequence has logits of NaN from its second step on, the third none possible."""
    clock = carry["clock"]
    t, row = clock.T
    bad = jnp.where(row == 2, -jnp.inf, 0.0)
    bad = jnp.where((row == 1) & (t > 0), jnp.nan, bad)
    logits = jnp.array([0.0, 1.0, 5.0, 0.0]) + bad[:, None]
    return {"clock": clock.at[:, 0].add(1)}, logits


CLOCKS = {"clock": jnp.array([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])}  # step and row
DIES = as_net(dies), {}


@pytest.mark.fast_cases("2")
@pytest.mark.parametrize("beams", [1, 2, 6])
def test_beams_without_a_distribution_have_scores_of_nan(beams):
    run = jax.jit(partial(beam_search, *DIES, beams=beams, length=3, end=3))
    _, _, scores = jax.device_get(run(jnp.zeros((3, 1), int), state=CLOCKS))
    assert np.isnan(scores[1:]).all()
    assert not np.isnan(scores[0]).any()


@pytest.mark.fast_cases("nan", "-inf")
@pytest.mark.parametrize("row", [0.0, -np.inf, np.nan])
def test_an_empty_beam_stays_empty(row):
    """No sequence goes through padding, whatever the net says after it."""
    with np.errstate(divide="ignore"):
        table = np.log([[1.0] * 5, [0, 0, 0.6, 0.4, 0], [0, 0, 0, 0.5, 0.5], [0, 0, 0.3, 0, 0.7]])
    table = np.vstack([table, np.log(np.full(5, 0.2))]).astype(np.float32)
    table[0] = row

    def net(tokens):
        return jnp.asarray(table)[tokens]

    options = {"beams": 3, "length": 2, "end": 4, "length_penalty": 0}
    _, _, scores = jax.jit(partial(beam_search, net, {}, **options))(np.array([[1]]))
    np.testing.assert_allclose(np.exp(np.asarray(scores[0])), [0.3, 0.3, 0.28], 1e-5)


# Messages.

FINE = stateless(lambda tokens: jnp.zeros((len(tokens), 5)))
PROMPT = jnp.array([[0], [1]])
KEY = jax.random.key(0)
BEAMS = {"beams": 2, "length": 2, "end": 1}


def beaming(net=FINE[0], prompt=PROMPT, **options):
    return lambda: beam_search(net, {}, prompt, **BEAMS | options)


def gives(output):
    return beaming(lambda tokens: output)


@pytest.mark.parametrize(("call", "words"), [
    (beaming(length=0), "beam_search: length must be at least 1, got 0"),
    (beaming(prompt=3), "beam_search: prompt must be a JAX or NumPy array"),
    (beaming(prompt=PROMPT[0]), r"prompt must have shape \(batch, time\), got"),
    (beaming(prompt=PROMPT[:, :0]), "number of tokens of a prompt must be at least 1, got 0"),
    (beaming(prompt=PROMPT + 4), r"ids of the prompt must be in \[0, 5\), got 5"),
    (beaming(end=5), "end must be 0 to 4, the last id, got 5"),
    (beaming(as_net(lambda carry, tokens: (carry, carry["h"]))), "the net has a state"),
    (beaming(state={"a": KEY}), "does not fit the stream"),
    (beaming(inputs=jnp.ones(2)),
     r"beam_search: inputs must be a tuple, such as \(source, lengths\), got ArrayImpl"),
    (gives(jnp.ones((2, 1))), r"beam_search: the net must give logits \(.*, 1, vocabulary\), got"),
    (gives(jnp.ones((2, 1, 0))), r"logits \(2, 1, vocabulary\), got \(2, 1, 0\) float32"),
    (gives((jnp.ones((2, 1, 3)), PROMPT)), r"logits \(2, 1, vocabulary\), got"),
    (beaming(beams=0), "beam_search: beams must be at least 1, got 0"),
    (beaming(length_penalty=np.nan), "beam_search: length_penalty must be in .* got nan"),
    (beaming(length_penalty=-1), r"length_penalty must be in \[0, inf\), got -1"),
])  # fmt: skip
def test_messages(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()


P = np.random.default_rng(0).dirichlet(np.ones(5), 5).astype(np.float32)
ALLOWED = np.array(
    [
        [1, 1, 0, 0, 1],
        [1, 0, 1, 0, 1],
        [0, 1, 0, 1, 0],
        [1, 0, 1, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 1, 1, 1, 1],
    ],
    bool,
)


def every_sentence(first, length):
    """The log-probabilities of all sequences that the grammar allows, by their ids."""
    complete = {}
    growing = {(): 0.0}
    for t in range(length):
        longer = {}
        for ids, score in growing.items():
            q = P[ids[-1] if ids else first] * ALLOWED[ids[-1] if ids else -1]
            for token in np.flatnonzero(q).tolist():
                ends = token == 0 or t == length - 1
                found = complete if ends else longer
                found[*ids, token] = score + np.log(q[token] / q.sum())
        growing = longer
    return complete


@pytest.mark.slow
def test_logits_of_beams_are_changed_as_by_hand():
    """A grammar: after each token only some may follow, and 0 ends."""

    def net(tokens):
        return jnp.asarray(np.log(P))[tokens]

    def grammar(values, ids):
        return jnp.where(jnp.asarray(ALLOWED)[ids[-1]], values, -jnp.inf)

    options = {"beams": 200, "length": 3, "end": 0, "length_penalty": 0}
    run = jax.jit(partial(beam_search, net, {}, logits=grammar, **options))
    tokens, lengths, scores = jax.device_get(run(np.array([[1]])))
    found = {}
    for row, n, score in zip(tokens[0], lengths[0], scores[0], strict=True):
        if score > -np.inf:
            found[tuple(row[: n + 1].tolist())] = score
    expected = every_sentence(1, 3)
    assert found.keys() == expected.keys()
    assert len(found) > 10
    for ids, score in found.items():
        np.testing.assert_allclose(score, expected[ids], rtol=1e-4)


def test_logits_are_a_function():
    with pytest.raises(TypeError, match="beam_search: logits must be a function"):
        beaming(logits=3)()
