"""Features without labels: an encoder learned from digits by BYOL, SimCLR or DINO.

Claim: features learned without labels classify better than features of a random encoder.

All three methods see two distorted views of each digit. SimCLR finds the other view of a digit
among all views of the batch. In BYOL a predictor computes, from one view, the target's output for
the other view. In DINO the net sorts both views into 256 prototypes and must agree with a target,
whose assignments are centered and sharpened. The target is a moving average of the net:

    online = jn.transforms.moving_average(net, 0.99)

The encoder, the projector, the distortions, the optimizer and the number of steps are the same for
all. Then a linear layer on the encoder learns from 10 or 100 labels per class. Either the encoder
is fixed and the layer is a logistic regression, or both are trained with the same distortions.

The batch norm of the random encoder has seen the digits without labels. For each method, we choose
the penalty of the regression and the number of epochs by the accuracy on 2,000 other labeled
digits. The temperatures are taken from the papers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
    labels_table,
    main,
    per_class,
    plot_by_labels,
    run_epochs,
    save,
    total_steps,
)
from experiments.records import Command, Picture, Record, higher
from jaxnet.typing import Pair
from jaxnet.viz.style import new_figure

COMMAND = Command("--train-size 10000 --epochs 8", 375.1, "304 s of CPU, all methods")
RECORDS = (
    Record(
        topic="transfer",
        title="Features that SimCLR learns without labels beat random features",
        verdict="Supported",
        sentence=(
            "Three methods learn an encoder from 10,000 digits without labels. We then train a "
            "logistic regression on its fixed features. With 100 labels per class, it classifies "
            "85.56% of the test digits correctly on the features of SimCLR, and 60.59% on a "
            "random encoder's. BYOL and DINO are between the two."
        ),
        columns=("encoder", *higher("10 labels per class (accuracy, %)", "100 labels")),
        rows=(
            ("random, fixed", "44.91 ± 0.92", "60.59 ± 3.26"),
            ("BYOL, fixed", "55.01 ± 2.09", "73.58 ± 1.55"),
            ("DINO, fixed", "56.76 ± 3.17", "75.57 ± 1.07"),
            ("SimCLR, fixed", "71.58 ± 1.82", "85.56 ± 0.96"),
        ),
        commands=(COMMAND,),
        caveat="No option was varied, so a tuned BYOL or DINO may do better.",
        seeds=3,
        key="85.56 ± 0.96%, random features 60.59 ± 3.26%",
        baseline="random, fixed",
        note=(
            "Every method is better than random features in every seed.\n"
            "All methods have the same encoder, distortions and number of steps, and no option was "
            "varied.\n"
            "Seeds draw digits with labels, weights and order."
        ),
        pictures=(
            Picture("self_supervised.png", "Accuracy by labels per class, fixed and trained"),
        ),
        lesson=23,
    ),
    Record(
        topic="transfer",
        title="Starting from features learned without labels is not reliably better",
        verdict="Not supported",
        claim=(
            "a network that starts from features learned without labels classifies better than "
            "one that starts from random weights"
        ),
        sentence=(
            "The whole net trains on the labels. It starts from random weights, or from an encoder "
            "that has learned without labels. With 100 labels per class, random weights reach "
            "86.45%, and the best start, BYOL, 90.02%. The seeds differ more than the methods."
        ),
        columns=("encoder", *higher("10 labels per class (accuracy, %)", "100 labels")),
        rows=(
            ("random, trained", "72.73 ± 9.19", "86.45 ± 6.28"),
            ("BYOL, trained", "74.23 ± 6.72", "90.02 ± 2.50"),
            ("DINO, trained", "73.70 ± 8.43", "85.51 ± 6.21"),
            ("SimCLR, trained", "69.66 ± 7.46", "88.88 ± 2.47"),
        ),
        commands=(COMMAND,),
        seeds=3,
        key="90.02 ± 2.50%, random weights 86.45 ± 6.28%",
        baseline="random, trained",
        note=(
            "The number of epochs was chosen on 2,000 other labeled digits, for each method in the "
            "same way. Fixed features of SimCLR vary less between seeds than any trained net does."
        ),
    ),
)

VALIDATION = 2000  # digits after the training digits that choose the penalty and the epochs
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
EPOCHS = {10: (50, 100, 200, 400), 100: (20, 40, 80)}  # with labels, by labels per class
DISTORT = jn.data.elastic(rotation=20, shear=10, scale=(0.75, 1.3), shift=3, displacement=2)
PROTOTYPES = 256

Encoded = tuple[Any, Any]  # params and state of an encoder


@dataclass(frozen=True)
class Config(TrainSize, Seeds, Output):
    """Learns features of digits without labels and classifies with few."""

    output: Path = Path("runs/self_supervised")
    methods: tuple[Literal["byol", "simclr", "dino"], ...] = ("byol", "simclr", "dino")
    """methods that learn without labels"""
    seeds: int = 3
    labels: tuple[Literal[10, 100], ...] = (10, 100)
    """labeled digits per class"""
    epochs: int = 20
    """passes over the digits without labels"""
    batch_size: int = 256
    """digits without labels per step"""
    learning_rate: float = 3e-3
    """peak learning rate, reached after the warmup, with cosine decay to 0"""
    decay: float = 0.99
    """weight of the old target in each step of BYOL and DINO"""
    temperature: float = 0.5
    """temperature of SimCLR"""


class Results(NamedTuple):
    """Results of the experiment.

    Fields:
      accuracies: Test accuracies, method -> labels per class -> (seeds,).
      losses: Loss after each epoch without labels, method -> (seeds, epochs).
      pictures: Files written.
    """

    accuracies: dict[str, dict[int, np.ndarray]]
    losses: dict[str, np.ndarray]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Train the encoders and classify with their features, for each seed."""
    (x, y), test = jn.data.mnist(data_dir=config.data_dir)
    size = config.train_size or len(x) - VALIDATION
    validation = x[size : size + VALIDATION], y[size : size + VALIDATION]
    x, y = x[:size], y[:size]
    net = encoder()
    encoders = {"random encoder": [random_encoder(net, x, seed) for seed in config.all_seeds]}
    losses = {}
    for method in config.methods:
        name, objective = METHODS[method]
        print(name)
        trainer = jn.trainer(objective(config), optimizer(config, len(x)))
        runs = [learn(trainer, x, config, seed) for seed in config.all_seeds]
        encoders[name] = [encoded for encoded, _ in runs]
        losses[name] = np.array([history for _, history in runs])
    classifiers = {"fixed": partial(probe, net), "trained": partial(fine_tune, classifier(net))}
    accuracies: dict[str, dict[int, np.ndarray]] = {}
    for how, classify in classifiers.items():
        for name, encoded in encoders.items():
            found = accuracies[f"{name}, {how}"] = {}
            for labels in config.labels:
                values = []
                for seed, given in zip(config.all_seeds, encoded, strict=True):
                    rows = per_class(y, labels, seed)
                    values.append(classify(given, (x[rows], y[rows]), validation, test, seed))
                found[labels] = np.array(values)
            words = ", ".join(f"{n}: {np.round(100 * a, 2)}" for n, a in found.items())
            print(f"{name}, {how}, accuracy in percent by labels per class: {words}", flush=True)
    print(labels_table("accuracy on the test digits", accuracies))
    return Results(accuracies, losses, save({"self_supervised": draw(accuracies)}, config.output))


