import numpy as np
import pytest

from experiments import invariance
from experiments.invariance import change, rotation, scale, shear


@pytest.mark.long
def test_the_smallest_and_the_largest_change_are_measured_with_and_without_augmentation(
    few_examples, tmp_path
):
    config = invariance.Config(
        steps=3, epochs=1, batch_size=32, seeds=2, data_dir=few_examples(500, 100), output=tmp_path
    )
    results = invariance.run(config)
    assert [name.split(",")[0] for name in results.accuracies] == ["rotation", "shear", "scale"]
    for panel in results.accuracies.values():
        assert list(panel) == ["without", "with"]
        for accuracies in panel.values():
            assert accuracies.shape == (2, 3) and (accuracies >= 0).all()
            assert 0.15 < accuracies[:, 1].mean() < 0.95  # upright
        upright, quarter = panel["without"][:, 1], panel["without"][:, 0]
        assert (quarter < upright).all()
    middles = [panel["without"][:, 1] for panel in results.accuracies.values()]
    np.testing.assert_array_equal(middles[0], middles[1])  # the identity in every panel
    np.testing.assert_array_equal(middles[0], middles[2])


@pytest.mark.slow
def test_changes_are_those_of_the_axes():
    """An ink spot to the right of the middle, and one above it."""
    x = np.zeros((1, 29, 29, 2), np.float32)
    x[0, 14, 22, 0] = x[0, 6, 14, 1] = 1

    def places(matrix):
        y = np.asarray(change(x, matrix))[0]
        return [tuple(np.argwhere(y[..., i] == y[..., i].max())[0] - 14) for i in (0, 1)]

    assert places(np.eye(2)) == [(0, 8), (-8, 0)]
    assert places(rotation(90)) == [(8, 0), (0, 8)]  # clockwise: right goes down, up goes right
    assert places(shear(45)) == [(0, 8), (-8, -8)]
    assert places(scale(-1.0)) == [(0, 4), (-4, 0)]
    assert places(scale(0.5)) == [(0, 11), (-11, 0)]  # 8 times the root of 2


@pytest.mark.slow
def test_all_images_are_changed():
    x = np.random.default_rng(0).uniform(size=(501, 5, 6, 1)).astype(np.float32)
    np.testing.assert_allclose(change(x, np.eye(2)), x, atol=1e-6)
