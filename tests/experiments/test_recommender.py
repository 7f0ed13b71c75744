import numpy as np
import pytest

import jaxnet as jn
from experiments.recommender import Ratings, error, listed, load, means, recommended

NAN = np.nan


def test_means_of_item_and_person_by_hand():
    """Person 0 is 1 above the means of the items, person 1 is 1 below."""
    test = Ratings(np.array([[0, 1], [1, 0]]), np.float32([[2], [3]]))
    found = means(listed(np.float32([[5, 1], [3, -1]])), test, people=2, items=2)
    assert found["mean of all"].tolist() == [2, 2]
    assert found["mean of the item"].tolist() == [0, 4]
    assert found["mean of the person"].tolist() == [3, 1]
    assert found["item + person"].tolist() == [1, 3]
    assert error(found["item + person"], test) == pytest.approx(np.sqrt(1 / 2))


def test_the_best_predicted_of_each_person_are_recommended():
    test = listed(np.float32([[5, NAN, 1, -2, 4], [NAN, 7, NAN, 8, NAN], [1, 2, 3, 4, NAN]]))
    predicted = np.arange(len(test.values))  # the last ones of each person
    # The second person has too few ratings to choose two of them.
    assert recommended(predicted, test, top=2) == pytest.approx(((-2 + 4) / 2 + (3 + 4) / 2) / 2)


def test_stars_of_movies_if_there_are_no_jokes(monkeypatch, capsys):
    """One to five stars become -10 to 10."""

    def stars(name, split, **options):
        if name == "jester":
            raise FileNotFoundError("jester is not here")
        return {
            "ratings": np.float32([[1, NAN, 5], [3, NAN, 4]]),
            "held_out": np.float32([[NAN, 2, NAN], [NAN, NAN, NAN]]),
        }

    monkeypatch.setattr(jn.data.tfds, "load", stars)
    train, test, sizes = load(None)
    assert sizes == (2, 3)
    assert train.pairs.tolist() == [[0, 0], [0, 2], [1, 0], [1, 2]]
    assert train.values[:, 0].tolist() == [-10, 10, 0, 5]
    assert test.values.tolist() == [[-5]]
    assert "movielens_100k:" in capsys.readouterr().out


def test_without_ratings_the_error_names_what_can_be_downloaded(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m jaxnet\.data\.prepare movielens_100k"):
        load(tmp_path)
