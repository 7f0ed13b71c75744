"""The perceptron: separable points, XOR without and with feature maps, and handwritten digits.

Claim: on separable data a perceptron makes fewer mistakes than Novikoff's bound, then none. On XOR
it never converges, and behind a feature map it does.

XOR is four corners, then four clouds of 15 points. The feature maps are the products of two
inputs, 8 radial basis functions and 200 random waves. 1,438 handwritten digits are for training,
and 359 are held out. We did not tune the bandwidth, and chose nothing by the held-out digits.
"""

import itertools
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.common import Output, Seeds, Short, main, mean_std, over_seeds, save
from experiments.records import Command, Picture, Record, higher
from jaxnet.models import perceptron
from jaxnet.training import mistake_bound, perceptron_rule, train_perceptron

RECORDS = (
    Record(
        topic="classic",
        title="A perceptron makes fewer mistakes than Novikoff's bound and never learns XOR",
        verdict="Supported",
        sentence=(
            "Novikoff's bound limits how many mistakes a perceptron makes on separable points. On "
            "60 such points it makes 13, and the bound is 390. XOR is not separable: on four "
            "clouds around its corners the perceptron still makes 51 mistakes in pass 1,000. With "
            "each of three feature maps it makes no mistake from pass 2 on."
        ),
        columns=("data", "mistakes"),
        rows=(
            ("60 points on both sides of a line", "13"),
            ("Novikoff's bound for these 60 points", "390"),
            ("clouds of XOR, in pass 1,000", "51"),
            ("XOR with products of two inputs, in total", "4"),
            ("XOR with 8 radial basis functions, in total", "10"),
            ("XOR with 200 random Fourier features, in total", "4"),
        ),
        commands=(Command("", 20, "20 s of CPU, all parts"),),
        seeds=1,
        key="13 mistakes, bound 390",
        note=(
            "On the four corners of XOR "
            "the weights repeat after 3 passes, which proves that no line separates the "
            "corners. The separable points need no correction from pass 2 on."
        ),
        pictures=(
            Picture("perceptron_line.gif", "The decision line after each mistake"),
            Picture("perceptron_xor.png", "XOR behind feature maps"),
        ),
        lesson=1,
    ),
    Record(
        topic="classic",
        title="Each pair of scikit-learn's small digits is linearly separable",
        verdict="Supported",
        sentence=(
            "One perceptron per pair of classes separates the training digits of all 45 "
            "pairs. On average it classifies 98.98% of the held-out digits of a pair "
            "correctly."
        ),
        columns=("digits", "held-out accuracy (%)", "lowest pair (%)", "highest pair (%)"),
        rows=(("45 pairs of classes", "98.98", "94.52", "100"),),
        commands=(Command("", 20, "20 s of CPU, all parts"),),
        caveat="This holds for 1,438 training digits of 8×8 pixels.",
        seeds=1,
        key="45 of 45 pairs",
        note="We train on 1,438 digits and hold out 359.",
        lesson=1,
    ),
    Record(
        topic="classic",
        title="Random Fourier features make ten classes of digits separable",
        verdict="Supported",
        sentence=(
            "Ten perceptrons, one per class, do not separate the digits in 1,000 passes. "
            "With 1,000 random Fourier features of the pixels they do, and the held-out "
            "accuracy rises from 92.37% to 97.88%."
        ),
        columns=(
            "input",
            *higher("held-out accuracy (%)"),
            "fewest passes until separated",
            "most passes",
        ),
        rows=(
            ("pixels", "92.37 ± 0.73", "never", "never"),
            ("1,000 random Fourier features", "97.88 ± 0.42", "11", "13"),
        ),
        commands=(Command("", 20, "20 s of CPU, all parts"),),
        caveat="We tried only one bandwidth.",
        seeds=5,
        key="97.88 ± 0.42%, pixels 92.37 ± 0.73%",
        baseline="pixels",
        note=(
            "The seed sets the order of the digits and draws the features. We tried only one "
            "bandwidth, and chose nothing on the held-out digits."
        ),
        lesson=1,
    ),
)
MAPS: dict[str, jn.Layer | None] = {
    "no map": None,
    "polynomial": jn.layers.polynomial(2),
    "RBF": jn.layers.rbf(8, width=0.7),
    "random Fourier": jn.layers.random_fourier(200, 1.0),
}


