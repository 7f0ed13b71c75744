import numpy as np

from experiments.faces import halved, nearest


def test_a_pixel_is_the_mean_of_four():
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    assert halved(x)[0, ..., 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_the_nearest_row_is_found():
    known = np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
    assert nearest(known, np.array([[2.0, 3.0], [8.0, 9.0], [-5.0, 0.0]])).tolist() == [1, 2, 0]
