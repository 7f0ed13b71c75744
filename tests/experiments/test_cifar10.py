import csv
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import cifar10
from experiments.classify import make_optimizer


@pytest.mark.long
def test_curves_are_written_after_each_epoch_and_pictures_at_the_end(
    few_examples, monkeypatch, tmp_path
):
    fit, lines = jn.fit, []

    def watched(*args, **options):
        for epoch in fit(*args, **options):
            yield epoch
            lines.append((tmp_path / "fast/curves_0.csv").read_text().splitlines())

    monkeypatch.setattr(jn, "fit", watched)
    config = cifar10.Config(
        epochs=2, batch_size=25, cutout=4, data_dir=few_examples(200, 50), output=tmp_path
    )
    results = cifar10.run(config)
    assert [len(written) for written in lines] == [2, 3]  # the head and the epochs so far
    assert lines[0] == lines[1][:2]
    first, last = results.history["loss"]["train"]  # 16 steps: too few to generalize
    assert 1 < last < 0.99 * first < 30
    rows = list(csv.DictReader(lines[1]))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        part, metric = name.replace("test", "evaluation").split("_")
        np.testing.assert_allclose(
            [float(row[name]) for row in rows], results.history[metric][part], atol=1e-6
        )
    assert 0 < float(rows[0]["s"]) < float(rows[1]["s"])


@pytest.mark.slow
def test_the_fast_net_is_small_and_costs_a_third_of_resnet20():
    x = jn.spec((1, 32, 32, 3))

    def cost(net):
        params, state = jax.eval_shape(net.init, jax.random.key(0), x)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        return size, jn.inspect.flops(lambda p, s, x: net.apply(p, s, x)[0], params, state, x)

    size, flops = cost(cifar10.fast_net())
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256)
    assert size == convolutions + 2 * (32 + 64 + 128 + 256) + 256 * 10 + 10
    assert 0.3 < flops / cost(jn.models.cifar_resnet(20))[1] < 0.4


@pytest.mark.slow
def test_the_rate_rises_for_a_fifth_and_falls_and_kernels_alone_decay():
    config = cifar10.Config(learning_rate=0.5, weight_decay=0.01)
    optimizer = make_optimizer(config, steps=100)
    params: Any = {"kernel": jnp.ones(()), "bias": jnp.ones(())}
    update: Any
    state = optimizer.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    update, _ = optimizer.update(zero, state, params)
    # The first step has a tenth of the rate; Nesterov's momentum adds 0.9 of it.
    assert float(update["kernel"]) == pytest.approx(-0.05 * 0.01 * 1.9)
    assert float(update["bias"]) == 0
    sizes = []
    for _ in range(100):
        update, state = optimizer.update(zero, state, params)
        sizes.append(-float(update["kernel"]))
    assert 15 < int(np.argmax(sizes)) < 35 and sizes[-1] < 0.01 * max(sizes)
