"""Image classification: options, training with several seeds, and pictures of the results."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.common import Output, Seeds, mean_std, over_seeds, save, total_steps
from jaxnet.typing import Augmentation, Pair

Optimizer = Literal["sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam"]
RATES: dict[Optimizer, float] = {
    "sgd": 0.1, "momentum": 0.03, "nesterov": 0.03, "adagrad": 0.03, "rmsprop": 1e-3, "adam": 2e-3
}  # fmt: skip


@dataclass(frozen=True)
class Training(Seeds, Output):
    """Options of every experiment on image classification."""

    optimizer: Optimizer = "adam"
    """optimizer"""
    learning_rate: float | None = None
    """highest learning rate, with cosine decay to 0; by default the optimizer's usual rate"""
    warmup: float = 0.0
    """fraction of the steps in which the learning rate rises from a tenth of its highest value"""
    weight_decay: float = 0.0
    """weight decay of the kernels, added to their gradients"""
    epochs: int = 40
    """passes over the training split"""
    batch_size: int = 64
    """examples per step"""
    clean_epochs: int = 0
    """number of epochs at the end that train without augmentation"""
    smoothing: float | None = None
    """label smoothing; by default the usual value for the model"""
    validation: bool = False
    """measure on a fifth of the training split instead of the test split, to choose options"""

    def __post_init__(self):
        super().__post_init__()
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        for name in ("smoothing", "warmup"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if not 0 <= self.clean_epochs <= self.epochs:
            raise ValueError(
                f"clean_epochs must be in [0, {self.epochs}], the epochs, got {self.clean_epochs}"
            )


class Recipe(NamedTuple):
    """A net and its training.

    Fields:
      net: Layer that returns logits (batch, classes).
      first: Name of the layer whose kernel is drawn.
      augment: Function `(key, images) -> images`, for the training images.
      smoothing: Label smoothing, unless the options say otherwise.
      rate: Factor of the optimizer's usual learning rate.
      names: Names of the classes, for the pictures; by default their numbers.
    """

    net: jn.Layer
    first: str
    augment: Augmentation | None = None
    smoothing: float = 0.0
    rate: float = 1.0
    names: Sequence[str] | None = None


class Results(NamedTuple):
    """Results of an experiment.

    Fields:
      accuracies: Accuracies on the test split after the last epoch, (seeds,).
      history: Metrics, metric -> split -> values (epochs,) or (seeds, epochs).
      pictures: Files written.
    """

    accuracies: np.ndarray
    history: dict[str, dict[str, np.ndarray]]
    pictures: list[Path]


def classify(recipe: Recipe, train: Pair, test: Pair, options: Training) -> Results:
    """Train a net with every seed, measure its accuracy, and draw curves and mistakes.

    Args:
      recipe: Net and its training.
      train, test: Pairs (images, labels); `options.validation` replaces the test split.
      options: Options of the run.
    """
    if options.validation:
        train, test = jn.data.split(train, 0.2, labels=train[1])
    print(jn.summary(recipe.net, train[0][:1]))
    print(f"{len(train[1]):,} images to train on, {len(test[1]):,} to test with")
    phases = trainers(recipe, len(train[1]), options)
    runs = over_seeds(lambda seed: learn(phases, train, test, options, seed), options)
    accuracies = np.array([accuracy(run) for run in runs])
    print(f"{mean_std(accuracies, ends=True)} of the test images are classified correctly")
    history = jn.viz.history(*runs)
    pictures = draw(recipe, runs[-1][-1].train_state, test, history, options.output)
    return Results(accuracies, history, pictures)


def trainers(recipe: Recipe, examples: int, options: Training) -> list[tuple[jn.Trainer, int]]:
    """Return the trainers with and without augmentation, each with its epochs."""
    smoothing = recipe.smoothing if options.smoothing is None else options.smoothing
    loss = partial(jn.losses.cross_entropy, label_smoothing=smoothing)
    objective = jn.supervised(recipe.net, loss, metrics={"accuracy": jn.metrics.accuracy})
    augmented = objective
    if recipe.augment:
        augmented = jn.augmented(objective, jn.data.on_inputs(recipe.augment))
    optimizer = make_optimizer(options, total_steps(examples, options), recipe.rate)
    clean = options.clean_epochs
    phases = (augmented, options.epochs - clean), (objective, clean)
    return [(jn.trainer(task, optimizer), epochs) for task, epochs in phases if epochs]


def make_optimizer(
    options: Training, steps: int, scale: float = 1.0
) -> optax.GradientTransformation:
    """Return the optimizer of the options, for a training of `steps` steps."""
    top = options.learning_rate or scale * RATES[options.optimizer]
    rate = optax.cosine_decay_schedule(top, steps)
    if options.warmup:
        rise = int(options.warmup * steps)
        rate = optax.warmup_cosine_decay_schedule(top / 10, top, rise, steps)
    match options.optimizer:
        case "sgd":
            optimizer = optax.sgd(rate)
        case "momentum":
            optimizer = optax.sgd(rate, momentum=0.9)
        case "nesterov":
            optimizer = optax.sgd(rate, momentum=0.9, nesterov=True)
        case "adagrad":
            optimizer = optax.adagrad(rate)
        case "rmsprop":
            optimizer = optax.rmsprop(rate)
        case "adam":
            optimizer = optax.adam(rate)
    if options.weight_decay:
        decay = optax.add_decayed_weights(options.weight_decay, mask=kernels)
        optimizer = optax.chain(decay, optimizer)
    return optimizer


def kernels(params: Any) -> Any:
    """Return a tree of booleans: True for kernels, which decay, False for biases and scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


def learn(
    phases: Sequence[tuple[jn.Trainer, int]], train: Pair, test: Pair, options: Training, seed: int
) -> list[jn.Epoch]:
    """Return all epochs of one seed; rewrite curves_SEED.csv after each, in case you stop."""
    train_state = phases[0][0].init(jax.random.key(seed), train)
    done: list[jn.Epoch] = []
    for trainer, epochs in phases:
        for epoch in jn.fit(
            trainer, train_state, train, epochs=epochs, batch_size=options.batch_size, evaluate=test
        ):
            train_state = epoch.train_state
            done.append(epoch)
            write(done, options.output / f"curves_{seed}.csv")
            if epoch.number % -(-options.epochs // 10) == 0:  # ten lines at most
                print(epoch, flush=True)
    print(f"seed {seed}: {accuracy(done):.2%} of the test images are classified correctly")
    return done


def accuracy(run: Sequence[jn.Epoch]) -> float:
    """Return the accuracy on the test split after the last epoch."""
    assert run[-1].evaluation is not None
    return run[-1].evaluation["accuracy"]


def write(epochs: Sequence[jn.Epoch], path: Path) -> None:
    """Write one line per epoch: loss and accuracy of both splits, and seconds since the start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = np.cumsum([epoch.seconds for epoch in epochs])
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "s"])
        for epoch, s in zip(epochs, seconds, strict=True):
            assert epoch.evaluation is not None
            values = [
                part[m] for part in (epoch.train, epoch.evaluation) for m in ("loss", "accuracy")
            ]
            rows.writerow([epoch.number, *(f"{v:.6f}" for v in values), f"{s:.1f}"])


