"""RNNsearch against the same in NumPy, sentence by sentence, and in a stream."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.decoding import beam_search
from jaxnet.models import rnnsearch
from tests import helpers, layer_values
from tests.helpers import close

SIZES = {"embedding_features": 4, "features": 5, "readout_features": 3}
KINDS = {"attention": {}, "no attention, no maxout": {"attention": False, "maxout": False}}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
SOURCE = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 0, 0], [7, 0, 0, 0, 0, 0]])
LENGTHS = np.array([6, 4, 1])
TARGET = np.array([[1, 4, 2, 8, 5], [1, 7, 3, 2, 0], [1, 6, 6, 6, 6]])
GIVEN = jax.tree.map(jnp.asarray, (SOURCE, LENGTHS, TARGET))


def drawn(**options):
    """The model with params of its own in float64, not near 0."""
    net = rnnsearch(10, 9, **SIZES, **options)
    specs, _ = jax.eval_shape(net.init, jax.random.key(0), GIVEN)
    rng = np.random.default_rng(0)

    def draw(spec):
        return jnp.asarray(0.7 * rng.normal(size=spec.shape))

    return net, jax.tree.map(draw, specs)


def test_the_papers_shapes():
    net = rnnsearch(30_000, 30_000)
    given = (jn.spec((2, 7), jnp.int32), jn.spec((2,), jnp.int32), jn.spec((2, 8), jnp.int32))
    params, state = jax.eval_shape(net.init, jax.random.key(0), given)
    n, m, k, l = 1000, 620, 30_000, 500  # noqa: E741  the paper's letters
    words = {"embedding": (k, m)}
    read = {
        "kernel": (m, 3 * n),
        "recurrent_kernel": (n, 3 * n),
        "bias": (3 * n,),
        "recurrent_bias": (n,),
    }
    encoder = {
        "embedding": words,
        "bidirectional": {"forward": read, "backward": read},
        "start": {"kernel": (n, n), "bias": (n,)},  # W_s
        "keys": {"kernel": (2 * n, n)},  # U_a
    }
    decoder = {
        "attention": {"query": {"kernel": (n, n)}, "score": {"kernel": (n, 1)}},  # W_a, v_a
        "gru": read | {"kernel": (m + 2 * n, 3 * n)},
    }
    readout = {
        "hidden": {"kernel": (n + m + 2 * n, 2 * l), "bias": (2 * l,)},  # U_o, V_o, C_o
        "output": {"kernel": (l, k), "bias": (k,)},  # W_o
    }
    assert state == {}
    assert helpers.shapes(params) == {
        "encoder": encoder,
        "target": {"embedding": words},
        "decoder": decoder,
        "readout": readout,
    }


def in_chunks(net, params, sizes):
    """The outputs of chunks of the target, joined."""
    stream = jn.stream(net, 5)
    outputs = []
    start = 0
    state = jn.start_stream(stream, GIVEN)
    source, lengths, target = GIVEN
    for size in sizes:
        chunk = target[:, start : start + size]
        y, state = stream.apply(params, state, (source, lengths, chunk))
        outputs.append(y)
        start += size
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, 1), *outputs)


@pytest.mark.slow
@kinds
def test_whole_and_chunks_have_the_values_of_numpy(kind):
    weighed = kind.get("attention", True)
    net, params = drawn(**kind, return_weights=weighed)

    @jax.jit
    def run(params):
        return net.apply(params, {}, GIVEN)[0], in_chunks(net, params, [3, 2])

    wide = jax.tree.map(partial(np.asarray, dtype=float), params)
    given = SOURCE, LENGTHS, TARGET
    wanted = layer_values.rnnsearch(wide, *given, attends=weighed, maxout=weighed)
    for found in run(params):
        close(found if weighed else (found, None), wanted, 1e-4, 1e-5)


@pytest.mark.slow
def test_every_example_has_its_own_number_of_steps():
    net, params = drawn()
    whole, _ = jax.jit(net.apply)(params, {}, GIVEN)
    stream = jn.stream(net, ragged=True)
    state = jn.start_stream(stream, (GIVEN, jnp.zeros(3, int)))
    apply = jax.jit(stream.apply)
    done = np.zeros(3, int)
    for steps in ([0, 2, 1], [2, 0, 2], [2, 2, 1]):
        rows = np.minimum(done[:, None] + np.arange(2), 4)
        chunk = jnp.take_along_axis(GIVEN[2], rows, 1)
        y, state = apply(params, state, ((*GIVEN[:2], chunk), jnp.array(steps)))
        for i, n in enumerate(steps):
            np.testing.assert_allclose(y[i, :n], whole[i, done[i] : done[i] + n], 1e-5, 1e-5)
            done[i] += n


def search_loops(net, params, *, end):
    """The loops of the compiled program of a search by three beams."""
    first = jnp.ones((3, 1), jnp.int32)
    inputs = GIVEN[:2]

    def run(params, inputs):
        return beam_search(net, params, first, beams=3, inputs=inputs, length=6, end=end)

    return sorted(helpers.loops(helpers.compiled(run, params, inputs).as_text()))


@pytest.mark.slow
def test_a_search_reads_the_source_before_its_loop():
    """The two directions of the encoder are loops of their own; that of the search has neither."""
    *encoder, search = search_loops(*drawn(), end=2)
    assert [loop.products for loop in encoder] == [1, 1]
    assert search.products == 7
    assert not search.loops
    assert "/encoder/" not in search.text


def with_gradient(net):
    """The logits and the gradient of their squares, by params and source."""

    @jax.jit
    def run(params, source, lengths=GIVEN[1]):
        def loss(params):
            logits, _ = net.apply(params, {}, (source, lengths, GIVEN[2]))
            return jnp.square(logits).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    return run


@pytest.mark.slow
@kinds
def test_padding_changes_nothing(x64, kind):
    net, params = drawn(**kind)
    source = GIVEN[0]
    longer = jnp.concatenate([source, jnp.array([[8, 1], [2, 9], [9, 9]])], 1)
    longer = longer.at[1, 4:].set(7)
    run = with_gradient(net)
    close(run(params, source), run(params, longer), 1e-11)


@pytest.mark.slow
@kinds
def test_an_empty_sentence_has_a_result(kind):
    net, params = drawn(**kind)
    run = with_gradient(net)
    lengths = jnp.array([6, 0, 1])
    found = run(params, GIVEN[0], lengths)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    other = run(params, GIVEN[0].at[1].set(4), lengths)  # of which nothing is read
    close(found, other, 1e-5, 1e-6)


@pytest.mark.long
def test_dropout_is_of_words_annotations_and_readout():
    net, params = drawn(dropout_rate=0.5)
    paths = []

    @partial(jax.jit, static_argnames="train")
    def run(params, key, train):
        """What enters and leaves each dropout."""
        seen = []

        def see(path, layer, x, y):
            if path[-1:] == ("dropout",):
                paths.append("/".join(path))
                seen.append((x, y))
            return y

        jn.observe(net, see).apply(params, {}, GIVEN, key=key, train=train)
        return seen

    found = run(params, jax.random.key(1), train=True)
    assert paths == [f"{part}/dropout" for part in ("encoder", "encoder", "target", "readout")]
    assert [x.shape for x, _ in found] == [(3, 6, 4), (3, 6, 10), (3, 5, 4), (3, 5, 3)]
    for x, y in found:
        kept = np.asarray(y != 0)
        assert 0.2 < kept.mean() < 0.8
        np.testing.assert_allclose(y[kept], 2 * x[kept], rtol=1e-6)
    found = run(params, None, train=False)
    assert len(found) == 4
    assert all((x == y).all() for x, y in found)


def test_messages():
    net = rnnsearch(10, 9, **SIZES, attention=False, return_weights=True)
    with pytest.raises(ValueError, match="return_weights=True needs attention=True"):
        net.init(jax.random.key(0), GIVEN)
    with pytest.raises(ValueError, match="expected .source, lengths, target."):
        net.init(jax.random.key(0), GIVEN[:2])
