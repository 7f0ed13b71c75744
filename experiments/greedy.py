"""Layers that learned without labels first, on MNIST with few labels and with all.

Claim:   pretraining helps where labels are few, and hardly where there are many.
Result:  net 784-256-256-10 of sigmoid units, each hidden layer pretrained on 20,000 digits without
         their labels, then fine-tuned with Adam on so many labelled digits a class; test digits
         read rightly, mean and standard deviation of 5 seeds:
                                 10             30             100            all
           none                  75.92 +- 1.57  83.66 +- 1.08  89.06 +- 0.24  97.70 +- 0.15
           contrastive divergence 80.28 +- 1.59 87.33 +- 0.58  91.74 +- 0.14  98.01 +- 0.08
           sparse autoencoder    76.84 +- 1.39  85.32 +- 0.82  90.41 +- 0.26  98.00 +- 0.12
           sparse coding         76.00 +- 2.33  83.47 +- 0.87  88.94 +- 0.42  97.81 +- 0.08
           k-means               73.65 +- 2.26  82.84 +- 1.01  88.56 +- 0.48  97.75 +- 0.12
           random data vectors   74.83 +- 2.68  83.20 +- 0.91  88.87 +- 0.23  97.78 +- 0.14
         So contrastive divergence helps everywhere, the sparse autoencoder a little, and the other
         three not at all in this net: they are made for rectified units and a linear readout (see
         experiments.features), and here two layers of sigmoid units stand behind them. The learning
         rate, 0.001 or 0.003, is the one that reads more of 5,000 other labelled digits, for every
         method alike; with 10 labels a class that is more labels than the task allows itself. The
         options of the methods were not tuned.
Time:    387 s for 240 trainings (120 figures, two learning rates each), pretraining included.
Machine: 2 CPU cores, jax 0.10.2.
Command: TFDS_DATA_DIR=... python -m experiments.greedy
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.classify import by_labels, read, some_of_each, spread
from jaxnet.inspect.table import Table
from jaxnet.viz.figure import new_figure

u = jn.unsupervised
METHODS: dict[str, Any] = {
    "none": None,
    "contrastive divergence": partial(u.fit_rbm, epochs=10, progress=False),
    "sparse autoencoder": partial(
        u.fit_sparse_autoencoder, rho=0.1, epochs=15, output=jax.nn.sigmoid, progress=False
    ),
    "sparse coding": partial(
        u.fit_sparse_coding, scale=1.0, epochs=5, steps=20, batch_size=1000, progress=False
    ),
    "k-means": partial(u.fit_kmeans, progress=False),
    "random data vectors": u.fit_random_vectors,
}
ALL = 0  # labels a class: all there are
# Passes over the labelled digits, so that the few are seen often enough.
EPOCHS = {10: 150, 30: 100, 100: 60, ALL: 8}
RATES = (1e-3, 3e-3)
VALIDATION = 5000  # training digits that choose the learning rate, for every method alike


@dataclass(frozen=True)
class Config:
    """Compares ways to pretrain a perceptron layer by layer; the record is in the file."""

    labels: tuple[int, ...] = (10, 30, 100, ALL)
    """labelled digits of each class; 0 takes all"""
    methods: tuple[str, ...] = tuple(METHODS)
    """ways to pretrain"""
    features: tuple[int, ...] = (256, 256)
    """units of the hidden layers"""
    unlabelled: int = 20000
    """digits to pretrain on"""
    seeds: int = 5
    """runs of each, which differ in the labelled digits, weights and order"""
    data_dir: Path | None = None
    """where the datasets lie; None takes TFDS_DATA_DIR"""
    output: Path = Path("runs/greedy")
    """folder of the picture"""

    def __post_init__(self):
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods are of {', '.join(METHODS)}, got {method!r}")
        for n in self.labels:
            if n not in EPOCHS:
                raise ValueError(f"labels are of {', '.join(map(str, EPOCHS))}, got {n}")
        if min(self.seeds, self.unlabelled, *self.features) < 1:
            raise ValueError("seeds, unlabelled and features must be at least 1")


class Results(NamedTuple):
    """What the experiment gives.

    Fields:
      accuracies: method -> labels a class -> (seeds,), on the test digits.
      pictures: the files that were written.
    """

    accuracies: dict[str, dict[int, np.ndarray]]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Pretrains by each method, fine-tunes on few and on all labels, prints a table and draws."""
    start = time.perf_counter()
    (x, y), test = jn.data.mnist(data_dir=config.data_dir)
    train, validation = (x[VALIDATION:], y[VALIDATION:]), (x[:VALIDATION], y[:VALIDATION])
    net = jn.models.mlp(
        [*config.features, 10],
        activation=jax.nn.sigmoid,
        kernel_init=jn.initializers.glorot_uniform(),
    )
    objective = jn.supervised(
        net, optax.softmax_cross_entropy_with_integer_labels,
        metrics={"accuracy": jn.metrics.accuracy},
    )  # fmt: skip
    step = jn.make_step(objective, optax.sgd(0.0))  # only to measure with
    accuracies: dict[str, dict[int, np.ndarray]] = {}
    kernels = {}
    for method in config.methods:
        params = [
            u.pretrain_greedy(
                net, train[0][: config.unlabelled], METHODS[method], key=jax.random.key(seed)
            )[0]
            for seed in range(config.seeds)
        ]
        kernels[method] = np.asarray(params[0]["dense"]["kernel"])
        first = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        accuracies[method] = {}
        for labels in config.labels:
            chosen = [few(train, labels, seed) for seed in range(config.seeds)]
            count = len(chosen[0])
            own = labels != ALL
            index = np.stack(chosen) if own else slice(None)
            found = jn.sweep(
                net, objective, optax.adam, (train[0][index], train[1][index]),
                epochs=EPOCHS[labels], batch_size=min(256, max(50, count // 4)),
                seeds=config.seeds, grid={"learning_rate": RATES}, params=first, own_data=own,
            )  # fmt: skip
            members = np.array(
                [
                    [read(step, found.member(i, j), validation) for j in range(config.seeds)]
                    for i in range(len(RATES))
                ]
            )
            best = int(members.mean(1).argmax())
            accuracies[method][labels] = np.array(
                [read(step, found.member(best, j), test) for j in range(config.seeds)]
            )
            a = accuracies[method][labels]
            print(
                f"{method}, {labels or 'all'} labels a class: {a.mean():.2%} +- {spread(a):.2%}, "
                f"rate {RATES[best]:g}, after {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    print(table(accuracies))
    print(f"{time.perf_counter() - start:.0f} seconds")
    figure = draw(accuracies, kernels)
    picture = jn.viz.save(figure, config.output / "greedy.png")
    print(f"picture: {picture}")
    return Results(accuracies, [picture])


def few(data: tuple[np.ndarray, np.ndarray], labels: int, seed: int) -> np.ndarray:
    """Places of so many digits of each class, drawn by the seed; of all of them for ALL."""
    y = data[1]
    return np.arange(len(y)) if labels == ALL else some_of_each(y, labels, seed)


def table(accuracies: dict[str, dict[int, np.ndarray]]) -> Table:
    labels = list(next(iter(accuracies.values())))
    rows = [
        (method, *(f"{a[n].mean():.2%} ± {spread(a[n]):.2%}" for n in labels))
        for method, a in accuracies.items()
    ]
    head = ("pretrained by", *(f"{n or 'all'} a class" for n in labels))
    return Table("test digits read rightly, by labelled digits of a class", head, rows)


def draw(accuracies: dict[str, dict[int, np.ndarray]], kernels: dict[str, np.ndarray]) -> Any:
    """Accuracy by labels, and what the first layers look like before any label was seen."""
    figure = new_figure(11, 4.6)
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    left, right = halves
    axes = left.subplots()
    by_labels(axes, accuracies, 0.06)
    axes.set_ylabel("test digits read rightly, %")
    axes.legend(frameon=False)
    columns = 2
    rows = -(-len(kernels) // columns)
    panels = right.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, (method, kernel) in zip(panels, kernels.items(), strict=False):
        panel.imshow(tiles(kernel[:, :24]), cmap="gray", interpolation="nearest")
        panel.set_title(method, fontsize=9)
    return figure


def tiles(kernel: np.ndarray, columns: int = 8) -> np.ndarray:
    """Filters (784, n) as one image, each scaled by itself."""
    filters = kernel.T.reshape(-1, 28, 28)
    low, high = filters.min((1, 2), keepdims=True), filters.max((1, 2), keepdims=True)
    filters = np.pad((filters - low) / np.maximum(high - low, 1e-9), ((0, 0), (1, 1), (1, 1)))
    filters = np.pad(filters, ((0, -len(filters) % columns), (0, 0), (0, 0)))
    rows = filters.reshape(-1, columns, 30, 30)  # (rows, columns, 30, 30)
    return rows.transpose(0, 2, 1, 3).reshape(len(rows) * 30, columns * 30)


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
