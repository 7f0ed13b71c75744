"""Freezing and fine-tuning: LeNet-5 trained on the digits 0 to 4, then on 5 to 9 with few labels.

Claim: features learned on other classes help if labels are few.

A trunk with a new head, of which only the head is trained:

    trunk = jn.freeze(jn.tap(net, "f6"))
    new = jn.serial(trunk, jax.nn.relu, jn.dense(5, name="head"))
    params, state = new.init(key, x)
    params["lenet5"] = {name: trained[name] for name in params["lenet5"]}

`freeze` stops gradients. Other changes of params, such as weight decay, are stopped by a mask
(`head` gives a tree of booleans), and subtrees get learning rates of their own, or none, by name:

    optax.masked(optax.adamw(rate), head)
    optax.multi_transform({"trunk": optax.adam(rate / 10), "head": optax.adam(rate)}, parts)

Frozen parameters do not change by a single bit. For each method, we take the learning rate, 0.001
or 0.003, with the higher accuracy on 2,000 other labeled digits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.common import (
    Output,
    Seeds,
    Short,
    TrainSize,
    labels_figure,
    labels_table,
    main,
    mean_std,
    over_seeds,
    per_class,
    run_epochs,
    save,
)
from experiments.records import Command, Picture, Record, higher
from jaxnet.typing import Pair

WHAT = "accuracy on the test digits 5 to 9"  # of tables and figures

RECORDS = (
    Record(
        topic="transfer",
        title="Reused convolutions help when labels are scarce",
        verdict="Supported",
        sentence=(
            "LeNet-5 was trained on the digits 0 to 4, and then got a new head for the digits 5 to "
            "9. Keeping its convolutions fixed raises the accuracy with 10 labels per class from "
            "85.06% to 90.69%. Freezing the whole trunk, which is every layer below the head, "
            "lowers it to 76.56%, so its last features are specific to the old classes."
        ),
        columns=("method", *higher("10 labels per class (accuracy, %)", "30 labels", "100 labels")),
        rows=(
            ("from scratch", "85.06 ± 3.27", "91.71 ± 0.90", "95.87 ± 0.56"),
            ("random trunk, frozen", "62.70 ± 3.75", "72.08 ± 2.72", "77.47 ± 1.76"),
            ("whole trunk frozen", "76.56 ± 3.20", "84.32 ± 1.28", "89.01 ± 0.58"),
            ("convolutions frozen", "90.69 ± 1.56", "94.71 ± 0.76", "96.86 ± 0.11"),
            ("trunk at a tenth of the rate", "88.11 ± 2.11", "93.58 ± 0.97", "96.34 ± 0.19"),
            ("all fine-tuned", "89.76 ± 2.46", "94.49 ± 0.70", "97.05 ± 0.12"),
        ),
        commands=(Command("", 137, "137 s of CPU, all methods"),),
        caveat="All runs that reuse layers start from the same trunk.",
        seeds=5,
        key="90.69 ± 1.56%, from scratch 85.06 ± 3.27%",
        baseline="from scratch",
        note=(
            "Accuracy is on the test digits of the new classes.\n"
            "Seeds draw labels, weights and order. All runs that reuse layers start from the same "
            "trunk, which classifies 99.81% of the old classes' test digits correctly.\n"
            "For each method we chose the learning rate, 0.001 or 0.003, in the same way on 2,000 "
            "other labeled digits."
        ),
        pictures=(
            Picture(
                "finetune_accuracy.png", "Accuracy against labels per class, one line per method"
            ),
        ),
        lesson=7,
    ),
)

# Passes over the labeled digits: the fewer they are, the more passes.
EPOCHS = {10: 60, 30: 40, 100: 30}
RATES = (1e-3, 3e-3)
VALIDATION = 2000  # training digits of the new classes that choose the learning rate
SLOWER = 0.1  # factor of the trunk's learning rate, if it has its own
TRUNK = "f6"  # the last layer that is reused


@dataclass(frozen=True)
class Config(TrainSize, Seeds, Output):
    """Compares ways to use a trained network for new classes."""

    output: Path = Path("runs/finetune")
    seeds: int = 5
    labels: tuple[Literal[10, 30, 100], ...] = (10, 30, 100)
    """labeled digits per new class"""
    pretrain_epochs: int = 3
    """passes over the digits 0 to 4"""


class Results(NamedTuple):
    """Results of the experiment.

    Fields:
      before: Accuracy on the old classes.
      accuracies: Accuracies on the test digits of the new classes, method -> labels per class ->
        (seeds,).
      moved: Largest change of a parameter with most labels, method -> layer -> change.
      pictures: Files written.
    """

    before: float
    accuracies: dict[str, dict[int, np.ndarray]]
    moved: dict[str, dict[str, float]]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Train on the old classes, then by each method on few labels of the new classes."""
    (x, y), test = jn.data.mnist(data_dir=config.data_dir)
    train = x[: config.train_size], y[: config.train_size]
    old = jn.models.lenet5(classes=5)
    trained, before = learn_old(old, of_classes(train, 0), of_classes(test, 0), config)
    print(f"{before:.2%} of the old classes' test digits are read correctly")
    x, y = of_classes(train, 5)
    validation, pool = (x[:VALIDATION], y[:VALIDATION]), (x[VALIDATION:], y[VALIDATION:])
    test = of_classes(test, 5)

    accuracies: dict[str, dict[int, np.ndarray]] = {name: {} for name in METHODS}
    moved: dict[str, dict[str, float]] = {}
    for name, method in METHODS.items():
        net = with_head(old, method.frozen)
        objective = classifier(net)

        first = over_seeds(
            lambda seed, n=net, m=method: begin(n, trained if m.pretrained else None, seed), config
        )
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *first)
        for labels in config.labels:
            rate, runs = best_on_few(
                objective,
                method.optimizer,
                pool,
                validation,
                labels,
                rates=RATES,
                epochs=EPOCHS[labels],
                seeds=config.all_seeds,
                params=params,
            )
            accuracies[name][labels] = np.array([accuracy(objective, run, test) for run in runs])
            moved[name] = {
                part: max(
                    change(a["lenet5"][part], run.params["lenet5"][part])
                    for a, run in zip(first, runs, strict=True)
                )
                for part in ("c1", "f6")
            }
            print(
                f"{name}, {labels} labels per class: {mean_std(accuracies[name][labels])}, rate "
                f"{rate:g}, c1 and f6 changed by up to {moved[name]['c1']:.2g} and "
                f"{moved[name]['f6']:.2g}",
                flush=True,
            )
    print(labels_table(WHAT, accuracies))
    pictures = save({"finetune": labels_figure(WHAT, accuracies)}, config.output)
    return Results(before, accuracies, moved, pictures)


