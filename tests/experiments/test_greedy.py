import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")

from experiments import greedy


@pytest.fixture
def few(few_examples, monkeypatch):
    monkeypatch.setattr(greedy, "VALIDATION", 300)
    monkeypatch.setattr(greedy, "EPOCHS", {10: 30, greedy.ALL: 2})
    return few_examples(1500, 300)


@pytest.mark.long
def test_methods_are_compared_on_few_and_all_labels(few, tmp_path, capsys):
    config = greedy.Config(
        labels=(10, greedy.ALL), methods=("none", "k-means", "random data vectors"),
        features=(20,), unlabeled=400, seeds=2, data_dir=few, output=tmp_path,
    )  # fmt: skip
    results = greedy.run(config)
    for found in results.accuracies.values():
        assert {n: a.shape for n, a in found.items()} == {10: (2,), greedy.ALL: (2,)}
        assert all(0.2 < a.mean() < 0.9 for a in found.values())
    assert results.accuracies["k-means"][10].std() > 0  # each seed has its own labels
    assert [path.name for path in results.pictures] == ["greedy.png"]
    assert results.pictures[0].exists() and "k-means" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ("magic",)}, "methods must be one of none, .*got 'magic'"),
        ({"labels": (7,)}, "labels must be one of 10, 30, 100, 0, got 7"),
    ],
)
def test_a_wrong_choice(options, words):
    with pytest.raises(ValueError, match=words):
        greedy.Config(**options)
