"""The translators: objective, BLEU by length, attention, and a short run of each."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="needs the extra jaxnet-toolkit[text]")
pytest.importorskip("sacrebleu", reason="needs the extra jaxnet-toolkit[text]")

import jaxnet as jn
from experiments import translate
from experiments.translate import Config, Texts, translation_transformer
from tests import layer_values as values
from tests.models.test_rnnsearch import GIVEN, LENGTHS, SOURCE, TARGET, in_chunks, search_loops

SENTENCES = ["Ein Hund läuft.", "", "Zwei Männer spielen im Freien Fußball, Hund!", "Hund"]
TINY = {"vocabulary": 290, "features": 8, "layers": 1, "buckets": 1, "longest": 12, "beams": 2}


def tiny(**options):
    config = Config(**TINY | options)
    vocabulary = jn.data.subwords(SENTENCES * 3, config.vocabulary)
    model = translate.build(config, vocabulary, vocabulary)
    given = jnp.ones((2, 5), int), jnp.array([5, 3]), jnp.ones((2, 6), int)
    params, _ = jax.jit(model.net.init)(jax.random.key(0), given)
    return model, params


@pytest.mark.long
@pytest.mark.parametrize("model", ["rnnsearch", "transformer"])
def test_a_sentence_is_translated_alike_alone_and_among_others(model):
    translator, params = tiny(model=model)
    together = translate.translate(translator, params, SENTENCES, beams=2)
    for sentence, found in zip(SENTENCES, together, strict=True):
        assert translate.translate(translator, params, [sentence], beams=2) == [found]
    assert len(set(together)) > 1


@pytest.mark.slow
def test_attention_is_of_words_and_each_row_sums_to_1():
    translator, params = tiny()
    apply = jax.jit(translator.attention.apply, static_argnames="train")
    translator = translator._replace(attention=translator.attention.replace(apply=apply))
    weights, read, written = translate.attention_of(translator, params, SENTENCES[2], SENTENCES[0])
    assert read == "Zwei Männer spielen im Freien Fußball , Hund !".split()
    assert written == "Ein Hund läuft .".split()
    assert weights.shape == (4, 9)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)


@pytest.mark.slow
def test_each_subword_has_the_same_weight_and_padding_none():
    logits = jnp.log(jnp.array([0.5, 0.25, 0.125, 0.125]))
    net = jn.stateless(lambda key, x: {}, lambda params, x: jnp.zeros((*x[2].shape, 4)) + logits)
    target = jnp.array([[1, 0, 2, 3], [1, 3, 2, 1], [1, 0, 0, 0]])  # the 3 of the first is padding
    batch = (jnp.ones((3, 2), int), jnp.array([2, 1, 2])), (target, jnp.array([3, 4, 4]))
    ((totals, weights), metrics), _ = translate.objective_of(net, 0.0).apply({}, {}, batch)
    np.testing.assert_allclose(totals / np.log(2), [1 + 3, 3 + 3 + 2, 1 + 1 + 1], rtol=1e-6)
    assert weights.tolist() == [2, 3, 3]
    np.testing.assert_allclose(metrics["nats"][0], totals, rtol=1e-6)  # no smoothing
    ((smoothed, _), metrics), _ = translate.objective_of(net, 0.1).apply({}, {}, batch)
    np.testing.assert_allclose(metrics["nats"][0], totals, rtol=1e-6)
    assert np.abs(smoothed - totals).min() > 0.01


def test_bleu_by_length():
    source = ["w " * n for n in (3, 8, 9, 14, 40)]
    target = ["a b c d e", "f g h i j", "k l m n o", "p q r s t", "u v w x y"]
    scores = translate.by_length([*target[:2], "k l m n z", *target[3:]], Texts(source, target))
    assert scores[0] == pytest.approx(100)
    assert 0 < scores[1] < 90
    assert scores[2] == pytest.approx(100)
    assert np.isnan(scores[3])
    assert scores[4] == pytest.approx(100)
    assert "tok:13a" in translate.bleu(target, target)[1]


SIZES = {"features": 8, "heads": 2, "mlp_features": 12}


def drawn(layers=2):
    """The transformer without dropout, with params of its own that are not near 0."""
    net = translation_transformer(10, 9, **SIZES, layers=layers, dropout_rate=0.0)
    params, _ = jax.eval_shape(net.init, jax.random.key(0), GIVEN)
    random = np.random.default_rng(0)
    return net, jax.tree.map(lambda p: jnp.asarray(0.4 * random.normal(size=p.shape)), params)


@pytest.mark.slow
def test_the_papers_size():
    net = translation_transformer(37_000, 37_000)
    given = (jn.spec((2, 7), jnp.int32), jn.spec((2,), jnp.int32), jn.spec((2, 8), jnp.int32))
    params, state = jax.eval_shape(net.init, jax.random.key(0), given)
    d, h = 512, 2048
    attention = 4 * (d * d + d)
    mlp = 2 * d * h + d + h
    norm = 2 * d
    encoder = 6 * (attention + mlp + 2 * norm) + norm
    decoder = 6 * (2 * attention + mlp + 3 * norm) + norm
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert state == {}
    assert count == 2 * 37_000 * d + encoder + decoder


def logits_in_numpy(p, source, lengths, target):
    """What the transformer computes with one block in each half."""

    def placed(p, words):
        x = p["embedding"]["embedding"][words]
        return values.sinusoidal(x * math.sqrt(x.shape[-1]))

    e, d = p["encoder"], p["decoder"]
    weights = e["block_1"]["attention"]
    seen = values.until(lengths, source.shape[1])

    def attend(y):
        return values.attention(weights, y, y, seen)[0]

    x = values.block(e["block_1"], placed(e, source), attend)
    memory = values.layer_norm(e["norm"], x)
    x = placed(d, target)
    x = values.decoder_block(d["block_1"], x, memory, lengths, values.layer_norm, gated=False)
    return values.layer_norm(d["norm"], x) @ d["embedding"]["embedding"].T


@pytest.mark.slow
def test_whole_and_chunks_have_the_values_of_numpy():
    net, params = drawn(layers=1)

    @jax.jit
    def run(params):
        return net.apply(params, {}, GIVEN)[0], in_chunks(net, params, [3, 2])

    wide = jax.tree.map(lambda p: np.asarray(p, float), params)
    wanted = logits_in_numpy(wide, SOURCE, LENGTHS, TARGET)
    for found in run(params):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_search_projects_the_memory_before_its_loop():
    """Two blocks, and the logits; the others write the caches."""
    *others, search = search_loops(*drawn(), end=5)
    assert not any(loop.products for loop in others)
    assert search.products == 2 * 8 + 1
    assert "/encoder/" not in search.text


@pytest.mark.long
def test_dropout_is_of_the_words_and_of_all_that_layers_add():
    """Where nearly all is dropped, nothing but the last norm's bias reaches the logits."""
    net = translation_transformer(10, 9, **SIZES, layers=2, dropout_rate=1 - 1e-6)
    _, params = drawn()
    train = jax.jit(lambda p: net.apply(p, {}, GIVEN, key=jax.random.key(1), train=True)[0])
    logits, decoder = train(params), params["decoder"]
    alone = decoder["embedding"]["embedding"] @ decoder["norm"]["bias"]
    np.testing.assert_allclose(logits, jnp.broadcast_to(alone, (3, 5, 9)), rtol=1e-5, atol=1e-5)
