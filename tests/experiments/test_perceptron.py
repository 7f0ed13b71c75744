import numpy as np
import pytest

from experiments import perceptron


@pytest.mark.long
def test_learns_reports_and_draws(tmp_path):
    from PIL import Image

    config = perceptron.Config(points=16, passes=20, seeds=1, pairs=2, output=tmp_path)
    results = perceptron.run(config)
    assert 1 <= results.mistakes <= results.bound < 1000
    assert results.xor == {
        "no map": False, "polynomial": True, "RBF": True, "random Fourier": True
    }  # fmt: skip
    assert results.pairs.all() and (results.pair_accuracies > 0.95).all()
    assert 0.8 < results.digits["no map"][0] < 0.97 < results.digits["random Fourier"][0] < 0.995
    with Image.open(tmp_path / "line.gif") as film:
        assert film.n_frames == results.mistakes + 1


def test_points_lie_on_both_sides_of_the_line_and_off_it():
    x, y, line = perceptron.line_data(200)
    z = (x @ line["kernel"] + line["bias"])[:, 0]
    assert ((z > 0) == y).all() and np.abs(z).min() > 0.07 and 0.2 < y.mean() < 0.8


def test_clouds_are_xor():
    x, y = perceptron.xor_data(400)
    right, up = (x > 0).T
    assert ((right != up) == y).mean() > 0.99 and y.mean() == 0.5
