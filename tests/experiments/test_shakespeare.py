"""The four language models: streams equal whole windows, and every character is predicted once."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from experiments import shakespeare
from experiments.shakespeare import Config, bits, build, write

KEY = jax.random.key(0)
SIZE = 11  # characters
TEXT = np.random.default_rng(0).integers(0, SIZE, 40)
models = pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "transformer"])


@cache  # all tests of a model share its compiled programs
def tiny(kind):
    model = build(Config(model=kind, features=8, layers=2, steps=6, embedding=5, heads=2), SIZE)
    params, _ = model.net.init(KEY, jn.spec((3, 6), jnp.int32))
    # Larger than drawn, so that the context makes a difference.
    return model, jax.tree.map(lambda a: 3 * a, params)


@partial(jax.jit, static_argnums=0)
def full_logits(model, params, x):
    """Logits of whole texts x (batch, time)."""
    return model.net.apply(params, {}, x)[0]


def nats(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(y))


@pytest.mark.slow
def test_a_limited_context_restarts_with_its_last_half():
    model, params = tiny("transformer")
    vocabulary = jn.data.characters("abcdefghijk")
    text = write(model, params, vocabulary, "abc", KEY, length=10, temperature=1e-4)
    assert len(text) == 13
    assert text.startswith("abc")
    ids = vocabulary.encode(text)
    for start in (0, 3, 6):  # contexts of 6, of which 3 are known
        best = full_logits(model, params, ids[None, start : start + 6]).argmax(-1)[0]
        np.testing.assert_array_equal(ids[start + 3 : start + 6], best[2:5])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("steps", [4, 39, 50])
def test_bits_with_carried_state_are_those_of_the_whole_text(kind, steps):
    model, params = tiny(kind)
    expected = nats(full_logits(model, params, TEXT[None, :-1]), TEXT[None, 1:]).mean() / np.log(2)
    np.testing.assert_allclose(bits(model, params, TEXT, steps=steps, streams=1), expected, 1e-5)
    parts = bits(model, params, TEXT, steps=4, streams=3)  # starts three times from zeros
    assert 0 < abs(parts - expected) < 1


@pytest.mark.slow
def test_bits_of_a_limited_context_by_hand():
    model, params = tiny("transformer")
    sums = 0.0
    for target in range(1, len(TEXT)):
        # Windows of 6 begin at 0, 3, ..., 33; a target is in the first that reaches it.
        start = min(max(0, -(-(target - 6) // 3) * 3), len(TEXT) - 1 - 6)
        logits = full_logits(model, params, TEXT[None, start : start + 6])[0, target - 1 - start]
        sums += float(nats(logits, TEXT[target]))
    found = bits(model, params, TEXT, steps=6, streams=4)
    np.testing.assert_allclose(found, sums / np.log(2) / (len(TEXT) - 1), 1e-5)


@pytest.mark.slow
def test_training_continues_where_the_last_window_stopped():
    model, params = tiny("lstm")
    objective = jn.training.truncated_bptt(model.net, jn.losses.masked())
    apply = jax.jit(partial(objective.apply, key=None, train=False))
    cut = jn.data.windows(TEXT, 3, 7)  # 13 targets per stream: windows of 7 and 6
    carry = ({"c": jnp.full((3, 8), 5.0), "h": jnp.full((3, 8), 5.0)},) * 2  # to be reset
    state = {"net": {}, "carry": carry}
    losses = []
    for i in (slice(0, 3), slice(3, 6)):
        batch = (jnp.asarray(cut.x[i]), jnp.asarray(cut.start[i])), (cut.y[i], cut.counts[i])
        (values, _), state = apply(params, state, batch)
        losses.append(float(values.mean()))
    streams = np.stack([TEXT[i : i + 14] for i in (0, 13, 26)])
    expected = nats(full_logits(model, params, streams[:, :-1]), streams[:, 1:])
    np.testing.assert_allclose(losses, [expected[:, :7].mean(), expected[:, 7:].mean()], 1e-5)


@pytest.fixture
def plays(monkeypatch):
    """A predictable text in place of the plays."""

    def load(name, split, data_dir=None):
        assert name == "tiny_shakespeare"
        return {"text": ["ROMEO:\nto be or not to be. " * (60 if split == "train" else 6)]}

    monkeypatch.setattr(jn.data.tfds, "load", load)
    monkeypatch.setattr(shakespeare, "SAMPLING", ((1.0, 0.9),))  # each compiles


@pytest.mark.slow
@models
def test_each_model_learns_and_writes(kind, plays, tmp_path):
    results = shakespeare.run(
        Config(
            model=kind,
            features=16,
            layers=1,
            steps=20,
            embedding=8,
            heads=2,
            epochs=6,
            batch_size=4,
            learning_rate=2e-2,
            length=30,
            output=tmp_path,
        )
    )
    assert 0.0 < results.test < 1.5  # log2 of its 11 characters is 3.5
    assert results.history["validation"].shape == (6,)
    assert results.history["validation"][0] > results.history["validation"][-1]
    assert [len(text) for text in results.samples] == [37]
    saved, about = jn.load(tmp_path / f"{kind}.safetensors")
    assert about["model"] == kind
    assert about["features"] == 16
    assert saved["params"]
