"""Features without labels: an encoder learned by BYOL from digits, used with few labels.

Claim: features that BYOL learns without labels classify better than those of a random encoder.

BYOL compares two distorted views of each digit. The online encoder predicts, from one view, what
the target makes of the other view. The target is a moving average of the online encoder:

    online = jn.follow(jn.serial(encoder, projector), 0.98)

Then a linear layer on the encoder learns from 10 or 100 labels per class. Either the encoder is
fixed and the layer is a logistic regression, or all is trained with the same distortions. The
penalty of the regression and the number of epochs of the training are those with the highest
accuracy on 2,000 other labelled digits, chosen for each method in the same way.
"""

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
    labels_figure,
    labels_table,
    main,
    per_class,
    run_epochs,
    save,
)
from experiments.records import Command, Record, higher
from jaxnet.data.digits import Pair

RECORDS = (
    Record(
        topic="transfer",
        title="Features that BYOL learns without labels beat random features",
        verdict="Supported",
        sentence=(
            "BYOL learns an encoder from 10,000 digits without labels. A logistic regression "
            "on its fixed features classifies 73.81% of the test digits correctly with 100 "
            "labels per class, against 60.59% on the features of a random encoder."
        ),
        columns=("encoder", *higher("10 labels per class (accuracy, %)", "100 labels")),
        rows=(
            ("random, fixed", "44.91 ± 0.92", "60.59 ± 3.26"),
            ("BYOL, fixed", "56.56 ± 1.01", "73.81 ± 0.84"),
        ),
        commands=(Command("", 193, "193 s of CPU, all methods"),),
        seeds=3,
        key="73.81 ± 0.84%, random features 60.59 ± 3.26%",
        baseline="random, fixed",
        note=(
            "The features are better than random ones in every seed. Seeds draw digits with "
            "labels, weights and order. The batch norm of the random encoder has seen the "
            "digits without labels."
        ),
        versions="jax 0.12.0.1",
    ),
    Record(
        topic="transfer",
        title="A net that starts from BYOL is not reliably better than one from random weights",
        verdict="Not supported",
        sentence=(
            "Here the whole net trains on the labels, from BYOL or from random weights. With "
            "100 labels per class they reach 85.30% and 85.12%. Both beat the fixed features "
            "of BYOL."
        ),
        columns=("encoder", *higher("10 labels per class (accuracy, %)", "100 labels")),
        rows=(
            ("random, trained", "60.01 ± 10.53", "85.12 ± 4.34"),
            ("BYOL, trained", "64.67 ± 10.69", "85.30 ± 0.96"),
            ("BYOL, fixed", "56.56 ± 1.01", "73.81 ± 0.84"),
        ),
        commands=(Command("", 193, "193 s of CPU, all methods"),),
        seeds=3,
        key="85.30 ± 0.96%, random weights 85.12 ± 4.34%",
        baseline="random, trained",
        note=(
            "Starting from BYOL is better in two of three seeds with 10 labels per class, and "
            "in one of three with 100. The number of epochs was chosen on 2,000 other labelled "
            "digits, for each method in the same way."
        ),
        history=(
            "Settings were changed once after a look at a result. A first run, stopped after "
            "seed 0, trained BYOL for 10 epochs and had longer choices of epochs for the "
            "labels. There the whole net from random weights reached 73.69% with 10 labels per "
            "class and 83.16% with 100, where the settings here give 49.66% with 10 labels for "
            "that seed. So in this table it is undertrained with 10 labels per class, and the "
            "rows of trained nets say nothing about more epochs."
        ),
        versions="jax 0.12.0.1",
    ),
)

METHODS = (
    "random encoder, fixed", "BYOL, fixed", "random encoder, trained", "BYOL, trained"
)  # fmt: skip
VALIDATION = 2000  # digits after the training digits that choose the penalty and the epochs
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
EPOCHS = {10: (50, 100, 200), 100: (20, 40)}  # with labels, by labels per class
DISTORT = jn.data.elastic(rotation=20, shear=10, scale=(0.75, 1.3), shift=3, displacement=2)


@dataclass(frozen=True)
class Config(TrainSize, Seeds, Output):
    """Learns features of digits without labels and classifies with few."""

    output: Path = Path("runs/byol")
    seeds: int = 3
    train_size: int | None = 10000
    """number of digits without labels"""
    labels: tuple[Literal[10, 100], ...] = (10, 100)
    """labelled digits per class"""
    epochs: int = 6
    """passes over the digits without labels"""
    decay: float = 0.98
    """weight of the old target in each step"""


class Results(NamedTuple):
    """Results of the experiment.

    Fields:
      accuracies: Method -> labels per class -> test accuracies (seeds,).
      losses: Loss of BYOL after each epoch, (seeds, epochs); 0 for equal
        views, 2 for unrelated ones.
      pictures: Files written.
    """

    accuracies: dict[str, dict[int, np.ndarray]]
    losses: np.ndarray
    pictures: list[Path]


