import numpy as np
import pytest

from experiments.recommender import Ratings, error, listed, means, recommended

NAN = np.nan


def test_means_of_joke_and_person_by_hand():
    """Person 0 is 1 above the means of the jokes, person 1 is 1 below."""
    test = Ratings(np.array([[0, 1], [1, 0]]), np.float32([[2], [3]]))
    found = means(listed(np.float32([[5, 1], [3, -1]])), test, people=2, jokes=2)
    assert found["mean of all"].tolist() == [2, 2]
    assert found["mean of the joke"].tolist() == [0, 4]
    assert found["mean of the person"].tolist() == [3, 1]
    assert found["joke + person"].tolist() == [1, 3]
    assert error(found["joke + person"], test) == pytest.approx(np.sqrt(1 / 2))


def test_the_best_predicted_of_each_person_are_recommended():
    test = listed(np.float32([[5, NAN, 1, -2, 4], [NAN, 7, NAN, 8, NAN], [1, 2, 3, 4, NAN]]))
    predicted = np.arange(len(test.values))  # the last ones of each person
    # The second person has too few ratings to choose two of them.
    assert recommended(predicted, test, top=2) == pytest.approx(((-2 + 4) / 2 + (3 + 4) / 2) / 2)
