"""Who is it: 38 or 40 people by their faces, seven pictures of each to learn from.

Claim: a net with locally connected layers, which DeepFace has because a face is always in the same
place, recognizes more faces than one with convolutions, and both more than the nearest picture.

The faces are those of the ORL database (Olivetti Research Laboratory; Samaria and Harter 1994), of
64×64 pixels: `jn.data.faces` loads all 40 people, whom you can download, or the 38 people of a
prepared `orl_faces`. The first line says which. The options are the first that were tried.
`features` are what the layer before the last computes; the nearest picture by them is a search by
picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
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
    run_epochs,
    save,
    total_steps,
)
from experiments.records import Command, Picture, Record, higher
from jaxnet.typing import Pair

RECORDS = (
    Record(
        topic="images",
        title="Locally connected layers recognize faces as well as convolutions",
        verdict="Not supported",
        claim="locally connected layers recognize more faces than convolutions",
        sentence=(
            "Of 114 test faces of 38 people (`orl_faces` 2.0.0, Samaria and Harter 1994), a net "
            "with locally connected layers recognizes 94.15 ± 0.51%, one with convolutions "
            "94.74 ± 2.32%, and the nearest picture by pixels 95.61%. Searching by the nets' "
            "features is no better than by pixels."
        ),
        columns=("method", *higher("accuracy (%)")),
        rows=(
            ("nearest picture by pixels", "95.61"),
            ("convolutions", "94.74 ± 2.32"),
            ("convolutions, nearest by features", "90.94 ± 2.21"),
            ("locally connected layers", "94.15 ± 0.51"),
            ("locally connected layers, nearest by features", "92.40 ± 0.51"),
        ),
        commands=(Command("--seeds 3", 240, "4 min of CPU"),),
        seeds=3,
        key="94.15 ± 0.51% with locally connected layers, pixels 95.61%",
        baseline="nearest picture by pixels",
        pictures=(
            Picture(
                "faces_search.png",
                "Test faces, and the nearest pictures (ORL database, AT&T Laboratories Cambridge)",
            ),
        ),
        caveat="You download 40 people (`olivetti`), so your figures differ a little.",
        lesson=8,
    ),
)


@dataclass(frozen=True)
class Config(Data, Seeds, Output):
    """Recognizes people by their faces."""

    output: Path = Path("runs/faces")
    seeds: int = 1
    epochs: int = 60
    """passes over the faces"""
    batch_size: int = 40
    """faces per step"""
    learning_rate: float = 2e-3
    """initial learning rate of Adam, with cosine decay to 0"""
    shift: int = 2
    """largest random shift of a training face, in pixels"""
    features: int = 16
    """maps of each layer"""


class Results(NamedTuple):
    """Accuracies.

    Fields:
      accuracies: Fraction of the test faces that are recognized, method -> (seeds,) or (1,).
      pictures: Files written.
    """

    accuracies: dict[str, np.ndarray]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Recognize faces by pixels and by both nets, print the accuracies, and draw a search."""
    data = jn.data.faces(data_dir=config.data_dir)
    train, test = data
    people = int(train[1].max()) + 1
    print(
        f"{data.name}: {people} people, {len(train[1])} faces to learn from, {len(test[1])} to ask"
    )
    by_pixels = nearest(*(x.reshape(len(x), -1) for x, _ in (train, test)))
    accuracies = {"nearest picture by pixels": np.array([np.mean(train[1][by_pixels] == test[1])])}
    found = by_pixels
    for name, layer in LAYERS.items():
        net = face_net(layer, config.features, people)
        print(jn.summary(net, train[0][:1]))
        runs = over_seeds(lambda seed, n=net: learn(n, train, test, seed, config), config)
        accuracies[name] = np.array([accuracy for accuracy, _ in runs])
        accuracies[f"{name}, nearest by features"] = np.array(
            [np.mean(train[1][found] == test[1]) for _, found in runs]
        )
        found = runs[0][1]
    for name, values in accuracies.items():
        print(f"{name:50} {mean_std(values)}")
    figure = search(train, test, {"pixels": by_pixels, "features": found})
    return Results(accuracies, save({"search": figure}, config.output))


