"""RNNsearch against the same in PyTorch, sentence by sentence, and step by step."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.decoding import beam_search, greedy
from jaxnet.models import rnnsearch, rnnsearch_steps
from jaxnet.models.rnnsearch import _parts
from tests import layer_values

SIZES = {"embedding_features": 4, "features": 5, "readout_features": 3}
KINDS = {
    "attention": {},
    "no attention, no maxout": {"attention": False, "maxout": False},
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
SOURCE = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 0, 0], [7, 0, 0, 0, 0, 0]])
LENGTHS = np.array([6, 4, 1])
TARGET = np.array([[1, 4, 2, 8, 5], [1, 7, 3, 2, 0], [1, 6, 6, 6, 6]])
GIVEN = jax.tree.map(jnp.asarray, (SOURCE, LENGTHS, TARGET))


def drawn(**options):
    """The model with params of its own in float64, not near 0."""
    net = rnnsearch(10, 9, **SIZES, **options)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), GIVEN)
    random = np.random.default_rng(0)
    return net, jax.tree.map(lambda p: jnp.asarray(0.7 * random.normal(size=p.shape)), params)


def test_model_and_steps_have_the_same_defaults():
    public, shared = (
        {name: p.default for name, p in inspect.signature(f).parameters.items()}
        for f in (rnnsearch, _parts)
    )
    names = "embedding_features", "features", "readout_features", "maxout"
    wanted = dict(zip(names, (620, 1000, 500, True), strict=True))
    assert {name: public[name] for name in names} == wanted
    assert {name: shared[name] for name in names} == wanted
    assert public["attention"] is shared["attention"] is True
    assert public["dropout_rate"] == shared["dropout_rate"] == 0


@pytest.mark.slow
def test_the_papers_shapes():
    net = rnnsearch(30_000, 30_000)
    given = (jn.spec((2, 7), jnp.int32), jn.spec((2,), jnp.int32), jn.spec((2, 8), jnp.int32))
    params, state = jax.eval_shape(net.init, jax.random.key(0), given)
    n, m, k, l = 1000, 620, 30_000, 500  # noqa: E741  the paper's letters
    read = {"kernel": (m, 3 * n), "recurrent_kernel": (n, 3 * n)} | {
        "bias": (3 * n,), "recurrent_bias": (n,)
    }  # fmt: skip
    assert state == {} and jax.tree.map(jnp.shape, params) == {
        "encoder": {
            "embedding": {"embedding": (k, m)},
            "bidirectional": {"forward": read, "backward": read},
            "start": {"kernel": (n, n), "bias": (n,)},  # W_s
            "keys": {"kernel": (2 * n, n)},  # U_a
        },
        "target": {"embedding": {"embedding": (k, m)}},
        "decoder": {
            "attention": {"query": {"kernel": (n, n)}, "score": {"kernel": (n, 1)}},  # W_a, v_a
            "gru": read | {"kernel": (m + 2 * n, 3 * n)},
        },
        "readout": {
            "hidden": {"kernel": (n + m + 2 * n, 2 * l), "bias": (2 * l,)},  # U_o, V_o, C_o
            "output": {"kernel": (l, k), "bias": (k,)},  # W_o
        },
    }


@pytest.mark.slow
def test_steps_have_the_sizes_of_the_model_by_default():
    params, _ = jax.eval_shape(rnnsearch(10, 9).init, jax.random.key(0), GIVEN)
    start, step = rnnsearch_steps(10, 9)
    carry = jax.eval_shape(start, params, *GIVEN[:2])
    assert jax.eval_shape(step, params, carry, GIVEN[2][:, 0])[1].shape == (3, 9)


@pytest.mark.slow
@kinds
def test_is_the_same_in_pytorch(x64, kind):  # torch 2.13.0
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    net, params = drawn(**kind)
    theirs = jax.tree.map(lambda p: torch.tensor(np.asarray(p), requires_grad=True), params)

    def gru_step(p, h, x):
        n = h.shape[-1]
        bias = torch.cat([torch.zeros(2 * n, dtype=h.dtype), p["recurrent_bias"]])
        kernels = p["kernel"].T, p["recurrent_kernel"].T
        return torch.gru_cell(x[None], h[None], *kernels, p["bias"], bias)[0]

    def translate(source, target):
        """Logits (time, vocabulary) of one sentence without padding."""
        p = theirs["encoder"]
        x = p["embedding"]["embedding"][source]
        zero = torch.zeros(5, dtype=x.dtype)
        ahead, back, h = [], [], zero
        for x_t in x:
            h = gru_step(p["bidirectional"]["forward"], h, x_t)
            ahead.append(h)
        h = zero
        for x_t in x.flip(0):
            h = gru_step(p["bidirectional"]["backward"], h, x_t)
            back.insert(0, h)
        memory = torch.cat([torch.stack(ahead), torch.stack(back)], 1)
        s = torch.tanh(back[0] @ p["start"]["kernel"] + p["start"]["bias"])
        logits = []
        for y in theirs["target"]["embedding"]["embedding"][target]:
            p = theirs["decoder"]
            if kind.get("attention", True):
                keys, a = memory @ theirs["encoder"]["keys"]["kernel"], p["attention"]
                hidden = torch.tanh(s @ a["query"]["kernel"] + keys)
                c = torch.softmax((hidden @ a["score"]["kernel"])[:, 0], 0) @ memory
            else:
                c = torch.cat([ahead[-1], back[0]])
            s = gru_step(p["gru"], s, torch.cat([y, c]))
            p = theirs["readout"]
            t = torch.cat([s, y, c]) @ p["hidden"]["kernel"] + p["hidden"]["bias"]
            if kind.get("maxout", True):
                t = torch.maximum(t[0::2], t[1::2])
            else:
                t = torch.tanh(t)
            logits.append(t @ p["output"]["kernel"] + p["output"]["bias"])
        return torch.stack(logits)

    probe = np.random.default_rng(1).normal(size=(3, 5, 9))
    logits = jax.jit(lambda p: net.apply(p, {}, GIVEN)[0])(params)
    grads = jax.jit(jax.grad(lambda p: (net.apply(p, {}, GIVEN)[0] * probe).sum()))(params)
    total = 0
    for i in range(3):
        expected = translate(SOURCE[i, : LENGTHS[i]], TARGET[i])
        np.testing.assert_allclose(logits[i], expected.detach(), rtol=1e-10, atol=1e-12)
        total = total + (expected * torch.tensor(probe[i])).sum()
    total.backward()
    jax.tree.map(
        lambda g, p: np.testing.assert_allclose(g, p.grad, rtol=1e-9, atol=1e-11), grads, theirs
    )


@pytest.mark.fast_cases("attention")
@kinds
def test_model_and_steps_have_the_values_of_numpy(kind):
    """As one program, in which the step is compiled once."""
    weighed = kind.get("attention", True)
    net, params = drawn(**kind, return_weights=weighed)
    start, step = rnnsearch_steps(10, 9, **SIZES, **kind, return_weights=weighed)

    @jax.jit
    def run(params):
        def one(carry, tokens):
            return step(params, carry, tokens)

        _, steps = jax.lax.scan(one, start(params, *GIVEN[:2]), GIVEN[2].T)
        return net.apply(params, {}, GIVEN)[0], jax.tree.map(lambda a: a.swapaxes(0, 1), steps)

    wide = jax.tree.map(partial(np.asarray, dtype=float), params)
    given = SOURCE, LENGTHS, TARGET
    wanted = layer_values.rnnsearch(wide, *given, attends=weighed, maxout=weighed)
    for found in run(params):
        found = found if weighed else (found, None)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, wanted)


@pytest.mark.slow
@kinds
def test_steps_are_the_whole(x64, kind):
    weighed = kind.get("attention", True)
    net, params = drawn(**kind, return_weights=weighed)
    start, step = rnnsearch_steps(10, 9, **SIZES, **kind, return_weights=weighed)
    whole, _ = jax.jit(net.apply)(params, {}, GIVEN)
    step = jax.jit(step)
    carry = jax.jit(start)(params, *GIVEN[:2])
    for t in range(5):
        carry, now = step(params, carry, GIVEN[2][:, t])
        now, expected = (now, whole) if weighed else ([now], [whole])
        for a, b in zip(now, expected, strict=True):
            np.testing.assert_allclose(a, b[:, t], rtol=1e-12)
    if weighed:
        seen = np.arange(6) < LENGTHS[:, None, None]
        np.testing.assert_allclose(whole[1].sum(-1), 1)
        assert (np.asarray(whole[1])[~np.broadcast_to(seen, whole[1].shape)] == 0).all()
        assert whole[1][0].std() > 0.01


@pytest.mark.slow
@kinds
def test_padding_changes_nothing(x64, kind):
    net, params = drawn(**kind)
    more = jnp.concatenate([GIVEN[0], jnp.array([[8, 1], [2, 9], [9, 9]])], 1)
    more = more.at[1, 4:].set(7)

    @jax.jit
    def run(params, source):
        def loss(params):
            logits, _ = net.apply(params, {}, (source, *GIVEN[1:]))
            return jnp.square(logits).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11),
        run(params, GIVEN[0]),
        run(params, more),
    )


@pytest.mark.slow
@kinds
def test_an_empty_sentence_has_a_result(kind):
    net, params = drawn(**kind)
    given = GIVEN[0], jnp.array([6, 0, 1]), GIVEN[2]

    @jax.jit
    def run(params, source):
        def loss(params):
            logits, _ = net.apply(params, {}, (source, *given[1:]))
            return jnp.square(logits).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    found = run(params, given[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    other = run(params, given[0].at[1].set(4))  # of which nothing is read
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), found, other)


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
    assert [(path, x.shape) for path, (x, _) in zip(paths, found, strict=True)] == [
        ("encoder/dropout", (3, 6, 4)),
        ("encoder/dropout", (3, 6, 10)),
        ("target/dropout", (3, 5, 4)),
        ("readout/dropout", (3, 5, 3)),
    ]
    for x, y in found:
        kept = np.asarray(y != 0)
        assert 0.2 < kept.mean() < 0.8
        np.testing.assert_allclose(y[kept], 2 * x[kept], rtol=1e-6)
    found = run(params, None, train=False)
    assert len(found) == 4 and all((x == y).all() for x, y in found)


def test_messages():
    net = rnnsearch(10, 9, **SIZES, attention=False, return_weights=True)
    with pytest.raises(ValueError, match="return_weights=True needs attention=True"):
        net.init(jax.random.key(0), GIVEN)
    with pytest.raises(ValueError, match="expected .source, lengths, target."):
        net.init(jax.random.key(0), GIVEN[:2])


def reversed_digits(count, seed):
    """Words 3 to 7, two to four of them, and the same backwards; 0 pads, 1 starts, 2 ends."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 5, count)
    source, target = np.zeros((count, 4), int), np.zeros((count, 6), int)
    for i, n in enumerate(lengths):
        source[i, :n] = random.integers(3, 8, n)
        target[i, : n + 2] = [1, *source[i, :n][::-1], 2]
    return jax.tree.map(jnp.asarray, (source, lengths, target))


