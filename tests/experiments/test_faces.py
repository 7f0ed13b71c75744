import numpy as np

from experiments.faces import nearest


def test_the_nearest_row_is_found():
    known = np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
    assert nearest(known, np.array([[2.0, 3.0], [8.0, 9.0], [-5.0, 0.0]])).tolist() == [1, 2, 0]
