"""Options, optimizers and pictures of digits, MNIST and CIFAR-10."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments.classify import Recipe, Training, classify, make_optimizer
from tests.helpers import refused

SOFTMAX = Recipe(jn.models.mlp([4], name="softmax"), first="output", rate=10)
UPDATES = {  # the first two updates for gradients 2 and 1 and a rate that stays 0.1, by hand
    "sgd": [-0.2, -0.1],
    "momentum": [-0.2, -0.1 * (1 + 0.9 * 2)],
    "nesterov": [-0.1 * (2 + 0.9 * 2), -0.1 * (1 + 0.9 * 2.8)],
    "adagrad": [-0.1 * 2 / 4.1**0.5, -0.1 / 5.1**0.5],  # optax starts the sum of squares at 0.1
    "rmsprop": [-0.1 * 2 / 0.4**0.5, -0.1 / (0.9 * 0.4 + 0.1) ** 0.5],
    "adam": [-0.1, -0.1 * (0.28 / 0.19) / (0.004996 / 0.001999) ** 0.5],
}


def updates(optimizer, gradients):
    """Those of a number that starts at 0."""
    state, given = optimizer.init(jnp.zeros(())), []
    for gradient in gradients:
        update, state = optimizer.update(jnp.float32(gradient), state, jnp.zeros(()))
        given.append(float(update))
    return given


@pytest.mark.parametrize("name", UPDATES)
def test_each_name_is_its_rule(name):
    optimizer = make_optimizer(Training(optimizer=name, learning_rate=0.1), steps=10**9)
    np.testing.assert_allclose(updates(optimizer, (2.0, 1.0)), UPDATES[name], rtol=1e-4)


def test_the_rate_falls_to_0_over_the_steps():
    optimizer = make_optimizer(Training(optimizer="sgd", learning_rate=0.4), steps=10)
    given = updates(optimizer, [1.0] * 11)
    assert given[0] == pytest.approx(-0.4)
    assert given[5] == pytest.approx(-0.2)
    assert given[10] == pytest.approx(0, abs=1e-7)


@refused([
    ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
    ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
    ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
    ({"epochs": 7, "clean_epochs": 8}, r"clean_epochs must be in \[0, 7\], the epochs, got 8"),
    ({"clean_epochs": -1}, "clean_epochs must be in"),
    ({"warmup": 1.0}, r"warmup must be in \[0, 1\), got 1.0"),
    ({"weight_decay": -1.0}, "weight_decay must not be negative, got -1.0"),
])  # fmt: skip
def test_wrong_options(wrong):
    Training(**wrong)


def test_a_recipe_scales_the_usual_rate_and_no_given_one():
    def rate(**options):
        optimizer = make_optimizer(Training(optimizer="sgd", **options), steps=5, scale=3.0)
        return -updates(optimizer, [1.0])[0]

    assert rate() == pytest.approx(0.3)
    assert rate(learning_rate=0.7) == pytest.approx(0.7)


@pytest.mark.slow
def test_the_last_epochs_see_images_as_they_are(tmp_path):
    blank = SOFTMAX._replace(augment=lambda key, x: 0 * x)  # nothing can be learned from these
    options = Training(epochs=8, clean_epochs=5, batch_size=16, optimizer="sgd", output=tmp_path)
    found = classify(blank, shapes(), shapes(30, 1), options).history["loss"]["train"]
    assert found.shape == (8,)
    assert found[:3].min() > 1.3 > 0.9 > found[4:].max() > 0.05
    with_none = Training(epochs=1, clean_epochs=1, optimizer="sgd", output=tmp_path)
    assert classify(blank, shapes(), shapes(30, 1), with_none).accuracies[0] > 0.3


@pytest.mark.slow
def test_pictures_name_the_classes(monkeypatch, tmp_path):
    seen = {}

    def keep(figure, path, **_):
        seen.setdefault(path.stem, figure)

    monkeypatch.setattr(jn.viz, "save", keep)
    recipe = SOFTMAX._replace(names=["oak", "elm", "ash", "fir"])
    x, y = shapes(30, 1)
    options = Training(epochs=12, batch_size=16, optimizer="sgd", output=tmp_path)
    classify(recipe, shapes(), (x, (y + 1) % 4), options)
    axes = seen["confusion"].axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["oak", "elm", "ash", "fir"]
    titles = [axes.get_title() for axes in seen["mistakes"].axes]
    assert len(titles) == 30  # every class is called by the next one's name
    assert set(titles) <= {
        "elm, predicted oak", "ash, predicted elm", "fir, predicted ash", "oak, predicted fir"
    }  # fmt: skip


def shapes(n=60, seed=0):
    """Images that a linear model tells apart: the bright quarter is the class."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 4, n).astype(np.int32)
    x = random.uniform(0, 0.3, (n, 4, 4, 1)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        row, column = divmod(int(label), 2)
        image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 0.6
    return x, y


@pytest.mark.slow
def test_learns_and_draws(tmp_path):
    (tmp_path / "mistakes.png").write_text("of an earlier run, to be removed")
    options = Training(epochs=12, batch_size=16, seeds=2, optimizer="sgd", output=tmp_path)
    results = classify(SOFTMAX, shapes(), shapes(30, 1), options)
    assert (results.accuracies == 1).all()  # a linear model tells them apart
    loss = results.history["loss"]["evaluation"][:, -1].mean()
    assert 0.02 < loss < 0.6  # and is not certain yet
    assert results.history["accuracy"]["train"].shape == (2, 12)
    names = {path.stem for path in results.pictures if path.suffix == ".png"}
    assert names == {"curves", "confusion", "filters"}
    assert len(results.pictures) == 3
    assert all(path.exists() for path in results.pictures)
    assert not (tmp_path / "mistakes.png").exists()


@pytest.mark.slow
def test_seeds_differ_and_a_seed_repeats(tmp_path):
    def losses(seed, seeds):
        options = Training(epochs=1, seed=seed, seeds=seeds, optimizer="sgd", output=tmp_path)
        results = classify(SOFTMAX, shapes(), shapes(30, 1), options)
        return np.ravel(results.history["loss"]["train"])

    two = losses(3, 2)
    assert two[0] != two[1]
    np.testing.assert_allclose(losses(4, 1), two[1:], rtol=1e-6)


@pytest.mark.slow
def test_validation_leaves_the_test_part_alone(tmp_path, capsys):
    options = Training(epochs=1, validation=True, output=tmp_path)
    nan = np.full((30, 4, 4, 1), np.nan, np.float32), np.zeros(30, np.int32)
    classify(SOFTMAX, shapes(), nan, options)  # fit refuses NaN where it sees it
    assert re.search(r"\b4\d images to train on, 1\d to test with", capsys.readouterr().out)