@pytest.mark.long
def test_learns_to_reverse():
    sizes = {"embedding_features": 16, "features": 24, "readout_features": 16}
    net = rnnsearch(8, 8, **sizes)

    def objective(m, batch):
        source, lengths, target = batch
        logits = m(net, (source, lengths, target[:, :-1]))
        values = optax.softmax_cross_entropy_with_integer_labels(logits, target[:, 1:])
        counts = (jnp.arange(5) < lengths[:, None] + 1).astype(values.dtype)
        return ((values * counts).sum(1), counts.sum(1)), {}

    train, (source, lengths, target) = reversed_digits(640, 0), reversed_digits(50, 1)
    trainer = jn.trainer(jn.compose(objective), optax.adam(1e-2))
    train_state = trainer.init(jax.random.key(0), train)
    first, *_, last = jn.fit(trainer, train_state, train, epochs=8, batch_size=64)
    assert 1.5 < first.losses[0] < 3  # log 8 = 2.1
    assert 1e-5 < last.train["loss"] < 0.2

    start, one = rnnsearch_steps(8, 8, **sizes)

    @jax.jit
    def translate(params):
        carry, begin = start(params, source, lengths), jnp.ones(50, jnp.int32)
        step = partial(one, params)
        best, n, _ = beam_search(step, carry, begin, beams=3, length=6, end=2)
        words, m = greedy(step, carry, begin, length=6, end=2)
        return (best[:, 0], n[:, 0]), (words, m)

    for words, n in translate(last.train_state.params["rnnsearch"]):
        right = (words[:, :4] == jnp.where(target == 0, 2, target)[:, 1:5]).all(1)
        assert right.mean() > 0.9 and (np.asarray(n == lengths)[right]).all()
