import numpy as np

from experiments import feeding


def test_slices_are_drawn_again_for_each_pass():
    rows = np.arange(10), np.arange(10) * 2
    slices = feeding.Slices(rows, 5, seed=0)
    first, second = (np.concatenate([a for a, _ in slices]) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10)) and (first != second).any()
    assert all((b == 2 * a).all() for a, b in slices)


def test_an_example_of_tfds_is_scaled():
    image, label = feeding.scaled({"image": np.full((2, 2), 51, np.uint8), "label": 3})
    np.testing.assert_allclose(image, 0.2, rtol=1e-6)
    assert label.dtype == np.int32