def best_on_few(
    objective: jn.Layer,
    optimizer: Callable[..., optax.GradientTransformation],
    pool: Pair,
    validation: Pair,
    labels: int,
    *,
    rates: Sequence[float],
    epochs: int,
    seeds: Sequence[int],
    params: Any,
) -> tuple[float, list[jn.TrainState]]:
    """Train with each rate on a number of labels per class, which each seed draws anew.

    Returns:
      The rate that is best in validation, and its run of each seed.
    """
    x, y = pool
    rows = np.stack([per_class(y, labels, seed) for seed in seeds])
    found = jn.sweep(
        objective,
        optimizer,
        (x[rows], y[rows]),
        epochs=epochs,
        batch_size=50,
        seeds=seeds,
        grid={"learning_rate": rates},
        params=params,
        own_data=True,
    )
    by_rate = [[found.member(i, s) for s in range(len(seeds))] for i in range(len(rates))]
    means = [np.mean([accuracy(objective, run, validation) for run in runs]) for runs in by_rate]
    best = int(np.argmax(means))
    return rates[best], by_rate[best]


def parts(params: Any) -> Any:
    """Return the part of the net of each entry: a tree of names instead of arrays."""

    def part(path, _):
        names = [step.key for step in path]
        if names[0] == "head":
            return "head"
        return "convolutions" if names[1] in ("c1", "c3") else "dense"

    return jax.tree_util.tree_map_with_path(part, params)