def draw(
    recipe: Recipe,
    trained: jn.TrainState,
    test: Pair,
    history: dict[str, dict[str, np.ndarray]],
    folder: Path,
) -> list[Path]:
    """Draw all runs' curves, and the last run's mistakes and first kernels."""
    x, y = test
    logits = jn.predict(recipe.net, trained.params, trained.state, x)
    predicted = logits.argmax(-1)
    counts = jn.metrics.confusion(jnp.asarray(predicted), jnp.asarray(y), classes=logits.shape[-1])
    names = np.array(recipe.names or range(logits.shape[-1])).astype(str)
    kernel = np.asarray(trained.params[recipe.first]["kernel"])
    shape = x.shape[1:] if kernel.ndim == 2 else None
    figures = {
        "curves": jn.viz.curves(history),
        "confusion": jn.viz.confusion(counts, names.tolist()),
        "filters": jn.viz.filters(kernel[..., :64], shape=shape),
    }
    wrong = np.flatnonzero(predicted != y)[:30]
    if len(wrong):
        titles = [f"{names[y[i]]}, predicted {names[predicted[i]]}" for i in wrong]
        figures["mistakes"] = jn.viz.images(x[wrong], titles, columns=6)
    else:
        (folder / "mistakes.png").unlink(missing_ok=True)  # of an earlier run
    return save(figures, folder)
