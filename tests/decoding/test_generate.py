"""Generation against the whole net applied to each sequence again and again."""

import itertools
import sys
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.decoding import beam_search, filter_logits, generate, iterate
from jaxnet.services.trees import memo_of
from tests.helpers import KEY, close, jit_init

KEYS_MAY_REPEAT = True  # equal draws are compared
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]


def alibi(positions):
    queries, keys = positions
    distance = keys[..., None, None, :] - queries[..., None, :, None]
    return jnp.array([0.5, 0.25])[:, None, None] * distance


block = partial(jn.transformer_block, 2, causal=True, rotary=True)


def language(*layers):
    return jn.serial(jn.embedding(13, 8), *layers, jn.dense(13))


NETS = {
    "block": lambda: language(block()),
    "window and gru": lambda: language(block(window=(3, 0)), jn.gru(8)),
    "repeat": lambda: language(jn.repeat(block(), 2)),
    "bias": lambda: jn.models.decoder(13, depth=2, width=8, heads=2, rotary=False, window=4,
                                      windowed=(True, False), bias=alibi),  # as MPT and BLOOM
    "norm": lambda: language(jn.batch_norm(), jn.lstm(8)),
}  # fmt: skip


def draw(make=NETS["block"], seed=0):
    """A net whose logits are far apart; each test gets the same one, and its programs with it."""
    return drawn(make, seed, jnp.result_type(float))


@cache
def drawn(make, seed, dtype):
    net = make()
    params, state = jit_init(net, jax.random.key(seed), jn.spec((1, 4), jnp.int32))
    return net, jax.tree.map(lambda leaf: 2 * jax.device_get(leaf), params), state


@pytest.fixture(scope="module")
def float32_net():
    """A net of float32 and its params."""
    return draw()[:2]


def one_by_one(net, params, state, prompt, length, choose):
    """The tokens of one prompt by the whole net."""
    ids = list(prompt)
    log_probs = []
    apply = jax.jit(lambda x: net.apply(params, state, x)[0])
    for t in range(length):
        padded = np.zeros((1, len(prompt) + length), int)  # later places reach nothing
        padded[0, : len(ids)] = ids
        z = np.asarray(apply(padded))[0, len(ids) - 1]
        token = int(choose(t, z, ids))
        log_probs.append(z[token] - np.logaddexp.reduce(z))
        ids.append(token)
    return ids[len(prompt) :], log_probs


@pytest.mark.slow
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_greedy_is_the_whole_net_again_and_again(x64, make):
    net, params, state = draw(make)
    state = jax.tree.map(lambda leaf: jax.device_get(leaf) + 0.5, state)
    made = generate(net, params, PROMPTS, length=7, temperature=0, state=state)
    for prompt, row, log_probs in zip(PROMPTS, made.tokens, made.log_probs, strict=True):
        found = one_by_one(net, params, state, prompt, 7, lambda t, z, ids: z.argmax())
        assert row.tolist() == found[0]
        np.testing.assert_allclose(log_probs, found[1], rtol=1e-5, atol=1e-5)
    assert made.lengths.tolist() == [7] * 3
    jax.tree.map(np.asarray, state)  # is still there


@pytest.mark.slow
def test_draws_are_those_of_the_filtered_logits_by_row_and_position(x64):
    net, params, _ = draw()
    options = {"temperature": 0.8, "top_k": 6, "top_p": 0.9, "min_p": 0.01}
    made = generate(net, params, PROMPTS, KEY, length=6, repetition_penalty=1.3, **options)

    @jax.jit
    def choose(row, t, z, seen):
        z = filter_logits(z, repetition_penalty=1.3, seen=seen, **options)
        key = jax.random.fold_in(KEY, row)
        key = jax.random.fold_in(key, t)
        key = jax.random.fold_in(key, 0)
        return jax.random.categorical(key, z)

    for i, prompt in enumerate(PROMPTS):

        def seen(t, z, ids, i=i):
            return choose(i, t, z, np.isin(np.arange(13), ids))

        found, _ = one_by_one(net, params, {}, prompt, 6, seen)
        assert made.tokens[i].tolist() == found


