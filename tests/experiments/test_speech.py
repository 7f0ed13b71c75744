import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")
pytest.importorskip("librosa", reason="needs the extra jaxnet-toolkit[speech]")

import jaxnet as jn
from experiments import speech

KEYS_MAY_REPEAT = True
pytestmark = pytest.mark.usefixtures("quick_compilation")
u = jn.unsupervised


def chains(states=2):
    """Ten digits whose states each emit one value of their own; the silence emits 99."""
    chain = {
        "start": u.first_state(jax.random.key(0), (states,)),
        "transition": u.left_to_right()(jax.random.key(0), (states, states)),
    }
    values = jnp.array([*range(10 * states), 99.0])[:, None, None]
    emission = {"weight": jnp.zeros(values.shape[:2]), "mean": values,
                "log_variance": jnp.full(values.shape, np.log(0.01))}  # fmt: skip
    return speech.Words([chain] * 10, emission, np.full(11, 0.5))


def listener(words, penalty=0.0):
    def scores(given):
        x, lengths = speech.padded(given, 8)
        return u.gaussian_mixture(1).score(words.emission, x), lengths

    return speech.by_words(words, scores, penalty)


def said(*values):
    return np.array(values, np.float32)[:, None]


class TestChains:
    def test_digits_are_heard_by_their_states(self):
        words = chains()
        given = [said(6, 6, 7), said(0, 1), said(18, 19, 19, 19)]
        assert listener(words).one(given).tolist() == [3, 0, 9]

    def test_strings_with_silence_without_and_with_a_digit_twice(self):
        given = [
            said(99, 6, 7, 7, 99, 99, 4, 5),
            said(6, 7, 6, 6, 7, 0, 1, 99),
            said(8, 9, 8, 9),
            said(99, 99),
        ]
        assert listener(chains()).many(given) == [[3, 2], [3, 3, 0], [4, 4], []]

    def test_padding_changes_nothing(self):
        given = [said(99, 6, 7, 7, 99), said(0, 1, *[99] * 20)]
        together = listener(chains()).many(given)
        assert together == [listener(chains()).many([one])[0] for one in given] == [[3], [0]]

    def test_an_utterance_does_not_end_within_a_digit(self):
        # The last frame is that of the first state of a 5, which would have to go on.
        assert listener(chains()).many([said(6, 7, 7, 10)]) == [[3, 4]]
        assert listener(chains()).many([said(6, 7, 7, 10, 11)]) == [[3, 5]]

    def test_a_penalty_saves_digits(self):
        one = [said(6, 7, 6, 7)]
        assert listener(chains()).many(one) == [[3, 3]]
        assert len(listener(chains(), 500.0).many(one)[0]) == 1

    def test_segments_have_first_and_last_frames(self):
        found = listener(chains()).align(said(99, 6, 7, 7, 99, 4, 5, 4, 5))
        assert found == [("3", 1, 4), ("2", 5, 7), ("2", 7, 9)]

    def test_no_frames_are_no_digits(self):
        words = chains()
        scores = jnp.zeros((2, 4, words.silence + 1))
        path = speech.best_paths(words, scores, jnp.array([0, 0]), 0.0)
        assert speech.digits_of(words, path) == [[], []]

    def test_the_loop_is_a_distribution(self):
        params = speech.loop(chains(), 3.0)
        for part in params.values():
            np.testing.assert_allclose(np.exp(u.log_probabilities(part)).sum(-1), 1, rtol=1e-5)


def test_windows_hold_the_frames_around():
    x = speech.windows(np.arange(20.0)[:, None])
    assert x.shape == (20, 11)
    assert x[10].tolist() == list(range(5, 16))
    assert x[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]


def test_two_frames_a_step():
    (steps,) = speech.steps_of([np.arange(10.0).reshape(5, 2)])
    assert steps.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_labels_by_hand():
    path = np.array([[4, 4, 0, 4, 0], [1, 0, 2, 2, 0]])  # 3 3 and 0 1
    logits, lengths = 9 * jax.nn.one_hot(path, 11), jnp.array([5, 4])
    assert speech.many_labels(logits, lengths) == [[3, 3], [0, 1]]
    assert speech.many_labels(logits, jnp.array([3, 0])) == [[3], []]
    assert speech.one_label(logits[:1], jnp.array([5])).tolist() == [3]


def test_disturbed_hides_steps_and_keeps_the_rest():
    x, lengths = jnp.ones((50, 40, 3)), jnp.full(50, 40)
    (y, n), targets = speech.disturbed(0.0, 6)(jax.random.key(0), ((x, lengths), "targets"))
    assert targets == "targets" and (n == lengths).all()
    hidden = np.asarray(y == 0).all(-1).sum(1)
    assert set(np.unique(y)) == {0, 1} and 2 < hidden.mean() < 4 and hidden.max() <= 6


@pytest.mark.slow
def test_all_systems_learn_something(few_examples, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speech, "BOUNDS", [(220, 7)])  # one shape compiles faster
    monkeypatch.setattr(speech, "UNSEEN_STRINGS", 6)
    monkeypatch.setattr(speech, "PENALTIES", ())
    config = speech.Config(
        states=3, mixtures=1, pieces=16, iterations=2, hidden=(32,), pretraining=1, frames=4000,
        epochs=3, features=16, updates=12, strings=24, test_strings=6, seeds=1, speakers=1,
        validation=True, data_dir=few_examples(240, 1), output=tmp_path,
    )  # fmt: skip
    results = speech.run(config)
    assert set(results.unseen) == {speech.GMM, speech.PRETRAINED, speech.CTC}
    assert set(results.errors) == {*results.unseen, speech.PLAIN}
    for name, errors in results.errors.items():
        assert errors.shape == (1, 2)
        assert (0 <= errors).all()
        assert name == speech.CTC or errors[0, 0] < 0.8  # chance 0.9
    assert [path.name for path in results.pictures] == ["alignment.png", "errors.png"]
    assert all(path.exists() for path in results.pictures)
    assert "without george" in capsys.readouterr().out


def test_wrong_options():
    with pytest.raises(ValueError, match=r"speakers must be in \[0, 6\], got 7"):
        speech.Config(speakers=7)
    with pytest.raises(ValueError, match="at least 1, states 2"):
        speech.Config(states=1)
