"""Layer-wise pretraining without labels, on MNIST with few labels and with all.

Claim: pretraining helps with few labels, and hardly with many.

A net of 784-256-256-10 sigmoid units. Each hidden layer is pretrained on 20,000 digits without
their labels, then all is fine-tuned with Adam on labeled digits. The learning rate, 0.001 or
0.003, is the better one on 5,000 other labeled digits, for every method. The options of the
methods were not tuned. There are 240 trainings: 120 results, two learning rates each.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.common import (
    Data,
    Output,
    Seeds,
    Short,
    main,
    mean_std,
    over_seeds,
    per_class,
    plot_by_labels,
    save,
)
from experiments.records import Command, Picture, Record, higher
from jaxnet import Table
from jaxnet.unsupervised import autoencoder, kmeans, pretrain, rbm, sparse_coding
from jaxnet.viz.style import new_figure

METHODS: dict[str, Any] = {
    "none": None,
    "contrastive divergence": partial(rbm.fit_rbm, epochs=10, progress=False),
    "sparse autoencoder": partial(
        autoencoder.fit_sparse_autoencoder, rho=0.1, epochs=15, output=jax.nn.sigmoid,
        progress=False,
    ),
    "sparse coding": partial(
        sparse_coding.fit_sparse_coding, standardize=True, epochs=5, steps=20, batch_size=1000,
    ),
    "k-means": kmeans.fit_kmeans,
    "random data vectors": kmeans.fit_random_vectors,
}  # fmt: skip
ALL = 0  # labels per class: all there are
EPOCHS = {10: 150, 30: 100, 100: 60, ALL: 8}  # more for fewer labels
RATES = (1e-3, 3e-3)
VALIDATION = 5000  # training digits that choose the learning rate

RECORDS = (
    Record(
        topic="transfer",
        title=(
            "Pretraining by contrastive divergence helps, four other methods help little or not "
            "at all"
        ),
        verdict="Mixed",
        claim="pretraining helps with few labels, and hardly with many",
        sentence=(
            "Each hidden layer is pretrained on 20,000 digits without labels. With 10 labels per "
            "class, contrastive divergence raises the accuracy from 75.84% to 79.92%. The sparse "
            "autoencoder gains one to two points with 30 and 100 labels. With 10 labels, its gain "
            "is smaller than the spread of the seeds. The other three methods do not help."
        ),
        columns=(
            "pretraining",
            *higher("10 labels per class (accuracy, %)", "30 labels", "100 labels", "all labels"),
        ),
        rows=(
            ("none", "75.84 ± 1.71", "83.59 ± 0.99", "89.08 ± 0.26", "97.63 ± 0.15"),
            (
                "contrastive divergence",
                "79.92 ± 1.03",
                "87.39 ± 0.54",
                "91.64 ± 0.26",
                "97.99 ± 0.07",
            ),
            ("sparse autoencoder", "76.95 ± 1.67", "85.13 ± 0.91", "90.29 ± 0.15", "97.99 ± 0.13"),
            ("sparse coding", "75.62 ± 2.27", "83.43 ± 0.90", "88.85 ± 0.45", "97.73 ± 0.25"),
            ("k-means", "74.45 ± 1.58", "82.62 ± 1.28", "88.77 ± 0.41", "97.79 ± 0.11"),
            ("random data vectors", "74.14 ± 2.09", "82.93 ± 0.97", "88.67 ± 0.25", "97.74 ± 0.11"),
        ),
        commands=(Command("", 600, "21 min of CPU, all methods"),),
        caveat="The options of the methods were not tuned.",
        seeds=5,
        key="79.92 ± 1.03%, not pretrained 75.84 ± 1.71%",
        baseline="none",
        note=(
            "The methods that do not help are made for rectified units and a linear readout ("
            "[where they do help](unsupervised.md)), and here two layers of sigmoid units follow.\n"
            "The learning rate, 0.001 or 0.003, was chosen on 5,000 other labeled digits. These "
            "are far more labels than the 100 of the smallest task.\n"
            "The options of the methods were not tuned."
        ),
        pictures=(Picture("greedy.png", "Accuracy with pretraining by five methods"),),
        lesson=5,
    ),
)


@dataclass(frozen=True)
class Config(Data, Seeds, Output):
    """Compares ways to pretrain an MLP layer by layer."""

    seeds: int = 5
    output: Path = Path("runs/greedy")
    labels: tuple[int, ...] = tuple(EPOCHS)
    """labeled digits per class; 0 takes all"""
    methods: tuple[str, ...] = tuple(METHODS)
    """methods of pretraining"""
    features: tuple[int, ...] = (256, 256)
    """units of the hidden layers"""
    unlabeled: int = 20000
    """digits for pretraining"""

    def __post_init__(self):
        super().__post_init__()
        for name, known in (("methods", METHODS), ("labels", EPOCHS)):
            for value in getattr(self, name):
                if value not in known:
                    choices = ", ".join(map(str, known))
                    raise ValueError(f"{name} must be one of {choices}, got {value!r}")


class Results(NamedTuple):
    """Accuracies.

    Fields:
      accuracies: Accuracies on the test digits, method -> labels per class -> (seeds,).
      pictures: Files written.
    """

    accuracies: dict[str, dict[int, np.ndarray]]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Pretrain by each method, fine-tune on few and on all labels, print a table and draw."""
    (x, y), test = jn.data.mnist(data_dir=config.data_dir)
    train, validation = (x[VALIDATION:], y[VALIDATION:]), (x[:VALIDATION], y[:VALIDATION])
    net = jn.models.mlp(
        [*config.features, 10],
        activation=jax.nn.sigmoid,
        kernel_init=jn.initializers.glorot_uniform(),
    )
    objective = jn.supervised(
        net,
        optax.softmax_cross_entropy_with_integer_labels,
        metrics={"accuracy": jn.metrics.accuracy},
    )
    accuracies: dict[str, dict[int, np.ndarray]] = {}
    kernels = {}
    for name in config.methods:

        def pretrained(seed, method=METHODS[name]):
            unlabeled, key = train[0][: config.unlabeled], jax.random.key(seed)
            return pretrain.pretrain_greedy(net, unlabeled, method, key=key)[0]

        params = jax.tree.map(lambda *a: jnp.stack(a), *over_seeds(pretrained, config))
        kernels[name] = np.asarray(params["dense"]["kernel"][0])
        accuracies[name] = {}
        for labels in config.labels:
            found = fine_tune(objective, params, train, labels, config)
            scores = accuracy(objective, found, validation).mean(1)  # (rates,)
            best = int(scores.argmax())
            accuracies[name][labels] = accuracy(objective, found, test)[best]
            words = mean_std(accuracies[name][labels])
            print(
                f"{name}, {labels or 'all'} labels per class: {words}, rate {RATES[best]:g}",
                flush=True,
            )
    print(table(accuracies))
    return Results(accuracies, save({"greedy": draw(accuracies, kernels)}, config.output))