@dataclass(frozen=True)
class Config(Seeds, Output):
    """Trains perceptrons on points, on XOR and on digits."""

    output: Path = Path("runs/perceptron")
    seeds: int = 5
    points: int = 60
    """number of points in the plane, on both sides of a line; XOR has the same number"""
    passes: int = 1000
    """largest number of passes over the data"""
    pairs: int = 45
    """number of pairs of digits, at most 45"""


class Results(NamedTuple):
    """Results of the experiment.

    Fields:
      mistakes: Number of mistakes on separable points, until the first pass without a mistake.
      bound: Novikoff's bound on that number.
      xor: Whether training on XOR converged, by feature map.
      pairs: Whether the training digits of two classes were separated, (pairs,).
      pair_accuracies: Accuracies on the held-out digits of the two classes, (pairs,).
      digits: Accuracy of ten perceptrons on all held-out digits, feature map -> (seeds,).
      pictures: Files written.
    """

    mistakes: int
    bound: float
    xor: dict[str, bool]
    pairs: np.ndarray
    pair_accuracies: np.ndarray
    digits: dict[str, np.ndarray]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Run all parts, one after another."""
    mistakes, bound, line, animation = separable(config)
    converged, clouds = xor(config)
    pairs, pair_accuracies = digit_pairs(config)
    digits = ten_digits(config)
    pictures = [*save({"line": line, "xor": clouds}, config.output), animation]
    return Results(mistakes, bound, converged, pairs, pair_accuracies, digits, pictures)


def line_data(n: int, margin: float = 0.08, seed: int = 4):
    """Return points on both sides of a line, none near it, and the line as parameters."""
    rng = np.random.default_rng(seed)
    w, b = np.array([0.8, -0.6]), 0.2
    x = rng.uniform(-1, 1, (10 * n, 2))
    x = x[np.abs(x @ w + b) > margin][:n].astype(np.float32)
    return x, (x @ w + b > 0).astype(np.int32), {"kernel": w[:, None], "bias": np.array([b])}


def xor_data(n: int, seed: int = 0):
    """Return four clouds on the corners of a square; opposite corners are one class."""
    rng = np.random.default_rng(seed)
    corner = np.arange(n) % 4
    x = np.stack([corner % 2, corner // 2], 1) * 2.0 - 1 + 0.25 * rng.normal(size=(n, 2))
    return x.astype(np.float32), (corner % 2 != corner // 2).astype(np.int32)


def watch(x: np.ndarray, y: np.ndarray, passes: int) -> list[dict[str, np.ndarray]]:
    """Return parameters at the start and after each mistake, trained by steps on one example."""
    trainer = jn.trainer(jn.training.learning_rule(perceptron(), perceptron_rule), optax.sgd(1.0))
    train_state = trainer.init(jax.random.key(0), (x, y[:, None]))
    moments = [jax.device_get(train_state.params)]
    for _ in range(passes):
        before = len(moments)
        for i in range(len(x)):
            train_state, metrics = trainer.step(train_state, (x[i : i + 1], y[i : i + 1, None]))
            if metrics["loss"] > 0:
                moments.append(jax.device_get(train_state.params))
        if len(moments) == before:
            break
    return moments


def decision(params: Any, layer: jn.Layer | None = None, map_params: Any = None):
    """Return the function from points of the plane to the decision of a perceptron."""

    @jax.jit
    def predict(x):
        mapped = x if layer is None else layer.apply(map_params, {}, x)[0]
        return perceptron().apply(params, {}, mapped)[0][:, 0]

    return predict


def animate(figures, path: Path, seconds: float = 0.35) -> Path:
    """Save the figures as an animation in a loop that pauses at the last figure."""
    from PIL import Image

    frames = []
    for figure in figures:
        file = BytesIO()
        figure.savefig(file, format="png", dpi=75)
        image = Image.open(file, formats=["PNG"])
        frames.append(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=32))
    times = [int(1000 * seconds)] * (len(frames) - 1) + [2500]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0)
    return path


def separable(config: Config):
    """Return mistakes against Novikoff's bound, and the line after each of them."""
    x, y, line = line_data(config.points)
    run = train_perceptron(x, y, max_epochs=config.passes)
    bound = mistake_bound(x, y, line)
    print(f"{len(x)} separable points: {run}; Novikoff's bound is {bound:.0f} mistakes")
    moments = watch(x, y, config.passes)
    last = len(moments) - 1
    assert last == run.mistakes.sum()  # the compiled loop and the steps are one rule
    chosen = sorted({round(i) for i in np.geomspace(1, last + 1, 6) - 1})

    def title(i):
        return f"{i} mistake{'s' * (i != 1)}"

    panels = {f"after {title(i)}": decision(moments[i]) for i in chosen}
    figure = jn.viz.decision(panels, x, y, names=["0", "1"], columns=3)
    figures = (
        jn.viz.decision({title(i): decision(moments[i])}, x, y, names=["0", "1"])
        for i in range(last + 1)
    )
    animation = animate(figures, config.output / "line.gif")
    return int(run.mistakes.sum()), bound, figure, animation


