import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")

from experiments import mnist


@pytest.fixture
def few(few_examples):
    return few_examples(2000, 500)


@pytest.mark.parametrize(
    ("model", "low", "high"), [("softmax", 0.6, 0.95), ("mlp", 0.7, 0.96), ("lenet5", 0.3, 0.97)]
)
def test_each_model_learns_in_an_epoch_and_is_drawn(model, low, high, few, tmp_path):
    config = mnist.Config(model=model, epochs=1, batch_size=32, data_dir=few, output=tmp_path)
    results = mnist.run(config)
    assert low < results.accuracies[0] < high
    assert {path.name for path in results.pictures} == {
        "confusion.png", "curves.png", "filters.png", "mistakes.png"
    }  # fmt: skip


def test_train_size(few, tmp_path, capsys):
    config = mnist.Config(model="softmax", epochs=1, train_size=100, data_dir=few, output=tmp_path)
    mnist.run(config)
    assert "100 images to train on, 500 to test with" in capsys.readouterr().out


def test_a_wrong_model():
    with pytest.raises(ValueError, match="model is one of softmax, mlp, lenet5, got 'conv'"):
        mnist.Config(model="conv")  # type: ignore[arg-type]