def fine_tune(objective: jn.Layer, params: Any, train: Any, labels: int, config: Config) -> Any:
    """Return a sweep over learning rates and seeds, which have their own params and digits."""
    x, y = train
    own = labels != ALL
    if own:
        chosen = np.stack(over_seeds(lambda seed: per_class(y, labels, seed), config))
        x, y = x[chosen], y[chosen]
    count = y.shape[-1]
    return jn.sweep(
        objective,
        optax.adam,
        (x, y),
        epochs=EPOCHS[labels],
        batch_size=min(256, max(50, count // 4)),
        seeds=config.all_seeds,
        grid={"learning_rate": RATES},
        params=params,
        own_data=own,
    )


def accuracy(objective: jn.Layer, found: Any, data: Any) -> np.ndarray:
    """Return accuracies (rates, seeds) of a sweep."""

    def one(i, j):
        member = found.member(i, j)
        return jn.evaluate(objective, member.params, member.state, data)["accuracy"]

    return np.array([[one(i, j) for j in range(len(found.seeds))] for i in range(len(RATES))])


def table(accuracies: dict[str, dict[int, np.ndarray]]) -> Table:
    labels = list(next(iter(accuracies.values())))
    rows = [(method, *(mean_std(a[n]) for n in labels)) for method, a in accuracies.items()]
    head = ("pretrained by", *(f"{n or 'all'} labels" for n in labels))
    return Table("test accuracy, by labels per class", head, rows)


def draw(accuracies: dict[str, dict[int, np.ndarray]], kernels: dict[str, np.ndarray]) -> Any:
    """Draw accuracy by labels, and the filters of the first layers before any label was used."""
    figure = new_figure(11, 4.6)
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    left, right = halves
    axes = left.subplots()
    plot_by_labels(axes, accuracies, 0.06)
    axes.set_ylabel("test accuracy, %")
    axes.legend(frameon=False)
    panels = right.subplots(-(-len(kernels) // 2), 2, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, (method, kernel) in zip(panels, kernels.items(), strict=False):
        panel.imshow(tiles(kernel[:, :24]), cmap="gray", interpolation="nearest")
        panel.set_title(method, fontsize=9)
    return figure


def tiles(kernel: np.ndarray, columns: int = 8) -> np.ndarray:
    """Return filters (784, n) as one image, each scaled to [0, 1]."""
    filters = kernel.T.reshape(-1, 28, 28)
    low, high = filters.min((1, 2), keepdims=True), filters.max((1, 2), keepdims=True)
    filters = np.pad((filters - low) / np.maximum(high - low, 1e-9), ((0, 0), (1, 1), (1, 1)))
    filters = np.pad(filters, ((0, -len(filters) % columns), (0, 0), (0, 0)))
    rows = filters.reshape(-1, columns, 30, 30)  # (rows, columns, 30, 30)
    return rows.transpose(0, 2, 1, 3).reshape(len(rows) * 30, columns * 30)


SHORT = Short(
    {
        "labels": (10,),
        "methods": ("none", "k-means"),
        "features": (8,),
        "unlabeled": 50,
        "seeds": 1,
    },
    {"EPOCHS": {10: 1}, "VALIDATION": 50, "RATES": (1e-3,)},
)


if __name__ == "__main__":
    main(Config, run)