def xor(config: Config):
    """Train on XOR without a feature map, which cannot converge, and with three."""
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    print(f"the four corners of XOR: {train_perceptron(corners, [0, 1, 1, 0])}")
    x, y = xor_data(config.points)
    converged, panels = {}, {}
    for name, layer in MAPS.items():
        params, mapped = {}, x
        if layer is not None:
            params, _ = layer.init(jax.random.key(0), x)
            mapped, _ = layer.apply(params, {}, x)
        run = train_perceptron(mapped, y, max_epochs=config.passes)
        print(f"XOR, {name}: {run}")
        converged[name] = run.converged
        panels[name] = decision(run.params, layer, params)
    figure = jn.viz.decision(panels, x, y, names=["0", "1"], columns=4)
    return converged, figure


def digit_pairs(config: Config):
    """Return for each pair of digits whether a hyperplane separates them, and held-out accuracy."""
    (x, y), (x_test, y_test) = jn.data.digits()
    separated, accuracies = [], []
    for a, b in list(itertools.combinations(range(10), 2))[: config.pairs]:
        here, there = np.isin(y, (a, b)), np.isin(y_test, (a, b))
        run = train_perceptron(x[here].reshape(-1, 64), y[here] == b, max_epochs=config.passes)
        read, _ = perceptron().apply(run.params, {}, x_test[there].reshape(-1, 64))
        separated.append(run.converged)
        accuracies.append(float((read[:, 0] == (y_test[there] == b)).mean()))
    print(
        f"{len(separated)} pairs of digits: {sum(separated)} separable; of the held-out digits of "
        f"a pair {np.mean(accuracies):.2%} are separated (from {min(accuracies):.2%} to "
        f"{max(accuracies):.2%})"
    )
    return np.array(separated), np.array(accuracies)


def ten_digits(config: Config):
    """Train ten perceptrons, one per class; the prediction is the class with the highest score."""
    (x, y), (x_test, y_test) = jn.data.digits()
    x, x_test = x.reshape(-1, 64), x_test.reshape(-1, 64)

    def accuracy(name, layer, seed):
        order = np.random.default_rng(seed).permutation(len(x))
        mapped = x, x_test
        if layer is not None:
            params, _ = layer.init(jax.random.key(seed), x)
            mapped = tuple(layer.apply(params, {}, a)[0] for a in (x, x_test))
        one_per_class = y[order, None] == np.arange(10)
        run = train_perceptron(mapped[0][order], one_per_class, max_epochs=config.passes)
        scores, _ = jn.dense(10).apply(run.params, {}, mapped[1])
        print(
            f"ten perceptrons, {name}, seed {seed}: {run.mistakes.sum()} mistakes in "
            f"{len(run.mistakes)} passes, {run.mistakes[-1]} in the last"
        )
        return float((jnp.argmax(scores, -1) == y_test).mean())

    accuracies = {}
    for name, layer in {
        "no map": None,
        "random Fourier": jn.layers.random_fourier(1000, 2.0),
    }.items():
        found = over_seeds(lambda seed, n=name, f=layer: accuracy(n, f, seed), config)
        accuracies[name] = np.array(found)
        print(f"ten perceptrons, {name}: {mean_std(found)} of held-out digits are read correctly")
    return accuracies


SHORT = Short({"points": 10, "passes": 5, "seeds": 1, "pairs": 1})


if __name__ == "__main__":
    main(Config, run)
