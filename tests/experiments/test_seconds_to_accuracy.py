import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")
pytest.importorskip("flax", reason="is compared with")
pytest.importorskip("torch", reason="is compared with")

from experiments import seconds_to_accuracy
from experiments.seconds_to_accuracy import Curve, rotated, said, table


def test_all_libraries_train_the_same_net_on_the_same_batches(few_examples, tmp_path, capsys):
    """Equal weights, order, optimizer and rates: accuracies agree up to rounding."""
    config = seconds_to_accuracy.Config(
        rounds=2, epochs=2, pieces=2, batch_size=32, target=0.4,
        data_dir=few_examples(600, 100), output=tmp_path,
    )  # fmt: skip
    curves = seconds_to_accuracy.run(config)
    assert [(curve.library, curve.round) for curve in curves] == [
        ("jaxnet", 0), ("Flax Linen", 0), ("PyTorch", 0),
        ("Flax Linen", 1), ("PyTorch", 1), ("jaxnet", 1),
    ]  # fmt: skip
    for curve in curves:
        same = next(c for c in curves if c.library == "jaxnet" and c.round == curve.round)
        np.testing.assert_allclose(curve.accuracies, same.accuracies, atol=0.021)
        assert (np.diff(curve.seconds) > 0).all() and curve.seconds[0] > 0
        assert 0.3 < curve.accuracies[-1] < 0.95
    assert not np.array_equal(curves[0].accuracies, curves[-1].accuracies)  # other weights
    assert (tmp_path / "seconds_to_accuracy.png").exists()
    printed = capsys.readouterr().out
    assert "round 1, PyTorch" in printed and "without, median" in printed


def test_seconds_until_an_accuracy():
    curve = Curve("ours", 0, np.array([1.0, 2.5, 4.0]), np.array([0.5, 0.9, 0.8]))
    assert curve.until(0.5) == 1.0
    assert curve.until(0.85) == 2.5
    assert np.isnan(curve.until(0.95))


def test_table_keeps_the_first_round_apart():
    def curve(round_, seconds, accuracy):
        return Curve("ours", round_, np.array([seconds]), np.array([accuracy]))

    curves = [curve(0, 9.0, 1.0), curve(1, 2.0, 1.0), curve(2, 4.0, 1.0), curve(3, 8.0, 0.6)]
    found = table(curves, seconds_to_accuracy.Config(epochs=2))
    row = ("ours", "9.0", "3.0 (2.0 to 4.0), 1 never", "2.0 (1.0 to 4.0)", "90.00%")
    assert tuple(found.rows[0]) == row


def test_words():
    assert said([]) == "never" == said([float("nan")])
    assert said([1.26]) == "1.3"
    assert said([1.0, 4.0, 2.0]) == "2.0 (1.0 to 4.0)"
    assert [rotated(["a", "b", "c"], by) for by in (0, 1, 5)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]
    ]  # fmt: skip


def test_wrong_options():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        seconds_to_accuracy.Config(rounds=0)
