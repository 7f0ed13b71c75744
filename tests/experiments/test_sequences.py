"""Experiments with series, films, flows and policies: small runs, and their parts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from experiments import flow_matching, ppo, time_series
from experiments import moving_digits as md
from experiments.flow_matching import cut, frechet, gaussian, join, measure, sample, velocity
from experiments.ppo import METHODS, Played, accelerations, advance, learner

KEYS_MAY_REPEAT = True


@pytest.mark.slow
def test_a_delay_shifts_a_signal_and_pads_with_zeros():
    x = jnp.arange(1.0, 6.0).reshape(1, 5, 1).repeat(40, 0)
    y = np.asarray(time_series.random_delay(2)(jax.random.key(0), x))[..., 0].tolist()
    assert sorted(set(map(tuple, y))) == [(0, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 5)]
    np.testing.assert_array_equal(time_series.random_delay(0)(jax.random.key(0), x), x)


def test_a_filter_is_drawn_at_its_pitch():
    time = np.arange(80) / time_series.RATE
    kernel = np.stack([np.sin(2 * np.pi * f * time) for f in (2000, 500)], -1)
    figure = time_series.draw_filters(kernel)
    titles = [axes.get_title() for part in figure.subfigs for axes in part.axes]
    assert titles[:2] == ["500 Hz", "2000 Hz"]


@pytest.mark.long
def test_validation_holds_out_recordings_of_the_training_part(few_examples, tmp_path, capsys):
    config = time_series.Config(
        features=2,
        epochs=1,
        seeds=2,
        validation=True,
        output=tmp_path,
        data_dir=few_examples(90, 1),
    )
    (_, _), recording = time_series.waveforms("train", config.data_dir)
    assert time_series.run(config).accuracies.shape == (2,)
    held = (recording < 10).sum()
    assert 0 < held < 90
    assert f"{90 - held} recordings to train on, {held} to test with" in capsys.readouterr().out


def test_waveforms_are_cut_padded_and_normalized(few_examples):
    (x, y), recording = time_series.waveforms("train", few_examples(30, 1))
    assert x.shape == (30, 6000, 1)
    assert x.dtype == np.float32
    assert y.shape == recording.shape
    for wave in x[..., 0]:
        recorded = wave[: np.flatnonzero(wave)[-1] + 1]
        np.testing.assert_allclose([recorded.mean(), recorded.std()], [0, 1], atol=1e-2)


@pytest.fixture(scope="module")
def videos():
    """A single bright pixel in the middle of each image, without noise."""
    images = jnp.zeros((400, md.DIGIT, md.DIGIT, 1)).at[:, 7, 7].set(1.0)
    videos, ways = jax.jit(md.moving)(jax.random.key(0), images, 0.0)
    return np.asarray(videos), np.asarray(ways)


def places(videos):
    """(videos, frames, 2): row and column of the bright pixel."""
    flat = videos.reshape(*videos.shape[:2], -1).argmax(-1)
    return np.stack(np.unravel_index(flat, (md.CANVAS, md.CANVAS)), -1)


@pytest.mark.slow
def test_each_frame_shows_the_whole_image_once(videos):
    assert videos[0].shape == (400, md.FRAMES, md.CANVAS, md.CANVAS, 1)
    np.testing.assert_array_equal(videos[0].sum((2, 3, 4)), 1)


@pytest.mark.slow
def test_directions_are_those_of_the_motion(videos):
    step = places(videos[0])[:, -1] - places(videos[0])[:, 0]  # (down, right)
    down, right = step.T
    turn = np.round(np.arctan2(-down, right) / (np.pi / 4)).astype(int) % 8
    np.testing.assert_array_equal(turn, videos[1])
    assert set(videos[1]) == set(range(8)) and md.ARROWS[2] == "↑" and md.ARROWS[0] == "→"
    # 8 frames at 1 to 1.75 pixels; rounding moves each end by half a pixel at most, along two axes
    length = np.hypot(down, right)
    assert 8 - 1.5 < length.min()
    assert length.max() < 14 + 1.5


@pytest.mark.slow
def test_the_middle_frame_does_not_depend_on_the_direction(videos):
    middle = places(videos[0])[:, md.FRAMES // 2]
    means = np.stack([middle[videos[1] == way].mean(0) for way in range(8)])
    # uniform within 2 of (9, 9), where the pixel is 7 further: standard error 1.15 / sqrt(50)
    assert np.abs(means - 16).max() < 4 * 1.2 / np.sqrt(50)


@pytest.mark.slow
def test_noise_has_its_size():
    still, _ = jax.jit(md.moving)(jax.random.key(0), jnp.zeros((20, 14, 14, 1)), 0.25)
    assert 0.245 < float(still.std()) < 0.255


def test_half_size_is_the_mean_of_four_pixels():
    x = np.zeros((1, 28, 28, 1))
    x[0, 2:4, 6:8, 0] = [[1, 2], [3, 6]]
    assert md.half_size(x).sum() == md.half_size(x)[0, 1, 3, 0] == 3


def test_metrics_by_hand():
    outputs = np.eye(8)[[1, 2, 3]], np.eye(10)[[4, 5, 6]]
    targets = np.array([1, 2, 0]), np.array([4, 9, 6])
    found = {name: jax.jit(f)(outputs, targets).tolist() for name, f in md.METRICS.items()}
    assert found == {"direction": [1, 1, 0], "digit": [1, 0, 1], "both": [1, 0, 0]}


@pytest.mark.long
def test_a_stack_of_frames_learns_directions(few_examples, tmp_path):
    results = md.run(
        md.Config(
            nets=("stack",),
            train_size=300,
            test_size=100,
            epochs=4,
            seeds=1,
            validation=True,
            data_dir=few_examples(400, 1),
            output=tmp_path,
        )
    )
    found = results.accuracies["stack"]
    assert 0.3 < found["direction"][0] <= 1  # chance is 0.125
    assert found["both"][0] <= min(found["direction"][0], found["digit"][0])


@pytest.mark.long
def test_a_net_over_videos_is_drawn(few_examples, tmp_path):
    results = md.run(
        md.Config(
            nets=("video",),
            train_size=32,
            test_size=16,
            epochs=1,
            seeds=1,
            data_dir=few_examples(64, 32),
            output=tmp_path,
        )
    )
    assert results.accuracies["video"]["direction"].shape == (1,)
    assert {path.name for path in results.pictures} == {"videos.png", "filters.png"}


def test_joining_undoes_cutting():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    assert cut(x).shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(cut(x)[0, 0, 0], x[0, :2, :2].ravel())
    np.testing.assert_array_equal(join(cut(x)), x)


def test_the_measures():
    labels = np.repeat(np.arange(10), 2)
    images = np.zeros((20, 2, 2, 1))
    images[1::2] = 0.5  # so two images of a label differ by 0.5 in each pixel
    features = np.random.default_rng(0).normal(size=(20, 3))
    found = measure(labels, features, images, labels, features)
    assert found["read"] == 1
    assert np.isclose(found["classes"], np.log2(10))
    assert np.isclose(found["spread"], 0.5)
    assert abs(found["distance"]) < 1e-6
    found = measure(np.zeros(20, int), features, images, labels, features)
    assert found["read"] == 0.1
    assert found["classes"] == 0


def test_the_frechet_distance_is_that_of_the_square_root_of_a_matrix():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 4))
    b = 1 + rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4))
    (mean, cov), (other, its) = ((x.mean(0), np.cov(x.T)) for x in (a, b))
    root = scipy.linalg.sqrtm(cov @ its).real
    wanted = ((mean - other) ** 2).sum() + np.trace(cov + its - 2 * root)
    assert np.isclose(frechet(a, b), wanted)


def test_the_baseline_has_the_moments_of_each_label():
    rng = np.random.default_rng(0)
    y = np.arange(4000) % 2
    x = 0.5 + 0.05 * rng.normal(size=(4000, 2, 2, 1)) + 0.1 * y[:, None, None, None]
    x[..., 1, 1, :] = x[..., 0, 0, :]
    labels = np.repeat([0, 1], 3000)
    drawn = gaussian((x, y), labels, 1).reshape(6000, -1)
    for label in (0, 1):
        own = drawn[labels == label]
        real = x[y == label].reshape(2000, -1)
        np.testing.assert_allclose(own.mean(0), real.mean(0), atol=0.01)
        np.testing.assert_allclose(np.cov(own.T), np.cov(real.T), atol=3e-4)


@pytest.mark.slow
def test_guidance_mixes_two_velocities(monkeypatch):
    """With a velocity that depends on the label alone, a sample moves by it from its noise."""
    monkeypatch.setattr(flow_matching, "FEATURES", 4)
    monkeypatch.setattr(flow_matching, "MIDDLE", 8)
    given = jnp.zeros((3, 28, 28, 1)), jnp.zeros(3), jnp.arange(3)
    net = velocity()
    params, state = net.init(jax.random.key(0), given)
    params = jax.tree.map(lambda a: a + 0.01 * jnp.cos(jnp.arange(a.size)).reshape(a.shape), params)
    key, labels = jax.random.key(1), jnp.arange(3)
    hidden = jnp.full(3, flow_matching.HIDDEN_LABEL)

    def image(labels, guidance):
        return sample(params, state, key, labels, guidance, 1)

    def by_hand(guidance):
        x = jax.random.normal(key, (3, 28, 28, 1))

        def slope(x, t):
            at = jnp.full(3, t)
            told, untold = (net.apply(params, state, (x, at, y))[0] for y in (labels, hidden))
            return untold + guidance * (told - untold)

        return ((x + slope(x + slope(x, 0.0) / 2, 0.5) + 1) / 2).clip(0, 1)

    for guidance in (0.0, 1.0, 3.0):
        np.testing.assert_allclose(image(labels, guidance), by_hand(guidance), atol=1e-5)
    np.testing.assert_allclose(image(labels, 0.0), image(hidden, 1.0), atol=1e-5)
    assert np.abs(image(labels, 3.0) - image(labels, 1.0)).max() > 1e-4


@pytest.mark.long
def test_guided_digits_are_read_as_their_label(few_examples, tmp_path):
    results = flow_matching.run(
        flow_matching.Config(
            seeds=1,
            epochs=15,
            train_size=2500,
            guidance=(0.0, 3.0),
            steps=8,
            samples=10,
            data_dir=few_examples(4000, 1000),
            output=tmp_path,
        )
    )
    read = {name: each["read"].item() for name, each in results.measures.items()}
    assert read["guidance 0"] < 0.3 < 0.6 < read["guidance 3"]
    assert read["real digits"] > 0.8
    assert results.losses[0, -1] < results.losses[0, 0]


def test_accelerations_solve_the_equations_of_lagrange():
    rng = np.random.default_rng(0)
    state = rng.normal(size=(20, 4))
    force = rng.normal(size=20)
    cart, turning = jax.device_get(jax.jit(accelerations)(state, force))
    angle, turn = state[:, 2], state[:, 3]
    # The derivatives of the momenta: of the whole along the track, and around the hinge.
    along = 1.1 * cart + 0.05 * (turning * np.cos(angle) - turn**2 * np.sin(angle))
    around = 0.5 * 4 / 3 * turning + cart * np.cos(angle)
    np.testing.assert_allclose(along, force, atol=1e-5)
    np.testing.assert_allclose(around, 9.8 * np.sin(angle), atol=1e-4)


def test_a_step_is_that_of_gym():
    """The first two steps to the right and to the left from rest, by the equations by hand."""
    step = jax.jit(advance)
    state, fallen = jax.device_get(step(np.zeros(4, np.float32), 1))
    push = 10 / 1.1
    turning = -push / (0.5 * (4 / 3 - 0.1 / 1.1))
    cart = push - 0.05 * turning / 1.1
    np.testing.assert_allclose(state, [0, 0.02 * cart, 0, 0.02 * turning], rtol=1e-6)
    again, _ = jax.device_get(step(state, 0))
    np.testing.assert_allclose(again[::2], 0.02 * state[1::2], rtol=1e-6)
    assert not fallen
    edges = np.float32([[2.41, 0, 0, 0], [-2.41, 0, 0, 0], [0, 0, 0.22, 0], [0, 0, 0.2, 0]])
    assert step(edges, np.zeros(4, int))[1].tolist() == [True, True, True, False]


def played(fallen, ended):
    fallen, ended = (jnp.array(a, bool)[:, None] for a in (fallen, ended))
    nothing = jnp.zeros(len(ended))
    return Played(nothing, nothing, nothing, nothing, fallen, ended)


def test_advantages_end_with_the_episode():
    values = np.float32([[1.0], [2.0], [3.0]])
    later = np.float32([[2.0], [5.0], [4.0]])
    run = jax.jit(ppo.generalized_advantages)
    advantage, target, _ = jax.device_get(run(values, later, played([0, 1, 0], [0, 1, 0])))
    last = 1 + 0.99 * 4 - 3  # the rollout ends, the episode does not
    second = 1 - 2  # fallen: nothing follows
    first = 1 + 0.99 * 2 - 1 + 0.99 * 0.95 * second
    np.testing.assert_allclose(advantage[:, 0], [first, second, last], rtol=1e-6)
    np.testing.assert_allclose(target, advantage + values, rtol=1e-6)
    limit, *_ = jax.device_get(run(values, later, played([0, 0, 0], [0, 1, 0])))
    assert np.isclose(limit[1, 0], 1 + 0.99 * 5 - 2)  # ended by the limit, not by a failure


def test_returns_are_those_of_the_first_episode():
    values = np.zeros((4, 1), np.float32)
    run = jax.jit(ppo.whole_returns)
    given = values, values, played([0, 0, 1, 0], [0, 0, 1, 0])
    found, total, weight = jax.device_get(run(*given))
    np.testing.assert_allclose(total[:3, 0], [1 + 0.99 + 0.99**2, 1.99, 1], rtol=1e-6)
    np.testing.assert_allclose(weight[:, 0], [4 / 3, 4 / 3, 4 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(found[:3].mean(), 0, atol=1e-5)
    np.testing.assert_allclose(found[:3].std(), 1, rtol=1e-4)


@pytest.mark.slow
def test_the_gain_is_clipped():
    """An action that is more likely than before by over 20% and good has no gradient."""

    def slopes(old, advantage):
        batch = {"advantage": jnp.array([advantage, 0.0]), "action": jnp.array([0, 0])}
        batch |= {"log_prob": jnp.log(jnp.array([old, 0.5])), "target": jnp.zeros(2)}

        def gain(logits):  # without the bonus for entropy, which is flat at equal logits
            return ppo.ppo(logits, jnp.zeros(2), batch).sum()

        return jax.grad(gain)(jnp.zeros((2, 2)))[0]

    assert jnp.abs(slopes(0.4, 1.0)).max() < 1e-6
    assert slopes(0.6, 1.0)[0] < -0.1  # less likely than before: made more likely
    assert slopes(0.4, -1.0)[0] > 0.1


@pytest.mark.slow
def test_each_method_learns_and_a_key_gives_one_result():
    for method in METHODS.values():
        learn = jax.jit(jax.vmap(learner(method, 12, 20)))
        keys = jax.random.split(jax.random.key(0), 2)
        returns = learn(keys)
        assert returns.shape == (2, 13)
        assert (returns[:, 0] < 60).all()
        assert returns[:, -4:].mean() > 2 * returns[:, 0].mean()
        assert returns.max() <= 500
        np.testing.assert_array_equal(returns, learn(keys))
