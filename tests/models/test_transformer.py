"""The translating transformer: against PyTorch's layers, in a stream, and with padding."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.models import translation_transformer
from tests import compiled, layer_values
from tests.models.test_rnnsearch import in_chunks, searches

SIZES = {"layers": 2, "features": 8, "heads": 2, "mlp_features": 12, "dropout_rate": 0.0}
SOURCE = np.array([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 0, 0], [7, 0, 0, 0, 0, 0]])
LENGTHS = np.array([6, 4, 1])
TARGET = np.array([[1, 4, 2, 8, 5], [1, 7, 3, 2, 0], [1, 6, 6, 6, 6]])
GIVEN = jax.tree.map(jnp.asarray, (SOURCE, LENGTHS, TARGET))


def drawn(**options):
    """The model with params of its own, in float64 under `x64`, not near 0."""
    net = translation_transformer(10, 9, **SIZES | options)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), GIVEN)
    random = np.random.default_rng(0)
    return net, jax.tree.map(lambda p: jnp.asarray(0.4 * random.normal(size=p.shape)), params)


def test_the_papers_size():
    net = translation_transformer(37_000, 37_000)
    given = (jn.spec((2, 7), jnp.int32), jn.spec((2,), jnp.int32), jn.spec((2, 8), jnp.int32))
    params, state = jax.eval_shape(net.init, jax.random.key(0), given)
    d, h = 512, 2048
    attention, mlp, norm = 4 * (d * d + d), 2 * d * h + d + h, 2 * d
    encoder = 6 * (attention + mlp + 2 * norm) + norm
    decoder = 6 * (2 * attention + mlp + 3 * norm) + norm
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert state == {} and count == 2 * 37_000 * d + encoder + decoder


@pytest.mark.long
def test_is_the_same_in_pytorch(x64):  # torch 2.13.0
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    net, params = drawn()
    theirs = jax.tree.map(lambda p: torch.tensor(np.asarray(p), requires_grad=True), params)
    gelu = torch.nn.functional.gelu

    def norm(p, x):
        # jn.layer_norm's epsilon is Flax's
        return torch.nn.functional.layer_norm(x, (8,), p["scale"], p["bias"], eps=1e-6)

    def attend(p, x, memory, causal=False):
        parts = zip(("query", "key", "value"), (x, memory, memory), strict=True)
        q, k, v = (
            torch.einsum("tf,fhd->htd", of, p[name]["kernel"]) + p[name]["bias"][:, None]
            for name, of in parts
        )
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return torch.einsum("htd,hdf->tf", y, p["out"]["kernel"]) + p["out"]["bias"]

    def block(p, x, memory=None):
        y = norm(p["attention_norm"], x)
        x = x + attend(p["attention"], y, y, causal=memory is not None)
        if memory is not None:
            x = x + attend(p["cross_attention"], norm(p["cross_norm"], x), memory)
        y = norm(p["mlp_norm"], x) @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"]
        y = gelu(y, approximate="tanh") @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"]
        return x + y

    def placed(p, ids):
        angle = torch.arange(len(ids))[:, None] / 10000.0 ** (torch.arange(0, 8, 2) / 8)
        waves = torch.stack([angle.sin(), angle.cos()], -1).reshape(len(ids), 8)
        return p["embedding"]["embedding"][ids] * math.sqrt(8) + waves

    def translate(source, target):
        """Logits (time, vocabulary) of one sentence without padding."""
        p = theirs["encoder"]
        x = placed(p, source)
        for i in (1, 2):
            x = block(p[f"block_{i}"], x)
        memory = norm(p["norm"], x)
        p = theirs["decoder"]
        x = placed(p, target)
        for i in (1, 2):
            x = block(p[f"block_{i}"], x, memory)
        return norm(p["norm"], x) @ p["embedding"]["embedding"].T

    probe = np.random.default_rng(1).normal(size=(3, 5, 9))

    @jax.jit
    def run(params):
        def loss(params):
            logits, _ = net.apply(params, {}, GIVEN)
            return (logits * probe).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    grads, logits = run(params)
    total = 0
    for i in range(3):
        expected = translate(SOURCE[i, : LENGTHS[i]], TARGET[i])
        np.testing.assert_allclose(logits[i], expected.detach(), rtol=1e-7, atol=1e-8)
        total = total + (expected * torch.tensor(probe[i])).sum()
    total.backward()
    jax.tree.map(
        lambda g, p: np.testing.assert_allclose(g, p.grad, rtol=1e-6, atol=1e-7), grads, theirs
    )


def test_whole_and_chunks_have_the_values_of_numpy():
    net, params = drawn(layers=1)

    @jax.jit
    def run(params):
        return net.apply(params, {}, GIVEN)[0], in_chunks(net, params, [3, 2])

    wide = jax.tree.map(partial(np.asarray, dtype=float), params)
    wanted = layer_values.translation_transformer(wide, SOURCE, LENGTHS, TARGET)
    for found in run(params):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_beams_have_the_values_of_single_steps_by_hand():
    """Taken from loops that kept the caches and the projected memory of each beam by hand."""
    _, (beams, _, scores), program = searches(*drawn(), end=5)
    two, four, later = [2] * 6, [2, 4, 2, 2, 2, 2], [2, 2, 4, 2, 2, 2]
    assert beams.tolist() == [[four, two, later], [two, four, later], [two, four, later]]
    wanted = [
        [-2.9544491219, -2.9626940339, -2.9824861093],
        [-2.9370112192, -2.9436595712, -2.9727307888],
        [-2.8180694923, -2.8640140051, -2.8938314284],
    ]
    np.testing.assert_allclose(scores, wanted, rtol=1e-5)
    # Two blocks, and the logits. The keys and values of the memory are computed before the loop.
    *others, search = sorted(compiled.loops(program))  # the others write the caches
    assert not any(loop.products for loop in others)
    assert search.products == 2 * 8 + 1 and "/encoder/" not in search.text


@pytest.mark.long
def test_padding_changes_nothing_and_an_empty_sentence_has_a_result(x64):
    net, params = drawn()
    lengths = jnp.array([6, 4, 0])
    more = jnp.concatenate([GIVEN[0], jnp.array([[8, 1], [2, 9], [9, 9]])], 1)
    more = more.at[1, 4:].set(7).at[2].set(3)

    @jax.jit
    def run(params, source):
        def loss(params):
            logits, _ = net.apply(params, {}, (source, lengths, GIVEN[2]))
            return jnp.square(logits).sum(), logits

        return jax.grad(loss, has_aux=True)(params)

    found = run(params, GIVEN[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-9),
        found,
        run(params, more),
    )


@pytest.mark.long
def test_dropout_is_of_the_words_and_of_all_that_layers_add():
    """Where nearly all is dropped, nothing but the last norm's bias reaches the logits."""
    net = translation_transformer(10, 9, **SIZES | {"dropout_rate": 1 - 1e-6})
    _, params = drawn()
    train = jax.jit(lambda p: net.apply(p, {}, GIVEN, key=jax.random.key(1), train=True)[0])
    logits = train(params)
    decoder = params["decoder"]
    alone = decoder["embedding"]["embedding"] @ decoder["norm"]["bias"]
    np.testing.assert_allclose(logits, jnp.broadcast_to(alone, (3, 5, 9)), rtol=1e-5, atol=1e-5)
    same, _ = jax.jit(net.apply)(params, {}, GIVEN)  # not in training
    np.testing.assert_array_equal(same, jax.jit(drawn()[0].apply)(params, {}, GIVEN)[0])


def test_messages():
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        translation_transformer(10, 9, layers=0)
    with pytest.raises(ValueError, match="expected .source, lengths, target."):
        translation_transformer(10, 9, **SIZES).init(jax.random.key(0), GIVEN[:2])
