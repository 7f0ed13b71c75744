"""Freezing and fine-tuning: LeNet-5 learned the digits 0 to 4, now 5 to 9 with few labels.

A trunk with a new head, of which the head alone learns:

    trunk = jn.freeze(jn.tap(net, "f6"))
    new = jn.serial(trunk, jax.nn.relu, jn.dense(5, name="head"))
    params, state = new.init(key, x)
    params["lenet5"] = jn.pick(trained, params["lenet5"])

`freeze` keeps gradients away; what else changes params, such as weight decay, is kept away by a
mask (`head` gives a tree of booleans), and parts get rates of their own, or none, by their names:

    optax.masked(optax.adamw(rate), head)
    optax.multi_transform({"trunk": optax.adam(rate / 10), "head": optax.adam(rate)}, parts)

Claim:   features learned on other classes help where labels are few.
Result:  the old classes' test digits are read to 99.67%; test digits of the new classes read
         rightly, mean and standard deviation of 5 seeds (labels, weights, order; one trunk):
                                          10             30             100
           from scratch                   85.28 +- 3.77  92.00 +- 0.62  95.84 +- 0.53
           random trunk, frozen           61.42 +- 2.33  70.36 +- 4.04  76.48 +- 2.56
           trunk frozen                   75.75 +- 2.20  82.10 +- 1.54  87.25 +- 0.64
           convolutions frozen            90.38 +- 1.80  94.63 +- 0.73  97.03 +- 0.19
           trunk at a tenth of the rate   87.16 +- 2.29  93.19 +- 0.57  96.63 +- 0.12
           all fine-tuned                 89.64 +- 1.57  94.61 +- 0.52  97.17 +- 0.14
         So the convolutions are worth taking over; the whole trunk up to f6, frozen, is better than
         a random one and worse than none: its last features are made for the old classes. What is
         frozen is bit-equal afterwards. The learning rate, 0.001 or 0.003, is the one that reads
         more of 2,000 other labelled digits, for every way alike.
Time:    200 s of CPU.
Machine: 2 CPU cores, jax 0.10.2.
Command: TFDS_DATA_DIR=... python -m experiments.finetune
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.classify import by_labels, read, some_of_each, spread
from jaxnet.data.digits import Pair
from jaxnet.inspect.table import Table
from jaxnet.viz.figure import new_figure

# Passes over the labelled digits, so that the few are seen often enough.
EPOCHS = {10: 60, 30: 40, 100: 30}
RATES = (1e-3, 3e-3)
VALIDATION = 2000  # training digits of the new classes that choose the learning rate
SLOWER = 0.1  # the trunk's share of the rate, where parts have rates of their own
TRUNK = "f6"  # the last layer that is taken over

Optimizer = Callable[..., optax.GradientTransformation]


@dataclass(frozen=True)
class Config:
    """Compares ways to use a trained network for new classes; the record is in the file."""

    labels: tuple[int, ...] = (10, 30, 100)
    """labelled digits of each new class"""
    pretrain_epochs: int = 3
    """passes over the digits 0 to 4"""
    seeds: int = 5
    """runs of each, which differ in the labelled digits, weights and order; one trunk for all"""
    data_dir: Path | None = None
    """where MNIST lies; None takes TFDS_DATA_DIR"""
    output: Path = Path("runs/finetune")
    """folder of the picture"""

    def __post_init__(self):
        for n in self.labels:
            if n not in EPOCHS:
                raise ValueError(f"labels are of {', '.join(map(str, EPOCHS))}, got {n}")
        if min(self.seeds, self.pretrain_epochs) < 1:
            raise ValueError("seeds and pretrain_epochs must be at least 1")


class Way(NamedTuple):
    """A way to learn the new classes.

    Fields:
      frozen: whether the trunk stays as it is.
      pretrained: whether its params come from the old classes.
      optimizer: from a learning rate.
    """

    frozen: bool
    pretrained: bool
    optimizer: Optimizer = optax.adam


class Results(NamedTuple):
    """What the experiment gives.

    Fields:
      before: accuracy on the old classes.
      accuracies: way -> labels a class -> (seeds,), on the test digits of the new classes.
      moved: way -> layer -> the largest change of a number in it, with most labels.
      pictures: the files that were written.
    """

    before: float
    accuracies: dict[str, dict[int, np.ndarray]]
    moved: dict[str, dict[str, float]]
    pictures: list[Path]


def parts(params: Any) -> Any:
    """Which part of the net each entry belongs to: a tree of names in place of arrays."""

    def part(path, _):
        names = [step.key for step in path]
        if names[0] == "head":
            return "head"
        return "convolutions" if names[1] in ("c1", "c3") else "dense"

    return jax.tree_util.tree_map_with_path(part, params)


def slower_trunk(learning_rate: Any) -> optax.GradientTransformation:
    """Adam, with a tenth of the rate for what was learned before."""
    slow = optax.adam(SLOWER * learning_rate)
    rates: Any = {"convolutions": slow, "dense": slow, "head": optax.adam(learning_rate)}
    return optax.multi_transform(rates, parts)


def still_convolutions(learning_rate: Any) -> optax.GradientTransformation:
    """Adam for all but the convolutions, which stay; freezing by the optimizer alone."""
    adam = optax.adam(learning_rate)
    rates: Any = {"convolutions": optax.set_to_zero(), "dense": adam, "head": adam}
    return optax.multi_transform(rates, parts)


WAYS = {
    "from scratch": Way(frozen=False, pretrained=False),
    "random trunk, frozen": Way(frozen=True, pretrained=False),
    "trunk frozen": Way(frozen=True, pretrained=True),
    "convolutions frozen": Way(False, pretrained=True, optimizer=still_convolutions),
    "trunk at a tenth of the rate": Way(False, pretrained=True, optimizer=slower_trunk),
    "all fine-tuned": Way(frozen=False, pretrained=True),
}


def run(config: Config) -> Results:
    """Trains on the old classes, then in each way on few labels of the new ones."""
    start = time.process_time()
    train, test = jn.data.mnist(data_dir=config.data_dir)
    net, trained, before = learn_old(of_classes(train, 0), of_classes(test, 0), config)
    print(f"{before:.2%} of the old classes' test digits are read rightly")
    x, y = of_classes(train, 5)
    validation, new = (x[:VALIDATION], y[:VALIDATION]), (x[VALIDATION:], y[VALIDATION:])
    test = of_classes(test, 5)

    accuracies: dict[str, dict[int, np.ndarray]] = {name: {} for name in WAYS}
    moved: dict[str, dict[str, float]] = {}
    for name, way in WAYS.items():
        new_net = with_head(net, way.frozen)
        step = jn.make_step(supervised(new_net), optax.sgd(0.0))  # only to measure with
        first = [
            begin(new_net, trained if way.pretrained else None, s) for s in range(config.seeds)
        ]
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *first)
        for labels in config.labels:
            chosen = np.stack([some_of_each(new[1], labels, s) for s in range(config.seeds)])
            found = jn.sweep(
                new_net, supervised(new_net), way.optimizer, (new[0][chosen], new[1][chosen]),
                epochs=EPOCHS[labels], batch_size=50, seeds=config.seeds,
                grid={"learning_rate": RATES}, params=params, own_data=True,
            )  # fmt: skip
            right = [
                np.mean([read(step, found.member(i, s), validation) for s in range(config.seeds)])
                for i in range(len(RATES))
            ]
            best = int(np.argmax(right))
            runs = [found.member(best, s) for s in range(config.seeds)]
            accuracies[name][labels] = a = np.array([read(step, run, test) for run in runs])
            after = [run.params for run in runs]
            moved[name] = {
                part: max(change(a["lenet5"][part], b["lenet5"][part])
                          for a, b in zip(first, after, strict=True))
                for part in ("c1", "f6")
            }  # fmt: skip
            print(
                f"{name}, {labels} labels a class: {a.mean():.2%} +- {spread(a):.2%}, rate "
                f"{RATES[best]:g}, c1 and f6 moved by up to {moved[name]['c1']:.2g} and "
                f"{moved[name]['f6']:.2g}, after "
                f"{time.process_time() - start:.0f} s of CPU",
                flush=True,
            )
    print(table(accuracies))
    figure = draw(accuracies)
    picture = jn.viz.save(figure, config.output / "finetune.png")
    print(f"picture: {picture}")
    return Results(before, accuracies, moved, [picture])


def of_classes(data: Pair, first: int) -> Pair:
    """The digits of five classes, numbered from 0."""
    x, y = data
    rows = (y >= first) & (y < first + 5)
    return x[rows], y[rows] - first


def supervised(net: jn.Layer) -> Any:
    loss = optax.softmax_cross_entropy_with_integer_labels
    return jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})


def learn_old(train: Pair, test: Pair, config: Config) -> tuple[jn.Layer, jn.TrainState, float]:
    """LeNet-5 for the old classes, and its accuracy."""
    net, optimizer = jn.models.lenet5(classes=5), optax.adam(1e-3)
    step = jn.make_step(supervised(net), optimizer)
    train_state = jn.init_training(net, optimizer, jax.random.key(0), train)
    options: Any = {"epochs": config.pretrain_epochs, "batch_size": 128}
    for epoch in jn.fit(train_state, step, train, **options):
        train_state = epoch.train_state
    return net, train_state, read(step, train_state, test)


def with_head(net: jn.Layer, frozen: bool) -> jn.Layer:
    """The trunk of a net, and a new layer for five classes."""
    trunk = jn.tap(net, TRUNK)
    trunk = jn.freeze(trunk) if frozen else trunk
    return jn.serial(trunk, jax.nn.relu, jn.dense(5, name="head"))


def begin(net: jn.Layer, trained: jn.TrainState | None, seed: int) -> Any:
    """Params drawn by the seed; those of the trunk from a trained net, where there is one."""
    params, _ = net.init(jax.random.key(seed), jn.spec((1, 28, 28, 1)))
    if trained is None:
        return params
    return params | {"lenet5": jn.pick(trained.params, params["lenet5"])}


def change(before: Any, after: Any) -> float:
    """The largest change of a number."""
    changes = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), before, after)
    return float(max(jax.tree.leaves(changes)))


def table(accuracies: dict[str, dict[int, np.ndarray]]) -> Table:
    labels = list(next(iter(accuracies.values())))
    rows = [
        (name, *(f"{a[n].mean():.2%} ± {spread(a[n]):.2%}" for n in labels))
        for name, a in accuracies.items()
    ]
    head = ("way", *(f"{n} a class" for n in labels))
    return Table("test digits 5 to 9 read rightly, by labelled digits of a class", head, rows)


def draw(accuracies: dict[str, dict[int, np.ndarray]]) -> Any:
    figure = new_figure(7.6, 3.8)
    axes = figure.subplots()
    by_labels(axes, accuracies, 0.03)
    axes.set_ylabel("test digits 5 to 9 read rightly, %")
    figure.legend(frameon=False, loc="outside right center")
    return figure


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
