import jax
import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")

from experiments import byol


@pytest.mark.long
def test_methods_are_compared(few_examples, monkeypatch, tmp_path):
    monkeypatch.setattr(byol, "VALIDATION", 200)
    monkeypatch.setattr(byol, "EPOCHS", {10: (10,)})
    folder = few_examples(1800, 300)
    config = byol.Config(
        labels=(10,), epochs=2, seeds=1, train_size=1500, data_dir=folder, output=tmp_path
    )
    results = byol.run(config)
    assert list(results.accuracies) == list(byol.METHODS)
    assert all(0.15 < a[10].item() < 0.95 for a in results.accuracies.values())
    assert results.losses.shape == (1, 2) and results.losses[0, 1] < results.losses[0, 0] < 2.5
    assert [path.name for path in results.pictures] == ["byol.png"]


@pytest.mark.slow
def test_the_regression_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    x = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32)
    y = (x @ np.random.default_rng(1).normal(size=(5, 10))).argmax(-1)
    weights, bias = byol.regression(x, y, 1e-2)
    wanted = linear.LogisticRegression(C=1 / (2 * 1e-2 * 120), tol=1e-8, max_iter=1000).fit(x, y)
    found = np.asarray(jax.nn.softmax(x @ weights + bias))[:, wanted.classes_]
    np.testing.assert_allclose(found, wanted.predict_proba(x), atol=0.03)