def encoder() -> jn.Layer:
    """Return three convolutions of stride 2, and the mean over all places: 64 features."""

    def block(features: int, number: int) -> jn.Layer:
        conv = jn.conv(features, 3, strides=2, use_bias=False)
        return jn.serial(conv, jn.batch_norm(), jax.nn.relu, name=f"block_{number}")

    blocks = [block(features, i) for i, features in enumerate((16, 32, 64))]
    return jn.serial(*blocks, jn.global_avg_pool(), name="encoder")


def projector(name: str) -> jn.Layer:
    return jn.serial(jn.dense(128), jn.batch_norm(), jax.nn.relu, jn.dense(32), name=name)


def two_views(m: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return two distorted views of each image (2 * batch, ...), and the other view of each."""
    a, b = DISTORT(m.key("a"), x), DISTORT(m.key("b"), x)
    return jnp.concatenate([a, b]), jnp.concatenate([b, a])


def per_image(losses: jax.Array) -> jax.Array:
    """Return the mean loss of the two views of each image."""
    return losses.reshape(2, -1).mean(0)


def unit(x: jax.Array) -> jax.Array:
    """Return vectors of length 1 along the last axis."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def byol(config: Config) -> jn.Layer:
    """Return the objective of BYOL, over batches of images without labels.

    Reference: Grill et al. 2020, "Bootstrap Your Own Latent".
    """
    net = jn.serial(encoder(), projector("projector"), name="online")
    online = jn.transforms.moving_average(net, config.decay)

    def objective(m, x):
        y, target = m(online, two_views(m, x))
        predicted = m(projector("predictor"), y)
        return per_image(2 - 2 * (unit(predicted) * unit(target)).sum(-1)), {}

    return jn.compose(objective, name="byol")


def simclr(config: Config) -> jn.Layer:
    """Return the objective of SimCLR, over batches of images without labels.

    Reference: Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
    Representations".
    """
    net = jn.serial(encoder(), projector("projector"), name="online")

    def objective(m, x):
        views, _ = two_views(m, x)
        return per_image(contrastive(m(net, views), config.temperature)), {}

    return jn.compose(objective, name="simclr")


def contrastive(y: jax.Array, temperature: float) -> jax.Array:
    """Return the cross-entropy of finding the other view of each image (NT-Xent).

    Args:
      y: Features (2 * batch, features): first the features of one view of each image, then of the
        other view.
      temperature: Divisor of the cosines.
    """
    y = unit(y)
    logits = jnp.where(jnp.eye(len(y), dtype=bool), -jnp.inf, y @ y.T / temperature)
    other = jnp.roll(jnp.arange(len(y)), len(y) // 2)
    return optax.softmax_cross_entropy_with_integer_labels(logits, other)


def dino(config: Config) -> jn.Layer:
    """Return the objective of DINO, over batches of images without labels.

    Reference: Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers".
    """

    def prototypes(m, x):  # cosines with 256 vectors
        kernel = m.param("kernel", jn.initializers.normal(1.0), (PROTOTYPES, x.shape[-1]))
        return unit(x) @ unit(kernel).T

    head = jn.compose(prototypes, name="prototypes")
    online = jn.transforms.moving_average(
        jn.serial(encoder(), projector("projector"), head, name="online"), config.decay
    )

    def objective(m, x):
        y, target = m(online, two_views(m, x))
        center = m.state("center", jn.initializers.zeros, target.shape[-1:])
        if m.train:
            m.update("center", 0.9 * center + 0.1 * target.mean(0))
        wanted = jax.nn.softmax((target - center) / 0.04)
        return per_image(optax.softmax_cross_entropy(y / 0.1, wanted)), {}

    return jn.compose(objective, name="dino")


METHODS: dict[str, tuple[str, Callable[[Config], jn.Layer]]] = {
    "byol": ("BYOL", byol),
    "simclr": ("SimCLR", simclr),
    "dino": ("DINO", dino),
}


def optimizer(config: Config, examples: int) -> optax.GradientTransformation:
    steps = total_steps(examples, config)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, steps // 10, steps)
    return optax.adamw(rate, weight_decay=1e-4)


def learn(
    trainer: jn.Trainer, x: np.ndarray, config: Config, seed: int
) -> tuple[Encoded, list[float]]:
    """Return the encoder after training without labels, and the loss of each epoch."""
    options = {"epochs": config.epochs, "batch_size": config.batch_size}
    epochs = run_epochs(trainer, x, seed=seed, **options)
    last = epochs[-1].train_state
    encoded = last.params["online"]["encoder"], last.state["online"]["encoder"]
    return encoded, [epoch.train["loss"] for epoch in epochs]


def random_encoder(net: jn.Layer, x: np.ndarray, seed: int) -> Encoded:
    """Return an untrained encoder with statistics of the digits."""
    params, state = net.init(jax.random.key(seed), x[:1])
    run = jax.jit(partial(net.apply, train=True))
    for i in range(40):
        _, state = run(params, state, x[(i * 128 + np.arange(128)) % len(x)])
    return params, state


def probe(
    net: jn.Layer, encoded: Encoded, few: Pair, validation: Pair, test: Pair, seed: int
) -> float:
    """Return the test accuracy of a logistic regression on the features; it starts from zeros."""

    def features(x):
        return jn.predict(net, *encoded, x, batch_size=500)

    fit_x, check_x, test_x = features(few[0]), features(validation[0]), features(test[0])
    mean, std = fit_x.mean(0), fit_x.std(0) + 1e-6
    fit_x, check_x, test_x = ((a - mean) / std for a in (fit_x, check_x, test_x))
    weights = [regression(fit_x, few[1], penalty) for penalty in PENALTIES]
    scores = [np.mean((check_x @ w + b).argmax(-1) == validation[1]) for w, b in weights]
    w, b = weights[int(np.argmax(scores))]
    return float(np.mean((test_x @ w + b).argmax(-1) == test[1]))


@jax.jit
def regression(x: jax.Array, y: jax.Array, penalty: float) -> tuple[jax.Array, jax.Array]:
    """Return the kernel and bias of a logistic regression, by 300 steps of Adam on all examples."""

    def loss(params):
        values = optax.softmax_cross_entropy_with_integer_labels(x @ params[0] + params[1], y)
        return values.mean() + penalty * jnp.square(params[0]).sum()

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 300))

    def step(carry, _):
        params, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    params: Any = (jnp.zeros((x.shape[1], 10)), jnp.zeros(10))
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=300)
    return params