def nearest(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return for each row of `asked` the number of the nearest row of `known`."""
    distances = (known**2).sum(1) - 2 * asked @ known.T  # the rest is the same for all of a row
    return distances.argmin(1)


LAYERS: dict[str, Callable[..., jn.Layer]] = {
    "convolutions": partial(jn.conv, padding="VALID"),
    "locally connected layers": jn.layers.locally_connected,
}


def face_net(layer: Callable[..., jn.Layer], features: int, people: int) -> jn.Layer:
    """Return two convolutions with pooling, two layers of a kind, and a unit per person."""
    return jn.serial(
        # Each face gets mean 0 and variance 1, so that the light does not matter.
        jn.layers.instance_norm(use_scale=False, use_bias=False),
        jn.conv(features, 5, padding="VALID", name="c1"),  # (batch, 60, 60, features)
        jax.nn.relu,
        jn.max_pool(2),  # (batch, 30, 30, features)
        jn.conv(features, 5, padding="VALID", name="c2"),  # (batch, 26, 26, features)
        jax.nn.relu,
        jn.max_pool(2),  # (batch, 13, 13, features)
        layer(features, 3, name="l3"),  # (batch, 11, 11, features)
        jax.nn.relu,
        layer(features, 3, name="l4"),  # (batch, 9, 9, features)
        jax.nn.relu,
        jn.flatten(name="features"),
        jn.dropout(0.3),
        jn.dense(people, name="output"),
        name="face_net",
    )


def learn(
    net: jn.Layer, train: Pair, test: Pair, seed: int, config: Config
) -> tuple[float, np.ndarray]:
    """Return the accuracy on the test faces, and the nearest training face by features of each."""
    objective = jn.supervised(
        net,
        optax.softmax_cross_entropy_with_integer_labels,
        metrics={"accuracy": jn.metrics.accuracy},
    )
    shifted = jn.augmented(objective, jn.data.on_inputs(jn.data.random_shift(config.shift)))
    steps = total_steps(len(train[1]), config)
    rate = optax.cosine_decay_schedule(config.learning_rate, steps)
    epochs = run_epochs(
        jn.trainer(shifted, optax.adam(rate)),
        train,
        seed=seed,
        epochs=config.epochs,
        batch_size=config.batch_size,
        evaluate=test,
    )
    last: Any = epochs[-1]
    params, state = last.train_state.params, last.train_state.state

    def features(x: np.ndarray) -> np.ndarray:
        found = np.asarray(jn.inspect.activations(net, params, state, x)["features"])
        return found / np.linalg.norm(found, axis=1, keepdims=True)  # angles are compared

    return last.evaluation["accuracy"], nearest(features(train[0]), features(test[0]))


def search(train: Pair, test: Pair, found: dict[str, np.ndarray]) -> Any:
    """Draw test faces, and below each the nearest training face by each kind of features."""
    is_right = train[1][found["pixels"]] == test[1]
    right = np.flatnonzero(is_right)
    right = right[:: max(len(right) // 3, 1)][:3]  # of different people
    chosen = np.concatenate([np.flatnonzero(~is_right)[:5], right])
    rows, titles = [test[0][chosen]], [f"who is this? {test[1][i]}" for i in chosen]
    for name, places in found.items():
        rows.append(train[0][places[chosen]])
        titles += [f"by {name}: {train[1][places[i]]}" for i in chosen]
    return jn.viz.images(np.repeat(np.concatenate(rows), 3, axis=-1), titles, columns=len(chosen))


SHORT = Short({"seeds": 1, "epochs": 1, "features": 2})


if __name__ == "__main__":
    main(Config, run)