@pytest.mark.slow
def test_a_row_does_not_depend_on_its_batch(float32_net):
    def tokens(prompts, key):
        return generate(*float32_net, prompts, key, length=9).tokens

    keys = jax.random.split(KEY, 3)
    alone = tokens(PROMPTS[1:2], keys[1:2])
    assert tokens(PROMPTS, keys)[1].tolist() == alone[0].tolist()
    one = tokens(PROMPTS, KEY)
    np.testing.assert_array_equal(one[:2], tokens(PROMPTS[:2], KEY))
    for same in KEY, jax.random.PRNGKey(0):
        np.testing.assert_array_equal(one, tokens(PROMPTS, same))
    assert (one != tokens(PROMPTS, jax.random.key(1))).any()


@pytest.mark.slow
@pytest.mark.parametrize("draft", [False, True])
def test_stops_cut_a_row(float32_net, draft):
    drafted = {"draft": draw(seed=3)[:2]} if draft else {}
    free = generate(*float32_net, PROMPTS, KEY, length=20, **drafted)
    row = free.tokens[0].tolist()
    end = row[4]
    pair = row[7:9]
    stops = [end, [int(t) for t in free.tokens[1, 5:8]], pair]
    made = generate(*float32_net, PROMPTS, KEY, length=20, stop=stops, **drafted)
    for i in range(3):
        whole = free.tokens[i].tolist()
        ends = []
        for stop in stops:
            ids = [stop] if isinstance(stop, int) else stop
            for n in range(20):
                if whole[n : n + len(ids)] == ids:
                    ends.append((n + len(ids), n))
        done, before = min(ends, default=(20, 20))
        assert made.lengths[i] == before
        assert made.lists()[i] == whole[:before]
        assert made.tokens[i].tolist() == whole[:done] + [0] * (20 - done)
        assert not made.log_probs[i, done:].any()
    assert made.lengths[0] <= 4


@pytest.mark.slow
def test_a_loop_ends_when_all_rows_have_stopped(float32_net):
    made = generate(*float32_net, PROMPTS, length=20, temperature=0)
    stops = [int(t) for t in made.tokens[:, 0]]
    assert len(list(iterate(*float32_net, PROMPTS, length=20, temperature=0, stop=stops))) == 1
    stopped = generate(*float32_net, PROMPTS, length=20, temperature=0, stop=stops)
    assert stopped.lengths.tolist() == [0, 0, 0]
    assert stopped.lists() == [[], [], []]


@pytest.mark.fast_cases("False")
@pytest.mark.parametrize("draft", [False, True])
def test_the_iterator_gives_the_same_tokens(float32_net, draft):
    options = {"draft": draw(seed=3)[:2]} if draft else {}
    made = generate(*float32_net, PROMPTS, KEY, length=6, **options)
    found = list(iterate(*float32_net, PROMPTS, KEY, length=6, **options))
    np.testing.assert_array_equal(np.stack(found, 1), made.tokens)


def test_there_is_room_for_all_tokens():
    net = jn.stateless(lambda key, x: {}, lambda params, x: jax.nn.one_hot((x + 1) % 7, 7), "next")
    made = generate(net, {}, [[3] * 40], temperature=0, length=100)
    assert made.tokens[0].tolist() == [(4 + i) % 7 for i in range(100)]