def classifier(net: jn.Layer) -> jn.Trainer:
    """Return the trainer of the encoder with a linear layer, on distorted digits with labels."""
    loss = optax.softmax_cross_entropy_with_integer_labels
    whole = jn.serial(net, jn.dense(10))
    objective = jn.supervised(whole, loss, metrics={"accuracy": jn.metrics.accuracy})
    return jn.trainer(jn.augmented(objective, jn.data.on_inputs(DISTORT)), optax.adam(3e-3))


def fine_tune(
    trainer: jn.Trainer, encoded: Encoded, few: Pair, validation: Pair, test: Pair, seed: int
) -> float:
    """Return the test accuracy after training from an encoder, with the best number of epochs."""
    params, state = ({"encoder": part} for part in encoded)
    train_state = trainer.init(jax.random.key(seed), few, params=params)._replace(state=state)
    best, scores = 0.0, []
    epochs = EPOCHS[len(few[1]) // 10]
    for epoch in jn.fit(trainer, train_state, few, epochs=max(epochs), batch_size=50):
        if epoch.number not in epochs:
            continue
        now = epoch.train_state
        of = partial(jn.evaluate, trainer.objective, now.params, now.state, batch_size=500)
        scores.append(of(validation)["accuracy"])
        if scores[-1] == max(scores):
            best = of(test)["accuracy"]
    return float(best)


def draw(accuracies: dict[str, dict[int, np.ndarray]]) -> Any:
    """Draw accuracies by labels per class: fixed encoders left, trained encoders right."""
    figure = new_figure(8, 3.4)
    both = figure.subplots(1, 2, sharey=True)
    for axes, how in zip(both, ("fixed", "trained"), strict=True):
        of = {name: found for name, found in accuracies.items() if name.endswith(how)}
        plot_by_labels(axes, {name.split(",")[0]: found for name, found in of.items()}, 0.03)
        axes.set_title(f"encoder {how}")
    both[0].set_ylabel("accuracy on the test digits, %")
    both[1].legend(frameon=False, loc="lower right")
    return figure


SHORT = Short(
    {"labels": (10,), "epochs": 1, "seeds": 1, "train_size": 300, "batch_size": 50},
    {"EPOCHS": {10: (1,)}, "VALIDATION": 50, "PENALTIES": (1e-2,)},
    long=True,
)


if __name__ == "__main__":
    main(Config, run)
