"""Chains, labels, augmentation, and a tiny run of all systems."""

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

pytest.importorskip("librosa", reason="needs the extra jaxnet-toolkit[speech]")

from experiments import speech
from experiments.speech import chains, nets, recognizers, utterances
from jaxnet.unsupervised import hmm

KEYS_MAY_REPEAT = True
DRAWS = True  # there is no short run of these systems elsewhere


def ten_digits(states=2):
    """Ten digits whose states each emit a value that no other emits; the silence emits 99."""
    chain = {
        "start": hmm.first_state(jax.random.key(0), (states,)),
        "transition": hmm.left_to_right()(jax.random.key(0), (states, states)),
    }
    values = jnp.array([*range(10 * states), 99.0])[:, None, None]
    emission = {"weight": jnp.zeros(values.shape[:2]), "mean": values,
                "log_variance": jnp.full(values.shape, np.log(0.01))}  # fmt: skip
    return chains.Chains([chain] * 10, emission, np.full(11, 0.5))


def recognizer(digits, penalty=0.0):
    def scores(features):
        x, lengths = utterances.padded(features, 8)
        return hmm.gaussian_mixture(1).score(digits.emission, x), lengths

    return recognizers.from_chains(digits, scores, penalty)


def spoken(*values):
    return np.array(values, np.float32)[:, None]


class TestChains:
    @pytest.mark.slow
    def test_digits_are_recognized_by_their_states(self):
        given = [spoken(6, 6, 7), spoken(0, 1), spoken(18, 19, 19, 19)]
        assert recognizer(ten_digits()).digit(given).tolist() == [3, 0, 9]

    @pytest.mark.slow
    def test_strings_with_silence_without_and_with_a_digit_twice(self):
        """Alike alone and among longer ones; the last two tell that a 5 ends after its states."""
        strings = {
            (99, 6, 7, 7, 99, 99, 4, 5): [3, 2], (6, 7, 6, 6, 7, 0, 1, 99): [3, 3, 0],
            (8, 9, 8, 9): [4, 4], (0, 1, *[99] * 20): [0], (99, 99): [], (6, 7, 7, 10): [3, 4],
            (6, 7, 7, 10, 11): [3, 5],
        }  # fmt: skip
        given = [spoken(*values) for values in strings]
        assert recognizer(ten_digits()).string(given) == list(strings.values())
        alone = [recognizer(ten_digits()).string([one])[0] for one in (given[0], given[3])]
        assert alone == [[3, 2], [0]]

    @pytest.mark.slow
    def test_a_penalty_makes_digits_fewer(self):
        one = [spoken(6, 7, 6, 7)]
        assert recognizer(ten_digits()).string(one) == [[3, 3]]
        assert len(recognizer(ten_digits(), 500.0).string(one)[0]) == 1

    @pytest.mark.slow
    def test_segments_have_first_and_last_frames(self):
        found = recognizer(ten_digits()).align(spoken(99, 6, 7, 7, 99, 4, 5, 4, 5))
        assert found == [("3", 1, 4), ("2", 5, 7), ("2", 7, 9)]

    @pytest.mark.slow
    def test_no_frames_are_no_digits(self):
        digits = ten_digits()
        scores = jnp.zeros((2, 4, digits.silence + 1))
        paths = chains.best_paths(digits, scores, jnp.array([0, 0]), 0.0)
        assert chains.digits_of(digits, paths) == [[], []]

    def test_the_loop_is_a_distribution(self):
        for part in chains.loop(ten_digits(), 3.0).values():
            np.testing.assert_allclose(np.exp(hmm.log_probabilities(part)).sum(-1), 1, rtol=1e-5)


def test_frames_by_the_middle_of_their_windows():
    # Middles at 100, 180, 260, 340, 420, 500: by hand.
    found = utterances.piece_of_frames(np.array([(180, 260), (341, 500)]), 6)
    assert found.tolist() == [-1, 0, -1, -1, 1, -1]


def test_segments_of_a_digit_are_cut_to_a_number_evenly_over_all():
    places = [np.array([-1, 0, 0, 1, 1, 1]), np.zeros(4, int), np.zeros(chains.FRAMES + 1, int)]
    digits = [np.array([7, 7]), np.array([7]), np.array([7])]  # the last one is too long
    data = utterances.Utterances(
        [np.zeros((len(p), 2)) for p in places], digits, places, np.array(["a"] * 3)
    )
    found = [(i, frames.tolist()) for i, frames in chains.segments_of(data, 7, 9)]
    assert found == [(0, [1, 2]), (0, [3, 4, 5]), (1, [0, 1, 2, 3])]
    assert [i for i, _ in chains.segments_of(data, 7, 2)] == [0, 1]
    assert chains.segments_of(data, 3, 9) == []


def test_windows_hold_the_frames_around():
    x = nets.windows(np.arange(20.0)[:, None])
    assert x.shape == (20, 11)
    assert x[10].tolist() == list(range(5, 16))
    assert x[0].tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]


def test_two_frames_per_step():
    (steps,) = nets.steps_of([np.arange(10.0).reshape(5, 2)])
    assert steps.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.slow
def test_labels_by_hand():
    path = np.array([[4, 4, 0, 4, 0], [1, 0, 2, 2, 0]])  # 3 3 and 0 1
    logits = 9 * jax.nn.one_hot(path, 11)
    lengths = jnp.array([5, 4])
    assert nets.many_labels(logits, lengths) == [[3, 3], [0, 1]]
    assert nets.many_labels(logits, jnp.array([3, 0])) == [[3], []]
    assert nets.one_label(logits[:1], jnp.array([5])).tolist() == [3]


@pytest.mark.slow
def test_a_mask_covers_consecutive_steps_and_leaves_the_rest():
    x, lengths = jnp.ones((50, 40, 3)), jnp.full(50, 40)
    (y, n), targets = nets.noise_and_mask(0.0, 6)(jax.random.key(0), ((x, lengths), "targets"))
    assert targets == "targets"
    assert (n == lengths).all()
    masked = np.asarray(y == 0).all(-1).sum(1)
    assert set(np.unique(y)) == {0, 1}
    assert 2 < masked.mean() < 4
    assert masked.max() <= 6


@pytest.mark.long
def test_all_systems_learn_something(few_examples, tmp_path, monkeypatch):
    monkeypatch.setattr(nets, "BOUNDS", [(220, 7)])  # one shape compiles faster
    monkeypatch.setattr(speech, "HELD_OUT_STRINGS", 6)
    monkeypatch.setattr(recognizers, "PENALTIES", ())
    results = speech.run(
        speech.Config(
            states=3,
            mixtures=1,
            pieces=16,
            iterations=2,
            hidden=(32,),
            pretraining=1,
            frames=4000,
            epochs=3,
            features=16,
            updates=4,
            strings=12,
            test_strings=6,
            seeds=1,
            speakers=1,
            validation=True,
            data_dir=few_examples(240, 1),
            output=tmp_path,
        )
    )
    assert set(results.held_out) == {recognizers.GMM, recognizers.PRETRAINED, recognizers.CTC}
    assert set(results.errors) == {*results.held_out, recognizers.PLAIN}
    for name, errors in results.errors.items():
        assert errors.shape == (1, 2)
        assert (0 <= errors).all()
        assert name == recognizers.CTC or errors[0, 0] < 0.8  # chance 0.9
    assert [path.name for path in results.pictures] == ["alignment.png", "errors.png"]
    for path in results.pictures:
        assert matplotlib.image.imread(path).std() > 0.01, path  # not one color
