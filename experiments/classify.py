"""What the experiments on images have in common: options, runs with several seeds, pictures."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from jaxnet.data.augment import Augmentation
from jaxnet.data.digits import Pair
from jaxnet.viz.figure import COLORS

Optimizer = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"]
RATES: dict[Optimizer, float] = {
    "sgd": 0.1, "momentum": 0.03, "nesterov": 0.03, "adagrad": 0.03, "rmsprop": 1e-3, "adam": 2e-3
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What can be set for every experiment on images."""

    optimizer: Optimizer = "adam"
    """the rule that changes the weights"""
    learning_rate: float | None = None
    """at the beginning, it falls to 0 as a cosine; None takes what suits the optimizer"""
    epochs: int = 40
    """passes over the training part"""
    batch_size: int = 64
    """examples a step"""
    shift: int | None = None
    """training images move by up to so many pixels, and no more; None takes what suits the model"""
    clean_epochs: int = 0
    """the last so many epochs see the training images as they are"""
    smoothing: float | None = None
    """share of each target that is spread over all classes; None takes what suits the model"""
    seed: int = 0
    """of the first run: draws weights, order and moves"""
    seeds: int = 1
    """number of runs, with seeds one after another"""
    validation: bool = False
    """measure on a fifth of the training part, not on the test part: for choosing options"""
    output: Path = Path("runs")
    """folder of the pictures"""

    def __post_init__(self):
        for name, hint in get_type_hints(type(self)).items():
            choices, value = get_args(hint), getattr(self, name)
            if choices and isinstance(choices[0], str) and value not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, got {value!r}")
        for name in ("epochs", "batch_size", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= (self.smoothing or 0) < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {self.smoothing}")
        if min(self.seed, self.shift or 0) < 0:
            raise ValueError(
                f"seed and shift must not be negative, got {self.seed} and {self.shift}"
            )
        if not 0 <= self.clean_epochs <= self.epochs:
            raise ValueError(
                f"clean_epochs must be in [0, {self.epochs}], the epochs, got {self.clean_epochs}"
            )


class Recipe(NamedTuple):
    """A net, and what suits it.

    Fields:
      net: gives logits (batch, classes).
      first: name of the layer whose weights are drawn.
      augment: changes training images at random, where the options leave the shift open.
      smoothing: of the targets, where the options leave it open.
      rate: times the usual rate of the optimizer, where the options leave it open.
      names: of the classes, for the pictures; their numbers by default.
    """

    net: jn.Layer
    first: str
    augment: Augmentation | None = None
    smoothing: float = 0.0
    rate: float = 1.0
    names: Sequence[str] | None = None


class Results(NamedTuple):
    """What a run of an experiment gives.

    Fields:
      accuracies: (seeds,), share of the test part that is read rightly after the last epoch.
      history: metric -> part -> values (epochs,) or (seeds, epochs).
      seconds: of all runs, compilation included.
      pictures: the files that were written.
    """

    accuracies: np.ndarray
    history: dict[str, dict[str, np.ndarray]]
    seconds: float
    pictures: list[Path]


def make_optimizer(
    options: Options, steps: int, scale: float = 1.0
) -> optax.GradientTransformation:
    """The optimizer of the options, for a run of so many steps."""
    first = options.learning_rate or scale * RATES[options.optimizer]
    rate = optax.cosine_decay_schedule(first, steps)
    match options.optimizer:
        case "sgd":
            return optax.sgd(rate)
        case "momentum":
            return optax.sgd(rate, momentum=0.9)
        case "nesterov":
            return optax.sgd(rate, momentum=0.9, nesterov=True)
        case "adagrad":
            return optax.adagrad(rate)
        case "rmsprop":
            return optax.rmsprop(rate)
        case "adam":
            return optax.adam(rate)


def classify(recipe: Recipe, train: Pair, test: Pair, options: Options) -> Results:
    """Trains a net to tell the classes of images apart, measures it, and draws what it learned.

    Args:
      recipe: the net, and what suits it.
      train, test: (images, labels); the test part is put aside with `options.validation`.
      options: of the run.
    """
    start = time.perf_counter()
    if options.validation:
        train, test = jn.data.split(train, 0.2, labels=train[1])
    steps = options.epochs * -(-len(train[1]) // options.batch_size)
    net = recipe.net
    optimizer = make_optimizer(options, steps, recipe.rate)
    smoothing = recipe.smoothing if options.smoothing is None else options.smoothing
    loss = jn.losses.smoothed_cross_entropy(smoothing)
    objective = jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})
    programs = 1 + bool(options.clean_epochs)  # with and without changes
    step = jn.make_step(objective, optimizer, shapes=programs)
    augment = recipe.augment
    if options.shift is not None:
        augment = jn.data.random_shift(options.shift) if options.shift else None
    augment = jn.data.on_inputs(augment) if augment else None
    print(jn.summary(net, train[0][:1]))
    print(f"{len(train[1]):,} images to train on, {len(test[1]):,} to test with")

    runs: list[list[jn.Epoch]] = []
    for seed in range(options.seed, options.seed + options.seeds):
        train_state = jn.init_training(net, optimizer, jax.random.key(seed), train)
        runs.append([])
        changed = options.epochs - options.clean_epochs
        for epochs, change in ((changed, augment), (options.clean_epochs, None)):
            if not epochs:
                continue
            for epoch in jn.fit(
                train_state, step, train,
                epochs=epochs, batch_size=options.batch_size, evaluate=test, augment=change,
            ):  # fmt: skip
                train_state = epoch.train_state
                number = len(runs[-1]) + 1
                runs[-1].append(epoch._replace(number=number, epochs=options.epochs))
                if number % -(-options.epochs // 10) == 0:  # ten lines at most
                    print(runs[-1][-1])
        print(f"seed {seed}: {accuracy(runs[-1]):.2%} of the test images are read rightly")
    seconds = time.perf_counter() - start
    accuracies = np.array([accuracy(run) for run in runs])
    if options.seeds > 1:
        spread = accuracies.std(ddof=1)
        print(
            f"mean of {options.seeds} seeds: {accuracies.mean():.2%}, standard deviation "
            f"{spread:.2%}, from {accuracies.min():.2%} to {accuracies.max():.2%}"
        )
    print(f"{seconds:.1f} seconds, compilation included")
    history = jn.viz.history(*runs)
    pictures = draw(recipe, runs[-1][-1].train_state, test, history, options.output)
    return Results(accuracies, history, seconds, pictures)


def some_of_each(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Places of so many examples of each class, drawn by the seed, none twice."""
    draw = np.random.default_rng(seed)
    rows = [draw.choice(np.flatnonzero(y == c), count, replace=False) for c in np.unique(y)]
    return np.concatenate(rows)


def read(step: Any, trained: jn.TrainState, data: Pair) -> float:
    """Share of the digits that are read rightly."""
    return jn.evaluate(trained, step, data, batch_size=1000)["accuracy"]


def spread(values: np.ndarray) -> float:
    """Standard deviation over the seeds."""
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def by_labels(axes: Any, accuracies: dict[str, dict[int, np.ndarray]], step: float) -> None:
    """Lines of accuracy by labelled examples of a class, with deviations; 0 labels are all.

    Args:
      axes: of matplotlib, to draw on.
      accuracies: way -> labels of a class -> (seeds,).
      step: between the lines, so that they do not cover each other.
    """
    for i, (name, found) in enumerate(accuracies.items()):
        places = np.arange(len(found)) + step * (i - len(accuracies) / 2)
        means = [100 * a.mean() for a in found.values()]
        errors = [100 * spread(a) if len(a) > 1 else 0 for a in found.values()]
        style: Any = dict(color=COLORS[i % len(COLORS)], marker="o", markersize=4, capsize=2)
        axes.errorbar(places, means, errors, label=name, **style)
    labels = list(next(iter(accuracies.values())))
    axes.set_xticks(range(len(labels)), [str(n or "all") for n in labels])
    axes.set_xlabel("labelled digits a class")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def accuracy(run: list[jn.Epoch]) -> float:
    """On the test part, after the last epoch."""
    assert run[-1].test is not None
    return run[-1].test["accuracy"]


def draw(
    recipe: Recipe,
    trained: jn.TrainState,
    test: Pair,
    history: dict[str, dict[str, np.ndarray]],
    folder: Path,
) -> list[Path]:
    """Pictures of all runs' curves, and of the last run's mistakes and first layer."""
    x, y = test
    logits = jn.predict(recipe.net, trained.params, trained.state, x)
    read = logits.argmax(-1)
    counts = jn.metrics.confusion(jnp.asarray(read), jnp.asarray(y), classes=logits.shape[-1])
    names = np.array(recipe.names or range(logits.shape[-1])).astype(str)
    kernel = np.asarray(trained.params[recipe.first]["kernel"])
    shape = x.shape[1:] if kernel.ndim == 2 else None
    figures = {
        "curves": jn.viz.curves(history),
        "confusion": jn.viz.confusion(counts, names.tolist()),
        "filters": jn.viz.filters(kernel[..., :64], shape=shape),
    }
    wrong = np.flatnonzero(read != y)[:30]
    if len(wrong):
        said = "" if recipe.names else "read "
        titles = [f"{said}{names[read[i]]}, is {names[y[i]]}" for i in wrong]
        figures["mistakes"] = jn.viz.images(x[wrong], titles, columns=6)
    else:
        (folder / "mistakes.png").unlink(missing_ok=True)  # those of an earlier run
    pictures = [jn.viz.save(figure, folder / f"{name}.png") for name, figure in figures.items()]
    print("pictures: " + ", ".join(map(str, pictures)))
    return pictures
