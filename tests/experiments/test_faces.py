import numpy as np
import pytest

from experiments.faces import Config, nearest, run


def test_the_nearest_row_is_found():
    known = np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]])
    assert nearest(known, np.array([[2.0, 3.0], [8.0, 9.0], [-5.0, 0.0]])).tolist() == [1, 2, 0]


def test_without_faces_the_error_names_what_can_be_downloaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m jaxnet\.data\.prepare olivetti"):
        run(Config(data_dir=tmp_path))
