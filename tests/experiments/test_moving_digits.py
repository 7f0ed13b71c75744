import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import moving_digits as md

KEYS_MAY_REPEAT = True


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
    assert 8 - 1.5 < length.min() and length.max() < 14 + 1.5


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
    config = md.Config(
        nets=("stack",), train_size=300, test_size=100, epochs=4, seeds=1, validation=True,
        data_dir=few_examples(400, 1), output=tmp_path,
    )  # fmt: skip
    results = md.run(config)
    found = results.accuracies["stack"]
    assert 0.3 < found["direction"][0] <= 1  # chance is 0.125
    assert found["both"][0] <= min(found["direction"][0], found["digit"][0])


@pytest.mark.long
def test_a_net_over_videos_is_drawn(few_examples, tmp_path):
    config = md.Config(
        nets=("video",), train_size=32, test_size=16, epochs=1, seeds=1,
        data_dir=few_examples(64, 32), output=tmp_path,
    )  # fmt: skip
    results = md.run(config)
    assert results.accuracies["video"]["direction"].shape == (1,)
    assert {path.name for path in results.pictures} == {"videos.png", "filters.png"}