@pytest.mark.slow
def test_one_program_for_many_lengths_of_prompts_and_results():
    float32_net = NETS["block"](), draw()[1]  # without the programs of other tests
    generate(*float32_net, [[1, 2, 3]], KEY, length=3)
    programs = memo_of(float32_net[0].apply)._entries

    def size():
        return [p._cache_size() for p in programs.values() if hasattr(p, "_cache_size")]

    before = size()
    for prompt, length, temperature in [([1] * 16, 40, 0.5), ([4], 1, 2.0), ([5] * 9, 30, 1.0)]:
        generate(*float32_net, [prompt], KEY, length=length, temperature=temperature)
        list(iterate(*float32_net, np.array([prompt]), KEY, length=min(length, 3)))
    assert size() == before
    assert len(before) == 2


@pytest.mark.slow
@pytest.mark.parametrize("copies", [1, 6])
def test_no_cache_is_copied_for_a_token(float32_net, monkeypatch, copies):
    """Repeated blocks copy the caches of one block at a time, and not the stack of all."""
    module = sys.modules[generate.__module__]
    programs = []
    make = module.program_of
    if copies > 1:
        float32_net = draw(lambda: language(jn.repeat(block(), copies)))[:2]

    def compiled(function, *setup, **options):
        program = make(function, *setup, **options)

        def run(*given):
            if function is module.advance_until:
                programs.append(program.lower(*given).compile())
            return program(*given)

        return run

    monkeypatch.setattr(module, "program_of", compiled)
    generate(*float32_net, PROMPTS, length=900, temperature=0, stop=list(range(13)))
    memory = programs[0].memory_analysis()
    cache = 3 * 2 * 1024 * 4 * 4  # rows, heads, steps, size, bytes
    assert memory.alias_size_in_bytes > 2 * cache * copies  # keys and values of the caller's run
    assert memory.temp_size_in_bytes < (2 if copies == 1 else 3) * cache


@pytest.mark.slow
@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_greedy_with_a_draft_gives_the_same_tokens(x64, make):
    net, params, state = draw(make)
    for seed in (0, 5):  # the net itself, and another one
        draft = (net, draw(make, seed)[1], state)
        without_draft = generate(net, params, PROMPTS, length=11, temperature=0, state=state)
        options = {"state": state, "draft": draft, "draft_length": 3}
        made = generate(net, params, PROMPTS, length=11, temperature=0, **options)
        np.testing.assert_array_equal(made.tokens, without_draft.tokens)
        np.testing.assert_allclose(made.log_probs, without_draft.log_probs, rtol=1e-5, atol=1e-5)
        penalty = {"repetition_penalty": 1.5, "temperature": 0, "length": 11}
        without_draft = generate(net, params, PROMPTS, state=state, **penalty)
        made = generate(net, params, PROMPTS, **options, **penalty)
        np.testing.assert_array_equal(made.tokens, without_draft.tokens)


@pytest.mark.slow
def test_draws_with_a_draft_have_the_distribution_of_the_net():
    def make():
        return jn.serial(jn.embedding(3, 4), jn.gru(4), jn.dense(3))

    net, params, _ = draw(make)
    draft = net, draw(make, 7)[1]
    prompt = [1, 2]
    rows = 4000
    length = 3
    options = {"temperature": 0.9, "min_p": 0.02, "repetition_penalty": 1.2}
    drafted = {"draft": draft, "draft_length": 2}
    made = generate(net, params, [prompt] * rows, KEY, length=length, **drafted, **options)
    every = np.array(list(itertools.product(range(3), repeat=length)))
    n = len(every)
    whole = np.concatenate([np.tile(prompt, (n, 1)), every], 1)
    logits, _ = net.apply(params, {}, whole)
    p = np.ones(n)
    for t in range(length):
        seen = np.stack([np.isin(np.arange(3), row[: 2 + t]) for row in whole])
        z = filter_logits(logits[:, 1 + t], seen=jnp.asarray(seen), **options)
        each = np.asarray(jax.nn.softmax(z))
        p *= each[np.arange(n), every[:, t]]
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    powers = 3 ** np.arange(length)[::-1]
    found = np.bincount(made.tokens @ powers, minlength=n)
    assert not found[p == 0].any()
    some = p > 0
    expected = rows * p
    chi = (found - expected)[some] ** 2 / expected[some]
    assert chi.sum() < 27 + 4 * np.sqrt(2 * 27)
    drafted, _ = net.apply(draft[1], {}, whole)
    away = jax.nn.softmax(drafted[0, 1]) - jax.nn.softmax(logits[0, 1])
    assert np.abs(away).max() > 0.1  # the draft is another distribution


