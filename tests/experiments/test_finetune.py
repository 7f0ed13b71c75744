import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from experiments import finetune


@pytest.mark.long
def test_methods_are_compared(few_examples, monkeypatch, tmp_path):
    monkeypatch.setattr(finetune, "EPOCHS", {10: 10})
    monkeypatch.setattr(finetune, "VALIDATION", 200)
    monkeypatch.setattr(finetune, "RATES", (3e-3,))
    names = ("trunk frozen", "convolutions frozen", "trunk at a tenth of the rate")
    monkeypatch.setattr(finetune, "METHODS", {name: finetune.METHODS[name] for name in names})
    folder = few_examples(1800, 300)
    config = finetune.Config(
        labels=(10,), pretrain_epochs=1, seeds=2, data_dir=folder, output=tmp_path
    )
    results = finetune.run(config)
    assert 0.5 < results.before < 1
    assert all(a[10].shape == (2,) for a in results.accuracies.values())
    frozen, convs, slower = (results.accuracies[name][10].mean() for name in names)
    assert 0.25 < frozen < convs < 0.95 and 0.4 < slower < 0.95
    moved = [results.moved[name] for name in names]
    assert moved[0] == {"c1": 0, "f6": 0} and moved[1]["c1"] == 0  # bit by bit
    assert 1e-3 < moved[1]["f6"] < 0.5 and 1e-3 < moved[2]["c1"] < 0.1


@pytest.mark.slow
def test_the_trunk_comes_from_the_trained_net():
    net = jn.models.lenet5(classes=5)
    data = np.zeros((1, 28, 28, 1), np.float32), np.zeros(1, np.int32)
    trained = jn.trainer(finetune.classifier(net), optax.sgd(0.1)).init(jax.random.key(7), data)
    new = finetune.with_head(net, frozen=True)
    params = finetune.begin(new, trained, seed=1)
    assert set(params) == {"lenet5", "head"} and set(params["lenet5"]) == {"c1", "c3", "c5", "f6"}
    for name, entry in params["lenet5"].items():
        assert entry["kernel"] is trained.params[name]["kernel"]
    other = finetune.begin(new, None, seed=1)
    assert finetune.change(params, other) > 0.01
    assert bool((params["head"]["kernel"] == other["head"]["kernel"]).all())


def test_parts_and_rates():
    params = {
        "lenet5": {name: {"kernel": jnp.ones(2)} for name in ("c1", "f6")},
        "head": {"bias": jnp.ones(2)},
    }
    assert finetune.parts(params) == {
        "lenet5": {"c1": {"kernel": "convolutions"}, "f6": {"kernel": "dense"}},
        "head": {"bias": "head"},
    }
    optimizer = finetune.slower_trunk(0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["lenet5"]["c1"]["kernel"], -0.01, rtol=1e-4)
    np.testing.assert_allclose(updates["lenet5"]["f6"]["kernel"], -0.01, rtol=1e-4)
    np.testing.assert_allclose(updates["head"]["bias"], -0.1, rtol=1e-4)
    optimizer = finetune.frozen_convolutions(0.1)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert not updates["lenet5"]["c1"]["kernel"].any()
    np.testing.assert_allclose(updates["lenet5"]["f6"]["kernel"], -0.1, rtol=1e-4)
