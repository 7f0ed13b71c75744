import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")

from experiments import greedy

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def few(few_examples, monkeypatch):
    monkeypatch.setattr(greedy, "VALIDATION", 300)
    monkeypatch.setattr(greedy, "EPOCHS", {10: 30, greedy.ALL: 2})
    return few_examples(1500, 300)


@pytest.mark.slow
def test_methods_are_compared_on_few_and_all_labels(few, tmp_path, capsys):
    config = greedy.Config(
        labels=(10, greedy.ALL), methods=("none", "k-means", "random data vectors"),
        features=(20,), unlabelled=400, seeds=2, data_dir=few, output=tmp_path,
    )  # fmt: skip
    results = greedy.run(config)
    for found in results.accuracies.values():
        assert {n: a.shape for n, a in found.items()} == {10: (2,), greedy.ALL: (2,)}
        assert all(0.2 < a.mean() < 0.9 for a in found.values())
    assert results.accuracies["k-means"][10].std() > 0  # each seed has labels of its own
    assert [path.name for path in results.pictures] == ["greedy.png"]
    assert results.pictures[0].exists() and "k-means" in capsys.readouterr().out


def test_few_draws_as_many_of_each_class():
    import numpy as np

    y = np.random.default_rng(0).integers(0, 10, 500)
    chosen = greedy.few((y, y), 10, seed=1)
    assert len(set(chosen)) == 100 and (np.bincount(y[chosen]) == 10).all()
    assert (chosen != greedy.few((y, y), 10, seed=2)).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"methods": ("magic",)}, "methods are of none, .*got 'magic'"), ({"labels": (7,)}, "got 7")],
)
def test_a_wrong_choice(options, words):
    with pytest.raises(ValueError, match=words):
        greedy.Config(**options)
