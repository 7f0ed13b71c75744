"""Features learned without labels, and what a linear readout makes of them on MNIST.

Claim:   a softmax readout of 400 features that were learned without labels (k-means, sparse codes)
         reads MNIST better than one of the 784 pixels, or of random weights; one of a linear map
         (whitening) does not. An RBF network reads the better the more centres it has, up to some
         hundred, and few centres had better be learned than drawn.
Result:  10,000 training digits, for features and readout, 10,000 test digits; mean and standard
         deviation of 3 seeds (0 to 2):
           pixels                       91.01% +- 0.06
           random weights, relu         92.64% +- 0.06
           PCA whitening, linear        87.79% +- 0.02
           random digits, relu          94.55% +- 0.11
           k-means, relu                94.08% +- 0.03
           k-means, triangle            94.46% +- 0.11
           sparse coding, relu          90.90% +- 0.04
           ... relu balanced            94.61% +- 0.11
           sparse coding, FISTA         96.57% +- 0.10
         Codes by FISTA gain most. One step towards them, relu(dense), is no better than the pixels:
         all atoms are ink on paper, so 97.7% of the products with digits are above the penalty
         (seed 0, 2,000 digits), and relu cuts hardly anything off; with biases that bring the mean
         of each product to 0, it does. Digits drawn at random do no worse than centroids.
         RBF networks on the digits of 8x8 pixels (1,438 to train on, 359 to test with), 3 seeds:
           centres             10       30      100      300     1000
           by k-means       81.52%   90.16%   96.10%   97.31%   97.12%
           drawn            72.79%   88.02%   94.52%   97.21%   97.59%
         The options are the first that were tried; nothing was chosen by the test digits.
Time:    190 s of CPU time, loading and compilation included, but for the balanced relu, which was
         run by itself later (the picture is without it).
Machine: 2 CPU cores, jax 0.10.2.
Command: TFDS_DATA_DIR=... python -m experiments.features
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from jaxnet import unsupervised as un
from jaxnet.data.digits import Pair
from jaxnet.viz.figure import COLORS, frame, new_figure

ITERATIONS = 10  # of k-means
STEPS = 20  # of FISTA


@dataclass(frozen=True)
class Config:
    """Learns features without labels and reads digits from them; the record is in the file."""

    features: int = 400
    """of each method"""
    train_size: int = 10_000
    """training digits, for features and readout"""
    test_size: int = 10_000
    """test digits"""
    epochs: int = 20
    """of the readout"""
    seed: int = 0
    """of the first run: draws features, weights and order"""
    seeds: int = 3
    """number of runs"""
    centres: tuple[int, ...] = (10, 30, 100, 300, 1000)
    """of the RBF networks, on the small digits of 8x8 pixels"""
    data_dir: Path | None = None
    """where MNIST lies; by default where TFDS_DATA_DIR says"""
    output: Path = Path("runs/features")
    """folder of the pictures"""


class Learned(NamedTuple):
    """Features before the readout.

    Fields:
      layer: from pixels to features.
      params: of the layer, learned without labels.
      atoms: (pixels, features) to draw; None where there are none.
    """

    layer: jn.Layer
    params: Any
    atoms: Any = None


class Results(NamedTuple):
    """What a run gives.

    Fields:
      accuracies: method -> (seeds,), on the test digits of MNIST.
      rbf: method -> (centres, seeds), on the held-out digits of 8x8 pixels.
      seconds: of all, compilation included.
      pictures: the files that were written.
    """

    accuracies: dict[str, np.ndarray]
    rbf: dict[str, np.ndarray]
    seconds: float
    pictures: list[Path]


def methods(features: int) -> dict[str, Callable[[jax.Array, Any], dict[str, Learned]]]:
    """Method -> `(key, x) -> {encoding: Learned}`: one fit may be used in two ways."""

    def rectified(params: Any) -> Learned:
        net = jn.serial(jn.dense(features), jax.nn.relu)
        return Learned(net, {"dense": params}, params["kernel"])

    def pixels(key, x):
        return {"as they are": Learned(jn.serial(), {})}

    def random_weights(key, x):
        kernel = jn.dense(features).init(key, x)[0]["kernel"]
        params = {"kernel": kernel, "bias": -jnp.asarray(x).mean(0) @ kernel}
        return {"relu": rectified(params)._replace(atoms=None)}  # noise is no sight

    def whitening(key, x):
        params = un.fit_whitening(key, x, features)
        return {"linear": Learned(jn.dense(features), params, params["kernel"])}

    def random_digits(key, x):
        return {"relu": rectified(un.fit_random_vectors(key, x, features))}

    def kmeans(key, x):
        centres = un.kmeans(key, x, features, iterations=ITERATIONS)
        return {
            "relu": rectified(un.fit_kmeans(key, x, features, iterations=ITERATIONS)),
            "triangle": Learned(un.triangle(features), {"centres": centres}),
        }

    def sparse_coding(key, x):
        params = un.fit_sparse_coding(key, x, features, epochs=3, steps=STEPS)
        layer = un.sparse_code(features, -float(params["bias"][0]), positive=True, steps=STEPS)
        codes = Learned(layer, {"dictionary": params["kernel"].T})
        kernel = params["kernel"]
        balanced = {"kernel": kernel, "bias": -jnp.asarray(x).mean(0) @ kernel}
        return {"relu": rectified(params), "relu balanced": rectified(balanced), "FISTA": codes}

    return {
        "pixels": pixels,
        "random weights": random_weights,
        "PCA whitening": whitening,
        "random digits": random_digits,
        "k-means": kmeans,
        "sparse coding": sparse_coding,
    }


@cache  # one compilation for all readouts of one size
def readout(inputs: int, steps: int) -> tuple[jn.Layer, Any, Any]:
    """Softmax regression, its optimizer and its step."""
    net = jn.models.mlp([10], name=f"readout_of_{inputs}")
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    loss = optax.softmax_cross_entropy_with_integer_labels
    objective = jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})
    return net, optimizer, jn.make_step(objective, optimizer)


def read(learned: Learned, key: jax.Array, train: Pair, test: Pair, epochs: int) -> float:
    """Accuracy on the test part, of a readout of these features."""

    def seen(x):
        return jn.predict(learned.layer, learned.params, {}, x, batch_size=500)

    features, others = seen(train[0]), seen(test[0])
    # One scale for all methods, so that one learning rate suits them.
    mean = features.mean(0)
    spread = (features - mean).std()
    features, others = (features - mean) / spread, (others - mean) / spread
    steps = epochs * -(-len(features) // 128)
    net, optimizer, step = readout(features.shape[1], steps)
    train_state = jn.init_training(net, optimizer, key, features)
    for epoch in jn.fit(train_state, step, (features, train[1]), epochs=epochs, batch_size=128):
        train_state = epoch.train_state
    return jn.evaluate(train_state, step, (others, test[1]))["accuracy"]


def rbf_networks(config: Config) -> dict[str, np.ndarray]:
    """Accuracies (centres, seeds) of RBF networks on the digits of 8x8 pixels."""
    train, test = ((x.reshape(len(x), -1), y) for x, y in jn.data.digits())
    found = {}
    for name, method in {
        "k-means": partial(un.kmeans, progress=False),
        "random digits": un.random_vectors,
    }.items():
        found[name] = np.zeros((len(config.centres), config.seeds))
        for (i, seed), _ in np.ndenumerate(found[name]):
            count = config.centres[i]
            key = jax.random.key(config.seed + seed)
            params = un.fit_rbf_centres(jn.child_key(key, "fit"), train[0], count, method=method)
            learned = Learned(jn.rbf(count), params)
            found[name][i, seed] = read(learned, jn.child_key(key, "read"), train, test, 40)
        words = ", ".join(
            f"{count}: {100 * accuracy:.2f}%"
            for count, accuracy in zip(config.centres, found[name].mean(1), strict=True)
        )
        print(f"RBF network, 8x8 digits, centres by {name}: {words}")
    return found


def run(config: Config) -> Results:
    """Learns, reads, prints the table and draws dictionaries and accuracies."""
    start = time.perf_counter()
    (x, y), (x_test, y_test) = jn.data.mnist(data_dir=config.data_dir)
    train = x[: config.train_size].reshape(-1, 784), y[: config.train_size]
    test = x_test[: config.test_size].reshape(-1, 784), y_test[: config.test_size]
    print(f"{len(train[1]):,} digits to learn from, {len(test[1]):,} to test with")
    accuracies: dict[str, np.ndarray] = {}
    dictionaries = {}
    for method, fit in methods(config.features).items():
        begun = time.perf_counter()
        for i in range(config.seeds):
            key = jax.random.key(config.seed + i)
            for encoding, learned in fit(jn.child_key(key, "fit"), train[0]).items():
                name = f"{method}, {encoding}"
                at = accuracies.setdefault(name, np.zeros(config.seeds))
                at[i] = read(learned, jn.child_key(key, "read"), train, test, config.epochs)
                if i == 0 and learned.atoms is not None:
                    dictionaries[method] = np.asarray(learned.atoms)
        for name in [name for name in accuracies if name.startswith(f"{method},")]:
            print(f"{name:23s} {words(accuracies[name])}", flush=True)
        print(f"    {time.perf_counter() - begun:.1f} s", flush=True)
    rbf = rbf_networks(config)
    seconds = time.perf_counter() - start
    print(f"{seconds:.1f} seconds, compilation included")
    figures = {
        "dictionaries": draw_dictionaries(dictionaries),
        "accuracies": draw_accuracies(accuracies, rbf, config.centres),
    }
    pictures = [
        jn.viz.save(figure, config.output / f"{name}.png") for name, figure in figures.items()
    ]
    print("pictures: " + ", ".join(map(str, pictures)))
    return Results(accuracies, rbf, seconds, pictures)


def words(accuracies: np.ndarray) -> str:
    """Mean and standard deviation in percent."""
    spread = f" +- {100 * accuracies.std(ddof=1):.2f}" if len(accuracies) > 1 else ""
    return f"{100 * accuracies.mean():.2f}%{spread}"


def draw_dictionaries(dictionaries: dict[str, np.ndarray], side: int = 6) -> Any:
    """The first atoms of each method, red where light is wanted and blue where none is."""
    names = list(dictionaries)
    figure = new_figure(2.7 * len(names), 3.0)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        atoms = dictionaries[name][:, : side**2]
        atoms = (atoms / np.abs(atoms).max(0)).T.reshape(-1, 28, 28)
        tiles = np.zeros((side**2, 30, 30))
        tiles[: len(atoms), 1:-1, 1:-1] = atoms
        # (side, side, 30, 30) -> (side · 30, side · 30)
        mosaic = tiles.reshape(side, side, 30, 30).transpose(0, 2, 1, 3).reshape(side * 30, -1)
        axes.imshow(mosaic, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_title(name, fontsize=11)
        frame(axes)
    return figure


def draw_accuracies(
    accuracies: dict[str, np.ndarray], rbf: dict[str, np.ndarray], centres: tuple[int, ...]
) -> Any:
    """The readouts of MNIST as points, one a seed; RBF networks as lines over their centres."""
    figure = new_figure(10.5, 3.8)
    left, right = figure.subplots(1, 2)
    names = list(accuracies)
    for row, name in enumerate(names):
        values = 100 * accuracies[name]
        left.plot(values, np.full(len(values), row), "o", color=COLORS[0], alpha=0.6, markersize=6)
        left.plot(values.mean(), row, "|", color="black", markersize=16)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_xlabel("test digits of MNIST read rightly (%)")
    for i, (name, values) in enumerate(rbf.items()):
        mean = 100 * values.mean(1)
        right.plot(centres, mean, "-o", color=COLORS[i], label=f"centres by {name}", markersize=5)
        right.plot(centres, 100 * values, ".", color=COLORS[i], alpha=0.5)
    right.set_xscale("log")
    right.set_xticks(centres, [str(count) for count in centres])
    right.minorticks_off()
    right.set_xlabel("centres of an RBF network")
    right.set_ylabel("held-out 8×8 digits read rightly (%)")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
