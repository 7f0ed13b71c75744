import pytest

from experiments import sweep


@pytest.mark.long
def test_the_three_ways_agree():
    results = sweep.run(sweep.Config(features=8, epochs=1, seeds=2, rates=(1e-3, 1e-2)))
    assert set(results.seconds) == {
        "jn.sweep", "one after another, one trainer for all",
        "one after another, each with its own trainer",
    }  # fmt: skip
    assert results.apart.shape == (2,) and (results.apart < 1e-4).all()
    assert "learning_rate" in results.table