def slower_trunk(learning_rate: Any) -> optax.GradientTransformation:
    """Return Adam with a tenth of the rate for the pretrained trunk."""
    slow = optax.adam(SLOWER * learning_rate)
    rates: Any = {"convolutions": slow, "dense": slow, "head": optax.adam(learning_rate)}
    return optax.multi_transform(rates, parts)


def frozen_convolutions(learning_rate: Any) -> optax.GradientTransformation:
    """Return Adam for all but the convolutions, to freeze by the optimizer alone."""
    adam = optax.adam(learning_rate)
    rates: Any = {"convolutions": optax.set_to_zero(), "dense": adam, "head": adam}
    return optax.multi_transform(rates, parts)


class Method(NamedTuple):
    """A way to train on the new classes.

    Fields:
      frozen: Whether the trunk is frozen.
      pretrained: Whether the trunk's params come from the old classes.
      optimizer: Function that makes the optimizer from a learning rate.
    """

    frozen: bool
    pretrained: bool
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam


METHODS = {
    "from scratch": Method(frozen=False, pretrained=False),
    "random trunk, frozen": Method(frozen=True, pretrained=False),
    "trunk frozen": Method(frozen=True, pretrained=True),
    "convolutions frozen": Method(False, pretrained=True, optimizer=frozen_convolutions),
    "trunk at a tenth of the rate": Method(False, pretrained=True, optimizer=slower_trunk),
    "all fine-tuned": Method(frozen=False, pretrained=True),
}


def of_classes(data: Pair, first: int) -> Pair:
    """Return the digits of five classes, numbered from 0."""
    x, y = data
    rows = (y >= first) & (y < first + 5)
    return x[rows], y[rows] - first


def classifier(net: jn.Layer) -> jn.Layer:
    loss = optax.softmax_cross_entropy_with_integer_labels
    return jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})


def accuracy(objective: jn.Layer, trained: jn.TrainState, data: Pair) -> float:
    params, state = trained.params, trained.state
    return jn.evaluate(objective, params, state, data, batch_size=1000)["accuracy"]


def learn_old(
    net: jn.Layer, train: Pair, test: Pair, config: Config
) -> tuple[jn.TrainState, float]:
    """Return a training state of the net on the old classes, and its accuracy."""
    objective = classifier(net)
    trainer = jn.trainer(objective, optax.adam(1e-3))
    epochs = run_epochs(trainer, train, seed=0, epochs=config.pretrain_epochs, batch_size=128)
    trained = epochs[-1].train_state
    return trained, accuracy(objective, trained, test)


def with_head(net: jn.Layer, frozen: bool) -> jn.Layer:
    """Return the trunk of a net, and a new layer for five classes."""
    trunk = jn.tap(net, TRUNK)
    trunk = jn.freeze(trunk) if frozen else trunk
    return jn.serial(trunk, jax.nn.relu, jn.dense(5, name="head"))


def begin(net: jn.Layer, trained: jn.TrainState | None, seed: int) -> Any:
    """Return params drawn by the seed, with the trunk from a trained net, if given."""
    params, _ = net.init(jax.random.key(seed), jn.spec((1, 28, 28, 1)))
    if trained is None:
        return params
    return params | {"lenet5": {name: trained.params[name] for name in params["lenet5"]}}


def change(before: Any, after: Any) -> float:
    """Return the largest change of a parameter."""
    changes = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), before, after)
    return float(max(jax.tree.leaves(changes)))


SHORT = Short(
    {"labels": (10,), "pretrain_epochs": 1, "seeds": 1},
    {
        "EPOCHS": {10: 1},
        "VALIDATION": 50,
        "RATES": (1e-3,),
        "METHODS": {"trunk frozen": METHODS["trunk frozen"]},
    },
)


if __name__ == "__main__":
    main(Config, run)
