"""Recommend jokes or movies: who likes which, from other ratings of the same people.

Claim: embeddings of people and items, whose product is the rating, predict the ratings that are
held out with a lower error than the mean of the person plus that of the item.

The items are the 100 jokes of `jester` (Goldberg et al. 2001) if it is prepared. It cannot be
downloaded; otherwise they are the movies of MovieLens 100k, which you can download. The first line
says which, and the record below is of `jester`. Options were chosen on its jokes, on a tenth of
the ratings to learn from (`--validation`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import jaxnet as jn
from experiments.common import Data, Output, Seeds, Short, main, mean_std, over_seeds, save
from experiments.records import Command, Picture, Record, higher, lower

RECORDS = (
    Record(
        topic="unsupervised",
        title="Embeddings of people and jokes predict ratings better than means",
        verdict="Supported",
        sentence=(
            "On 100 jokes of Jester (Goldberg et al. 2001), the product of 16 numbers per person "
            "and per joke predicts held-out ratings of 5,000 people, from -10 to 10, with a root "
            "mean squared error of 4.027 ± 0.006; the mean of the person plus that of the joke has "
            "4.336. Three jokes that it recommends are rated 3.31 ± 0.02 on average, the most "
            "popular ones 2.81."
        ),
        columns=(
            "prediction",
            *lower("root mean squared error"),
            *higher("rating of the top 3"),
        ),
        rows=(
            ("mean of all", "5.229", "0.11"),
            ("mean of the item", "4.986", "2.81"),
            ("mean of the person", "4.621", "0.11"),
            ("item + person", "4.336", "2.81"),
            ("biases", "4.506 ± 0.000", "2.80 ± 0.00"),
            ("embeddings of 4", "4.136 ± 0.018", "3.09 ± 0.04"),
            ("embeddings of 16", "4.027 ± 0.006", "3.31 ± 0.02"),
        ),
        commands=(Command("--seeds 3", 50, "50 s of CPU"),),
        seeds=3,
        key="4.027 ± 0.006 by embeddings of 16, 4.336 by means",
        baseline="item + person",
        note="Trained biases are penalized with the embeddings, so alone they lose to plain means.",
        pictures=(Picture("recommender_errors.png", "Errors of held-out ratings by epoch"),),
        caveat="You download movies (`movielens_100k`) instead, for which these were not measured.",
        lesson=8,
    ),
)


@dataclass(frozen=True)
class Config(Data, Seeds, Output):
    """Predicts ratings of jokes or movies, and recommends the best ones."""

    output: Path = Path("runs/recommender")
    seeds: int = 1
    features: tuple[int, ...] = (0, 4, 16)
    """sizes of the embeddings; 0 has only a bias of each person and of each item"""
    epochs: int = 6
    """passes over the ratings"""
    batch_size: int = 1024
    """ratings per step"""
    learning_rate: float = 2e-2
    """initial learning rate of Adam, with cosine decay to 0"""
    penalty: float = 1e-4
    """strength of the penalty on the embeddings"""
    top: int = 3
    """number of recommended items per person"""
    validation: bool = False
    """test on a tenth of the ratings to learn from, to choose options"""


class Results(NamedTuple):
    """Errors and recommendations.

    Fields:
      errors: Root mean squared errors of the held-out ratings, method -> (seeds,) or (1,).
      liked: Mean held-out rating of the recommended items, method -> (seeds,) or (1,).
      pictures: Files written.
    """

    errors: dict[str, np.ndarray]
    liked: dict[str, np.ndarray]
    pictures: list[Path]


class Ratings(NamedTuple):
    """Ratings from -10 to 10, one per row.

    Fields:
      pairs: Numbers of the person and of the item, (ratings, 2) int32.
      values: Ratings, (ratings, 1) float32.
    """

    pairs: np.ndarray
    values: np.ndarray


def run(config: Config) -> Results:
    """Predict by means and by embeddings, print errors and the ratings of what is recommended."""
    train, test, (people, items) = load(config.data_dir)
    if config.validation:
        train, test = (Ratings(*part) for part in jn.data.split(train, 0.1))
    print(
        f"{people:,} people, {items:,} items; {len(train.pairs):,} ratings to learn from, "
        f"{len(test.pairs):,} to test with"
    )
    found = {name: [values] for name, values in means(train, test, people, items).items()}
    found["the held-out ratings themselves"] = [test.values[:, 0]]
    curves = {}
    for features in config.features:
        name = f"embeddings of {features}" if features else "biases"
        runs = over_seeds(
            lambda seed, n=features: learn(train, test, (people, items), n, seed, config), config
        )
        found[name] = [predicted for predicted, _ in runs]
        curves[name] = np.stack([curve for _, curve in runs])
    errors = {name: np.array([error(p, test) for p in each]) for name, each in found.items()}
    liked = {
        name: np.array([recommended(p, test, config.top) for p in each])
        for name, each in found.items()
    }
    rows = [(n, mean_std(errors[n], ".3f"), mean_std(liked[n], ".2f")) for n in found]
    print(
        jn.Table(
            "held-out ratings", ("prediction", "error", f"rating of the top {config.top}"), rows
        )
    )
    figure = jn.viz.curves({"root mean squared error": curves})
    return Results(errors, liked, save({"errors": figure}, config.output))


def load(data_dir: Path | None) -> tuple[Ratings, Ratings, tuple[int, int]]:
    """Return ratings to learn from and to test with, and the numbers of people and of items.

    Jester's if it is prepared, else those of MovieLens 100k, whose 1 to 5 stars become -10 to 10.
    """
    try:
        data = jn.data.tfds.load("jester", "train", data_dir=data_dir)
        name = "jester"
    except FileNotFoundError:
        data = jn.data.tfds.load("movielens_100k", "train", data_dir=data_dir)
        name, data = "movielens_100k", {part: 5 * (stars - 3) for part, stars in data.items()}
    print(f"{name}:", end=" ")
    return listed(data["ratings"]), listed(data["held_out"]), data["ratings"].shape


def listed(ratings: np.ndarray) -> Ratings:
    """Return the ratings of a matrix (people, items) that are not NaN, one per row."""
    pairs = np.argwhere(~np.isnan(ratings)).astype(np.int32)
    return Ratings(pairs, ratings[tuple(pairs.T)][:, None])


def means(train: Ratings, test: Ratings, people: int, items: int) -> dict[str, np.ndarray]:
    """Return predictions (test ratings,) by means, and by means of what another mean leaves."""
    person, item = test.pairs.T
    overall = train.values.mean()

    def mean(side: int, count: int, values: np.ndarray) -> np.ndarray:
        ids = train.pairs[:, side]
        sums = np.bincount(ids, values, minlength=count)
        return sums / np.maximum(np.bincount(ids, minlength=count), 1)

    centered = train.values[:, 0] - overall
    of_item, of_person = mean(1, items, centered), mean(0, people, centered)
    rest = mean(0, people, centered - of_item[train.pairs[:, 1]])
    return {
        "mean of all": np.full(len(person), overall),
        "mean of the item": overall + of_item[item],
        "mean of the person": overall + of_person[person],
        "item + person": overall + of_item[item] + rest[person],
    }


def recommender(people: int, items: int, features: int) -> jn.Layer:
    """Return a net from pairs (batch, 2) of a person and a item to ratings (batch, 1)."""
    zeros, small = jn.initializers.zeros, jn.initializers.normal(0.1)

    def forward(m, pairs):
        person, item = pairs[:, 0], pairs[:, 1]
        rating = m.param("mean", zeros, (1,))
        rating += m(jn.embedding(people, 1, embedding_init=zeros, name="person_bias"), person)
        rating += m(jn.embedding(items, 1, embedding_init=zeros, name="item_bias"), item)
        if features:
            u = m(jn.embedding(people, features, embedding_init=small, name="person"), person)
            v = m(jn.embedding(items, features, embedding_init=small, name="item"), item)
            rating += (u * v).sum(-1, keepdims=True)
        return rating

    return jn.compose(forward, name="recommender")


def learn(
    train: Ratings, test: Ratings, sizes: tuple[int, int], features: int, seed: int, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions of the test ratings, (ratings,), and their error after each epoch."""
    net = recommender(*sizes, features)
    penalty = jn.penalties.l2(config.penalty, where="*embedding")
    objective = jn.supervised(net, jn.losses.half_squared_error, penalty=penalty)
    steps = config.epochs * -(-len(train.pairs) // config.batch_size)
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps))
    trainer = jn.trainer(objective, optimizer)
    data: Any = tuple(train)
    train_state = trainer.init(jax.random.key(seed), data)
    predicted, curve = test.values[:, 0], []
    for epoch in jn.fit(
        trainer, train_state, data, epochs=config.epochs, batch_size=config.batch_size
    ):
        params, state = epoch.train_state.params, epoch.train_state.state
        predicted = jn.predict(net, params, state, test.pairs, batch_size=8192)[:, 0]
        curve.append(error(predicted, test))
    print(
        f"features {features}, seed {seed}: error {curve[-1]:.4f}, lowest {min(curve):.4f}",
        flush=True,
    )
    return predicted, np.array(curve)


def error(predicted: np.ndarray, test: Ratings) -> float:
    """Return the root mean squared error of predictions (ratings,)."""
    return float(np.sqrt(np.square(predicted - test.values[:, 0]).mean()))


def recommended(predicted: np.ndarray, test: Ratings, top: int) -> float:
    """Return the mean rating of the items that are recommended to each person.

    The `top` items with the highest predictions are recommended, of those whose rating is held out.
    People with fewer than twice as many held-out ratings are left out: they leave no choice.
    """
    person, total, people = test.pairs[:, 0], 0.0, 0
    starts = np.flatnonzero(np.diff(person, prepend=-1, append=-1))
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        if stop - start >= 2 * top:
            best = start + np.argsort(-predicted[start:stop], kind="stable")[:top]
            total, people = total + test.values[best].mean(), people + 1
    return total / max(people, 1)


SHORT = Short({"seeds": 1, "features": (0, 2), "epochs": 1, "batch_size": 50})


if __name__ == "__main__":
    main(Config, run)
