"""The translators: objective, BLEU by length, attention, and a short run of each."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")
pytest.importorskip("tokenizers", reason="needs the extra jaxnet-toolkit[text]")
pytest.importorskip("sacrebleu", reason="needs the extra jaxnet-toolkit[text]")

import jaxnet as jn
from experiments import translate
from experiments.translate import Config, Texts

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
    quick = translator.attention._replace(apply=apply)
    translator = translator._replace(attention=quick)
    weights, read, written = translate.attention_of(
        translator, params, "Zwei Männer spielen im Freien Fußball, Hund!", "Ein Hund läuft."
    )
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
    objective = translate.objective_of(net, 0.0)
    ((totals, weights), metrics), _ = objective.apply({}, {}, batch)
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
    assert scores[0] == pytest.approx(100) and 0 < scores[1] < 90
    assert scores[2] == pytest.approx(100) and np.isnan(scores[3])
    assert scores[4] == pytest.approx(100)
    assert "tok:13a" in translate.bleu(target, target)[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "rnn"}, "model must be one of rnnsearch, encdec, transformer, got 'rnn'"),
        ({"source": "fr"}, "source must be one of de, en, got 'fr'"),
        ({"beams": 0}, "beams must be at least 1, got 0"),
    ],
)
def test_wrong_options(wrong, message):
    with pytest.raises(ValueError, match=message):
        Config(**wrong)


@pytest.mark.long
def test_a_short_run_learns(few_examples, tmp_path, capsys):
    config = Config(
        **TINY, model="transformer", source="de", epochs=2, batch_size=50, learning_rate=1e-2,
        data_dir=few_examples(200, 12), output=tmp_path, drawn=2, lowercase=True,
    )  # fmt: skip
    results = translate.run(config)
    assert 0 <= results.bleu < 20 and len(results.validation) == 2 and len(results.by_length) == 5
    printed = capsys.readouterr().out
    assert "test: " in printed and "tok:13a" in printed
    losses = [float(line.split("nats ")[1].split()[0]) for line in printed.splitlines()
              if line.startswith("epoch ") and "nats" in line]  # fmt: skip
    assert 2 < losses[1] < losses[0] < np.log(290) + 1
    name = "transformer_de_en"
    assert json.loads((tmp_path / f"{name}.json").read_text())["bleu"] == results.bleu
    assert (tmp_path / f"{name}.safetensors").exists()
    drawn = [path.name for path in results.pictures]
    assert drawn == ["lengths_de_en.png"]
