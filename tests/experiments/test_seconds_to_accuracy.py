import itertools

import numpy as np
import pytest

pytest.importorskip("flax", reason="is compared with")
pytest.importorskip("torch", reason="is compared with")

from experiments import seconds_to_accuracy
from experiments.benchmarks.whole_run import Task, changed
from experiments.seconds_to_accuracy import Curve, rotated, said, table


@pytest.mark.long
@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_all_libraries_train_the_same_net_on_the_same_batches(
    data, few_examples, tmp_path, monkeypatch
):
    """Equal weights, order, optimizer and rates: accuracies agree up to rounding."""
    if data == "cifar10":  # at its own rate, 18 steps on photos amplify the rounding
        task = seconds_to_accuracy.Config.task

        def low(*given):
            return task(*given)._replace(rate=0.002)

        monkeypatch.setattr(seconds_to_accuracy.Config, "task", low)
    config = seconds_to_accuracy.Config(
        data=data,
        rounds=1,
        epochs={"mnist": 2, "cifar10": 1}[data],
        pieces=2,
        batch_size=32,
        target=0.1,
        data_dir=few_examples(600, 200),
        output=tmp_path,
    )
    curves = seconds_to_accuracy.run(config)
    assert [curve.library for curve in curves] == ["jaxnet", "Flax Linen", "PyTorch"]
    for curve in curves:
        np.testing.assert_allclose(curve.accuracies, curves[0].accuracies, atol=0.021)
        assert (np.diff([0, curve.ready, *curve.seconds]) > 0).all()
        assert 0.05 < max(curve.accuracies) < 0.95


def test_seconds_until_an_accuracy():
    curve = Curve("ours", 0.5, [1.0, 2.5, 4.0], [0.5, 0.9, 0.8])
    assert curve.until(0.5) == 1.0
    assert curve.until(0.85) == 2.5
    assert np.isnan(curve.until(0.95))


def test_table_compares_whole_runs():
    curves = [Curve("PyTorch", 1.0, [9.0], [0.6]), Curve("jaxnet", 1.0, [2.0], [1.0]),
              Curve("jaxnet", 3.0, [4.0], [0.4]), Curve("jaxnet", 2.0, [3.0], [1.0])]  # fmt: skip
    ours, torch = table(curves, 0.5).rows
    assert tuple(ours) == (
        "jaxnet", "2.0 (1.0 to 3.0)", "2.5 (2.0 to 3.0), 1 never", "3.0 (2.0 to 4.0)", "1.00",
        "80.00%",
    )  # fmt: skip
    assert tuple(torch) == ("PyTorch", "1.0", "9.0", "9.0", "3.00", "60.00%")


def test_photos_are_flipped_and_shifted():
    x = np.arange(1.0, 4 * 6 * 5 * 3 + 1).reshape(4, 6, 5, 3)
    x = np.concatenate([x] * 50)
    y = changed(x, np.random.default_rng(0), 1)
    assert y.shape == x.shape
    assert not np.array_equal(y, x)
    found = set()
    for a, b in zip(x, y, strict=True):
        padded = np.pad(a, ((1, 1), (1, 1), (0, 0)))
        for flip, i, j in itertools.product((False, True), range(3), range(3)):
            cut = padded[i : i + 6, j : j + 5]
            if np.array_equal(cut[:, ::-1] if flip else cut, b):
                found.add((flip, i, j))
    assert len(found) == 18


def test_rates():
    task = Task("", False, 2, 3, 10, 0.5, 0)
    assert task.sizes(100) == (30, 18)
    rates = task.rates(100)
    assert rates[0] == 0.5
    assert rates[50] == pytest.approx(0.25)
    assert rates[-1] < 1e-3
    rates = task._replace(photos=True).rates(100)
    assert rates[0] == 0
    assert rates.argmax() == 20
    assert rates[20] == 0.5
    assert rates[-1] < 0.01


def test_words():
    assert said([]) == "never" == said([float("nan")])
    assert said([1.26]) == "1.3"
    assert said([1.0, 4.0, 2.0]) == "2.0 (1.0 to 4.0)"
    assert [rotated(["a", "b", "c"], by) for by in (0, 1, 5)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]
    ]  # fmt: skip
