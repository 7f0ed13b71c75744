import pytest

from experiments import greedy


@pytest.mark.long
def test_methods_are_compared_on_few_and_all_labels(few_examples, monkeypatch, tmp_path):
    monkeypatch.setattr(greedy, "VALIDATION", 300)
    monkeypatch.setattr(greedy, "EPOCHS", {10: 30, greedy.ALL: 2})
    config = greedy.Config(
        labels=(10, greedy.ALL), methods=("none", "k-means", "random data vectors"),
        features=(20,), unlabeled=400, seeds=2, data_dir=few_examples(1500, 300), output=tmp_path,
    )  # fmt: skip
    results = greedy.run(config)
    for found in results.accuracies.values():
        assert {n: a.shape for n, a in found.items()} == {10: (2,), greedy.ALL: (2,)}
        assert all(0.2 < a.mean() < 0.9 for a in found.values())
    assert results.accuracies["k-means"][10].std() > 0  # each seed has its own labels