def run(config: Config) -> Results:
    """Trains and probes the encoders for each seed."""
    (x, y), test = jn.data.mnist(data_dir=config.data_dir)
    size = config.train_size or len(x) - VALIDATION
    validation = x[size : size + VALIDATION], y[size : size + VALIDATION]
    x, y = x[:size], y[:size]
    found: dict[str, dict[int, list[float]]] = {
        name: {labels: [] for labels in config.labels} for name in METHODS
    }
    losses = []
    for seed in config.all_seeds:
        params, state, history = learn(x, config, seed)
        losses.append(history)
        learned, drawn = (params, state), random_encoder(x, seed)
        for labels in config.labels:
            rows = per_class(y, labels, seed)
            data = (x[rows], y[rows]), validation, test
            epochs = EPOCHS[labels]
            results = (
                probe(drawn, *data),
                probe(learned, *data),
                supervised(None, *data, epochs, seed),
                supervised(learned, *data, epochs, seed),
            )
            for name, accuracy in zip(METHODS, results, strict=True):
                found[name][labels].append(accuracy)
            words = ", ".join(f"{name} {found[name][labels][-1]:.2%}" for name in found)
            print(f"seed {seed}, {labels} labels per class: {words}", flush=True)
    accuracies = {
        name: {n: np.array(values) for n, values in by_labels.items()}
        for name, by_labels in found.items()
    }
    what = "accuracy on the test digits"
    print(labels_table(what, accuracies))
    return Results(
        accuracies,
        np.array(losses),
        save({"byol": labels_figure(what, accuracies, 6.4, 3.6)}, config.output),
    )


def encoder() -> jn.Layer:
    """Three convolutions of stride 2, and the mean over all places: 64 features."""

    def block(features: int, number: int) -> jn.Layer:
        conv = jn.conv(features, 3, strides=2, use_bias=False)
        return jn.serial(conv, jn.batch_norm(), jax.nn.relu, name=f"block_{number}")

    blocks = [block(features, i) for i, features in enumerate((16, 32, 64))]
    return jn.serial(*blocks, jn.global_avg_pool(), name="encoder")


def projector(name: str) -> jn.Layer:
    return jn.serial(jn.dense(128), jn.batch_norm(), jax.nn.relu, jn.dense(32), name=name)


def byol(decay: float) -> jn.Layer:
    """The objective: batches of images without labels."""
    online = jn.follow(jn.serial(encoder(), projector("projector"), name="online"), decay)

    def objective(m, x):
        a, b = DISTORT(m.key("a"), x), DISTORT(m.key("b"), x)
        y, target = m(online, (jnp.concatenate([a, b]), jnp.concatenate([b, a])))
        predicted = m(projector("predictor"), y)
        distance = 1 - optax.cosine_similarity(predicted, target, epsilon=1e-6)
        return distance.reshape(2, -1).sum(0), {}

    return jn.compose(objective, name="byol")


def learn(x: np.ndarray, config: Config, seed: int) -> tuple[Any, Any, list[float]]:
    """Params and state of the encoder after BYOL, and the losses."""
    steps = config.epochs * -(-len(x) // 128)
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps)
    trainer = jn.trainer(byol(config.decay), optax.adamw(rate, weight_decay=1e-4))
    epochs = run_epochs(trainer, x, seed=seed, epochs=config.epochs, batch_size=128)
    last = epochs[-1].train_state
    losses = [epoch.train["loss"] for epoch in epochs]
    return last.params["online"]["encoder"], last.state["online"]["encoder"], losses


def random_encoder(x: np.ndarray, seed: int) -> tuple[Any, Any]:
    """An untrained encoder with statistics of the digits."""
    net = encoder()
    params, state = net.init(jax.random.key(seed), x[:1])
    run = jax.jit(partial(net.apply, train=True))
    for i in range(40):
        _, state = run(params, state, x[(i * 128 + np.arange(128)) % len(x)])
    return params, state


def probe(encoded: tuple[Any, Any], few: Pair, validation: Pair, test: Pair) -> float:
    """Test accuracy of a logistic regression on the features."""
    net = encoder()

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
    """Kernel and bias of a logistic regression, by 300 steps of Adam on all examples."""

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


def supervised(
    encoded: tuple[Any, Any] | None,
    few: Pair,
    validation: Pair,
    test: Pair,
    epochs: tuple[int, ...],
    seed: int,
) -> float:
    """Test accuracy of an encoder, given or drawn, trained with a linear layer on the labels."""
    loss = optax.softmax_cross_entropy_with_integer_labels
    net = jn.serial(encoder(), jn.dense(10))
    objective = jn.supervised(net, loss, metrics={"accuracy": jn.metrics.accuracy})
    trainer = jn.trainer(jn.augmented(objective, jn.data.on_inputs(DISTORT)), optax.adam(3e-3))
    given = None if encoded is None else jax.tree.map(jnp.copy, {"encoder": encoded[0]})
    train_state = trainer.init(jax.random.key(seed), few, params=given)
    if encoded is not None:
        state = jax.tree.map(jnp.copy, {"encoder": encoded[1]})
        train_state = train_state._replace(state=state)
    best, scores = None, []
    for epoch in jn.fit(trainer, train_state, few, epochs=max(epochs), batch_size=50):
        if epoch.number not in epochs:
            continue
        params, state = epoch.train_state.params, epoch.train_state.state
        of = partial(jn.evaluate, objective, params, state, batch_size=500)
        scores.append(of(validation)["accuracy"])
        if scores[-1] == max(scores):
            best = of(test)["accuracy"]
    assert best is not None
    return float(best)


SHORT = Short(
    {"labels": (10,), "epochs": 1, "seeds": 1, "train_size": 300},
    {"EPOCHS": {10: (1,)}, "VALIDATION": 50, "PENALTIES": (1e-2,)},
)


if __name__ == "__main__":
    main(Config, run)
