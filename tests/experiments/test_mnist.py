from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments import mnist


@pytest.fixture
def few(few_examples):
    return few_examples(1000, 200)


@pytest.mark.long
def test_lenet5_learns_in_an_epoch_and_is_drawn(few, tmp_path):
    config = mnist.Config(
        model="lenet5", epochs=1, batch_size=20, train_size=800, data_dir=few, output=tmp_path
    )
    results = mnist.run(config)
    assert 0.3 < results.accuracies[0] < 0.97


@pytest.mark.slow
def test_augment_hands_over_changed_images(few, monkeypatch, tmp_path):
    seen: list[Any] = []
    monkeypatch.setattr(mnist, "classify", lambda recipe, *_: seen.append(recipe.augment))
    for augment in (False, True):
        mnist.run(mnist.Config(augment=augment, data_dir=few, output=tmp_path))
    assert seen[0] is None
    x = jnp.zeros((50, 28, 28, 1)).at[:, 9:19, 13:15].set(1.0)
    y = jax.jit(seen[1])(jax.random.key(0), x)[..., 0]
    assert y.shape == (50, 28, 28)
    heights = (y.max(2) > 0.3).sum(
        1
    )  # of a stroke of 10: 9 to 11 pixels, rotated and deformed a little
    assert 7 <= heights.min() < heights.max() <= 14
    firsts = (y.max(2) > 0.3).argmax(1)
    assert 5 <= firsts.min() <= 7 and 11 <= firsts.max() <= 13  # shifted by up to 2