def test_the_first_of_equals_is_taken():
    def net(tokens):
        return jnp.tile(jnp.array([0.0, 7.0, 7.0]), (*tokens.shape, 1))

    made = generate(net, {}, [[2]], length=3, temperature=0)
    assert made.tokens.tolist() == [[1, 1, 1]]
    assert made.lengths.tolist() == [3]


@pytest.mark.slow
def test_a_net_with_few_positions_is_used_to_its_end(x64):
    net, params, _ = draw(lambda: language(jn.learned_positions(12), block(window=(3, 0))))
    made = generate(net, params, PROMPTS, length=8, temperature=0)
    for prompt, row in zip(PROMPTS, made.tokens, strict=True):
        found = one_by_one(net, params, {}, prompt, 7, lambda t, z, ids: z.argmax())
        assert row[:7].tolist() == found[0]
    with pytest.raises(ValueError, match="has 12 positions, got a sequence of length 13"):
        generate(net, params, PROMPTS, length=9, temperature=0)


@pytest.mark.slow
def test_kept_keys_may_be_narrow(float32_net):
    made = generate(*float32_net, PROMPTS, length=4, temperature=0, dtype=jnp.bfloat16)
    assert made.tokens.shape == (3, 4)


@pytest.mark.slow
def test_nan_raises(float32_net):
    net, params = float32_net
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    with pytest.raises(ValueError, match="generate: the logits of row 0 are NaN"):
        generate(net, broken, [[1]], length=3, temperature=0)
    with pytest.raises(ValueError, match="iterate: the logits of row 0 are NaN"):
        list(iterate(net, broken, [[1]], length=3, temperature=0))


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_broken_draft_is_not_believed(value):
    def even(tokens):
        return np.zeros((*tokens.shape, 5), np.float32)

    def broken(tokens):
        return np.full((*tokens.shape, 5), value, np.float32)

    made = generate(even, {}, [[1]] * 500, KEY, length=4, draft=(broken, {}), progress=False)
    counts = [np.bincount(made.tokens[:, t], minlength=5) for t in range(4)]
    assert np.min(counts) > 60
    assert np.max(counts) < 140  # 100 each


@pytest.mark.slow
def test_ids_in_an_array_each_stop(float32_net):
    table = 9 * np.eye(10, dtype=np.float32)[(np.arange(10) + 1) % 10]  # counts

    def net(tokens):
        return jnp.asarray(table)[tokens]

    small = [np.array([3], np.uint8), np.array((9, 9), np.uint16)]
    for stop in ([3, 9], np.array([3, 9]), jnp.array([3, 9]), range(3, 6), small):
        with jax.numpy_rank_promotion("raise"):
            made = generate(net, {}, [[0]], length=5, temperature=0, stop=stop, progress=False)
        assert made.lengths.tolist() == [2]


def test_a_traced_temperature_may_be_0():
    table = jnp.array([[-3.0, -1.0, -2.0], [1.0, 2.0, 5.0], [0.0, -1.0, 0.5]])

    @jax.jit
    def tokens(temperature):
        def net(tokens):
            return table[tokens]

        prompt = jnp.array([[0]])
        options = {"length": 3, "temperature": temperature}
        return generate(net, {}, prompt, jax.random.key(0), **options).tokens

    assert tokens(0.0).tolist() == [[1, 2, 2]]


