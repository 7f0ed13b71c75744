import pytest

from experiments import features


@pytest.mark.long
def test_a_tiny_run(few_examples, tmp_path):
    data_dir = few_examples(300, 300)
    results = features.run(
        features.Config(
            features=36, train_size=250, test_size=200, epochs=100, seeds=1, centers=(10, 50),
            data_dir=data_dir, output=tmp_path,
        )
    )  # fmt: skip
    assert [name.split(",")[0] for name in results.accuracies] == [
        "pixels", "random weights", "PCA whitening", "random digits", "k-means", "k-means",
        "sparse coding", "sparse coding", "sparse coding",
    ]  # fmt: skip
    for accuracies in results.accuracies.values():
        assert accuracies.shape == (1,) and 0.3 < accuracies[0] < 0.95
    for accuracies in results.rbf.values():
        assert accuracies.shape == (2, 1)
        assert 0.5 < accuracies[0, 0] < accuracies[1, 0] < 0.99