ON_MESH = """
import jax, numpy as np, jaxnet as jn
from jax.sharding import PartitionSpec as P

block = jn.transformer_block(4, 16, causal=True, rotary=True)
net = jn.serial(jn.embedding(13, 8), jn.repeat(block, 2), jn.dense(13))
params, _ = net.init(jax.random.key(0), jn.spec((1, 4), int))
params = jax.tree.map(lambda leaf: 2 * leaf, params)
for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
    mesh = jax.make_mesh((4,), ("model",), (kind,))
    rules = {"*/attention/(query|key|value)/kernel": P(None, None, "model"),
             "*/attention/out/kernel": P(None, "model")}
    here = jn.distributed.put(params, mesh, rules)
    alone, shared = (
        jn.decoding.generate(net, given, [[1, 2, 3], [4]], jax.random.key(1), length=9,
                             draft=(net, given), draft_length=2, repetition_penalty=1.2)
        for given in (params, here)
    )
    np.testing.assert_array_equal(alone.tokens, shared.tokens)
    np.testing.assert_allclose(alone.log_probs, shared.log_probs, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.long
def test_params_on_a_mesh(on_devices):
    """Each device has one head; `jax.make_mesh` makes Explicit axes by default."""
    on_devices(ON_MESH, 4)


@pytest.mark.parametrize(("prompt", "options", "error", "words"), [
    ([[1], []], {}, ValueError, "prompt 1 is empty"),
    ([], {}, ValueError, "at least one prompt"),
    ([[1, 13]], {}, ValueError, r"ids of the prompt must be in \[0, 13\), got 13"),
    ([[0.5]], {}, TypeError, "prompt 0 must hold integers"),
    (np.ones((1, 2)), {}, TypeError, "prompt must hold integers"),
    ([1, 2], {}, ValueError, r"prompt must have shape \(batch, time\)"),
    ("text", {}, TypeError, "encode it first"),
    ([[1]], {"temperature": 1.0}, TypeError, "needs a key"),
    ([[1]], {"temperature": -1.0}, ValueError, "temperature must be in"),
    ([[1]], {"stop": 13}, ValueError, r"ids of stop must be in \[0, 13\), got 13"),
    ([[1]], {"stop": [[]]}, ValueError, r"stop must have shape \(n,\) .* at least 1"),
    ([[1]], {"top_k": 14}, ValueError, "top_k must be 1 to 13"),
    ([[1]], {"draft": jn.dense(3)}, TypeError, "draft must be"),
    ([[1]], {"key": jax.random.split(KEY), "temperature": 1.0}, ValueError,
     r"have shape \(\) or \(1,\), got \(2,\)"),
    ([[1]], {"key": 0, "temperature": 1.0}, TypeError, "expected a single key"),
    ([[1]], {"logits": 3}, TypeError, "generate: logits must be a function of"),
    ([[1]], {"logits": lambda values, ids: values[:5]}, ValueError,
     r"return values of shape \(vocabulary,\) = \(13,\)"),
    ([[1]], {"logits": lambda values, ids: values - jnp.inf}, ValueError,
     "the logits of row 0 are NaN, or -inf throughout"),
    ([[1]], {"stop": "a"}, TypeError, "generate: stop must hold ids of tokens, got text"),
    ([[1]], {"stop": [["a"]]}, TypeError, "generate: stop must hold ids of tokens, got text"),
])  # fmt: skip
def test_refusals(float32_net, prompt, options, error, words):
    options = {"length": 3, "temperature": 0} | options
    with pytest.raises(error, match=words):
        generate(*float32_net, prompt, **options)


def test_an_unknown_option_of_the_iterator(float32_net):
    with pytest.raises(TypeError, match="iterate: unknown option tempo; known: length, state"):
        iterate(*float32_net, [[1]], KEY, tempo=1)


@pytest.mark.parametrize(("net", "words"), [
    (jn.serial(jn.embedding(5, 8), jn.transformer_block(2), jn.dense(5)), "transformer_block/att"),
    (jn.serial(jn.embedding(5, 8), jn.gru(5), lambda x: x[:, -1]), "must map tokens"),
    (jn.serial(jn.embedding(5, 8), jn.batch_norm(), jn.dense(5)), "the net has a state"),
])  # fmt: skip
def test_nets_that_do_not_fit(net, words):
    with pytest.raises((ValueError, TypeError), match=words):
        params, _ = net.init(KEY, jn.spec((1, 4), jnp.int32))
        generate(net, params, [[1]], length=2, temperature=0)


def test_a_draft_of_another_vocabulary(float32_net):
    net = jn.serial(jn.embedding(5, 8), jn.gru(8), jn.dense(5))
    params, _ = net.init(KEY, jn.spec((1, 4), jnp.int32))
    with pytest.raises(ValueError, match="one vocabulary, got 13 and 5"):
        generate(*float32_net, [[1]], length=2, temperature=0, draft=(net, params))


def rules(values, ids):
    """Forbid 5, and the last token again."""
    return values.at[5].set(-jnp.inf).at[ids[-1]].add(jnp.where(ids[-1] < 0, 0, -jnp.inf))


@pytest.mark.slow
@pytest.mark.parametrize("draft", [False, pytest.param(True, marks=pytest.mark.long)])
def test_logits_are_changed_as_by_hand(float32_net, x64, draft):
    net, params, _ = draw()
    options = {"draft": draw(seed=3)[:2], "draft_length": 3} if draft else {}

    def choose(made, t, z, ids):
        allowed = ~np.isin(np.arange(13), [5, *made[-1:]])
        made.append(int(np.where(allowed, z, -np.inf).argmax()))
        return made[-1]

    made = generate(net, params, PROMPTS, length=9, temperature=0, logits=rules, **options)
    free, _ = one_by_one(net, params, {}, PROMPTS[0], 9, lambda t, z, ids: z.argmax())
    assert made.tokens[0].tolist() != free
    for prompt, row, log_probs in zip(PROMPTS, made.tokens, made.log_probs, strict=True):
        found = one_by_one(net, params, {}, prompt, 9, partial(choose, []))
        assert row.tolist() == found[0]
        np.testing.assert_allclose(log_probs, found[1], rtol=1e-5, atol=1e-5)
    steps = iterate(net, params, PROMPTS, KEY, length=30, logits=rules, **options)
    free = np.array([*steps])
    assert 5 not in free
    assert not (np.diff(free, axis=0) == 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("draft", [False, pytest.param(True, marks=pytest.mark.long)])
def test_inside_jit(float32_net, draft):
    """Everything may be traced: params, prompts, keys and numbers."""
    net, params = float32_net
    other = draw(seed=3)[1]
    prompts = np.array([[3, 1, 4], [1, 5, 9]])

    def run(params, prompts, key, temperature):
        options = {"draft": (net, other), "draft_length": 2} if draft else {}
        options |= {"length": 6, "temperature": temperature, "stop": 7}
        return generate(net, params, prompts, key, **options)

    alone, inside = (f(params, prompts, KEY, 0.8) for f in (run, jax.jit(run)))
    close(alone[:2], inside[:2], 0)
    close(alone.log_probs, inside.log_probs, 1e-5)
    with pytest.raises(TypeError, match="iterate: is called inside jit"):
        jax.jit(lambda params: iterate(net, params, [[1]], KEY))(params)


@pytest.mark.slow
def test_inside_jit_of_constants_and_lists(float32_net):
    constant = jax.jit(lambda: generate(*float32_net, PROMPTS, length=4, temperature=0).tokens)()
    lists = jax.jit(lambda rows: generate(*float32_net, rows, length=4, temperature=0).tokens)
    np.testing.assert_array_equal(constant, lists([np.array(row) for row in PROMPTS]))
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, float32_net[1])
    run = jax.jit(lambda params: generate(float32_net[0], params, [[1]], length=3, temperature=0))
    assert run(broken).tokens.tolist() == [[-1, 0, 0]]


@pytest.mark.slow
def test_inside_vmap(float32_net):
    """Each net of an ensemble writes what it writes alone."""
    net, params = float32_net
    several = [params, draw(seed=3)[1]]
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), *several)

    def run(params, key):
        return generate(net, params, PROMPTS, key, length=5)

    keys = jax.random.split(KEY)
    together = jax.vmap(run)(stack, keys)
    for i in range(2):
        alone = run(several[i], keys[i])
        np.testing.assert_array_equal(together.tokens[i], alone.tokens)


@pytest.mark.slow
def test_the_bar_counts_tokens(float32_net, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    generate(*float32_net, PROMPTS, length=20, temperature=0)
    assert "token/s" in capsys.readouterr().err


@pytest.mark.parametrize("draft", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_inputs_before_the_tokens_are_the_same_at_each_step(x64, draft):
    def forward(m, given):
        extra, tokens = given
        x = m(jn.embedding(13, 8), tokens) + m.whole(jn.dense(8), extra)[:, None]
        return m(jn.dense(13), m(jn.transformer_block(2, 9, causal=True), x))

    net = jn.compose(forward)
    extra = np.eye(3)
    params, _ = jit_init(net, KEY, (extra, np.ones((3, 1), int)))
    params = jax.tree.map(lambda leaf: 2 * jax.device_get(leaf), params)
    options = {"length": 6, "temperature": 0, "inputs": (extra,)}
    if draft:
        options["draft"] = net, jax.tree.map(lambda leaf: -leaf, params)
    made = generate(net, params, PROMPTS, **options)
    for i, prompt in enumerate(PROMPTS):
        row = jn.compose(lambda m, x, i=i: m._inline(net, (extra[i : i + 1], x)))
        found = one_by_one(row, params, {}, prompt, 6, lambda t, z, ids: z.argmax())
        assert made.tokens[i].tolist() == found[0]
    steps = [*iterate(net, params, PROMPTS, **options)]
    np.testing.assert_array_equal(np.stack(steps, 1), made.tokens)
    options["inputs"] = (extra[::-1],)
    other = generate(net, params, PROMPTS, **options)
    assert (made.tokens != other.tokens).any()


@pytest.mark.parametrize("draft", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_encoder_runs_once_per_text(float32_net, draft):
    runs = []

    def encoder(x):
        def read(x):
            runs.append(x)
            return x

        return jax.pure_callback(read, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def forward(m, given):
        extra, tokens = given
        return m._inline(float32_net[0], tokens) + m.whole(encoder, extra)[:, None]

    options = {"inputs": (np.eye(3, 13),), "temperature": 0}
    if draft:
        options["draft"] = jn.compose(forward), float32_net[1]
    counts = []
    for length in (1, 40):
        found = list(
            iterate(jn.compose(forward), float32_net[1], PROMPTS, length=length, **options)
        )
        assert len(found) == length
        counts.append(len(runs))
        runs.clear()
    assert counts[0] == counts[1] <= (6 if draft else 2)


@pytest.mark.parametrize(("inputs", "error", "words"), [
    ((np.eye(2),), ValueError, r"inputs must have a row per prompt, \(3, ...\)"),
    (np.eye(3), TypeError, r"inputs must be a tuple, such as \(source, lengths\), got ndarray"),
])  # fmt: skip
def test_inputs_that_do_not_fit(inputs, error, words):
    def net(given):
        return jax.nn.one_hot(given[1], 13) + given[0].sum()

    with pytest.raises(error, match=words):
        generate(net, {}, PROMPTS, temperature=0, inputs=inputs)
    with pytest.raises(error, match=words):
        beam_search(net, {}, np.ones((3, 1), int), beams=2, length=2, end=0, inputs=inputs)
