"""CIFAR-10's photos of ten kinds of things, 32x32 pixels, told apart by convolutional nets.

Claim:   a small net tells at least 80% of the test photos rightly after less than ten minutes on
         two processor cores.
Data:    CIFAR-10 as TensorFlow Datasets format, but re-encoded as JPEG, which is lossy: figures are
         close to those of the original set, not the same.
Result:  10,000 test photos, one seed (0): 83.31% after 16 epochs. ResNet-20, as far as the time
         allowed: 28.23, 63.25, 69.90, 75.87, 79.52, 81.01% after each of 6 epochs.
         Chosen on a fifth of the training photos (`--validation`), 1 seed: 75.76% after
         `--epochs 5`; 73.90% after 5 in batches of 256 at a rate of 0.2, with moves by 4 and a
         square of 8 pixels covered. The fast net has 391,466 parameters and 14.4
         million multiply-adds a photo, ResNet-20 272,474 and 40.8 million.
Time:    475 s by the clock, compilation included, with large pages (GLIBC_TUNABLES, see the
         README). ResNet-20: about 21 min of CPU.
Machine: 2 CPU cores, jax 0.10.2.
Command: TFDS_DATA_DIR=... python -m experiments.cifar10
         TFDS_DATA_DIR=... python -m experiments.cifar10 --model resnet20 --epochs 6
         (may be stopped at any time: curves.csv and curves.png are written after each epoch)
"""

import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
import optax

import jaxnet as jn
from experiments.classify import Recipe, draw

Model = Literal["fast", "resnet20"]
NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Trains a net to tell the photos of CIFAR-10 apart; the record is in the file."""

    model: Model = "fast"
    """a small net that halves its maps early, or the ResNet-20 of the paper"""
    epochs: int = 16
    """passes over the training part"""
    batch_size: int = 128
    """examples a step"""
    learning_rate: float = 0.1
    """at its height, after a fifth of the steps; it comes from a tenth of it and falls to 0"""
    weight_decay: float = 5e-4
    """of the kernels"""
    smoothing: float = 0.1
    """share of each target that is spread over all classes"""
    shift: int = 3
    """training photos move by up to so many pixels"""
    cutout: int = 0
    """side of the square that is covered in each training photo; 0 covers nothing"""
    seed: int = 0
    """draws weights, order and changes"""
    validation: bool = False
    """measure on a fifth of the training part, not on the test part: for choosing options"""
    data_dir: Path | None = None
    """where CIFAR-10 lies; by default where TFDS_DATA_DIR says"""
    train_size: int | None = None
    """train on the first so many photos only"""
    output: Path = Path("runs/cifar10")
    """folder of the curves and pictures"""

    def __post_init__(self):
        if self.model not in get_args(Model):
            raise ValueError(f"model is one of {', '.join(get_args(Model))}, got {self.model!r}")
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.smoothing < 1 or not self.weight_decay >= 0:
            raise ValueError(
                "smoothing must be in [0, 1) and weight_decay not negative, got "
                f"{self.smoothing} and {self.weight_decay}"
            )


class Results(NamedTuple):
    """What the experiment gives.

    Fields:
      history: metric -> part -> values (epochs,).
      seconds: of training and testing, compilation included.
      curves: the file with a line an epoch.
      pictures: the files that were written.
    """

    history: dict[str, dict[str, np.ndarray]]
    seconds: float
    curves: Path
    pictures: list[Path]


def fast_net(widths: Sequence[int] = (32, 64, 128, 256)) -> jn.Layer:
    """Four convolutions with batch norm; the first has strides of 2, so that all maps are small."""
    layers = []
    for i, features in enumerate(widths, 1):
        he = jn.initializers.he_normal()
        strides = 2 if i == 1 else 1
        layers += [
            jn.conv(features, 3, strides=strides, use_bias=False, kernel_init=he, name=f"conv_{i}"),
            jn.batch_norm(name=f"norm_{i}"),
            jax.nn.relu,
        ]
        if 1 < i < len(widths):
            layers.append(jn.max_pool(2))
    # (batch, 16, 16, 32), (batch, 16, 16, 64), (batch, 8, 8, 128), (batch, 4, 4, 256)
    return jn.serial(*layers, jn.global_max_pool(), jn.dense(10, name="output"), name="fast_net")


def make_optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """Nesterov's momentum, weights that decay, and a rate that rises and falls once."""
    height = config.learning_rate
    rate = optax.warmup_cosine_decay_schedule(height / 10, height, steps // 5, steps)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=_kernels),
        optax.sgd(rate, momentum=0.9, nesterov=True),
    )


def _kernels(params: Any) -> Any:
    """True for what decays: kernels, not biases and scales."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jn.penalties.is_kernel(tuple(entry.key for entry in path)), params
    )


def run(config: Config) -> Results:
    """Trains the model; after each epoch the curves are written, so that it can be stopped."""
    (x, y), test = jn.data.cifar10(data_dir=config.data_dir)
    train = x[: config.train_size], y[: config.train_size]
    if config.validation:
        train, test = jn.data.split(train, 0.2, labels=train[1])
    start = time.perf_counter()
    net = fast_net() if config.model == "fast" else jn.models.cifar_resnet(20)
    # Photos stay in [0, 1]: the batch norm after the first convolution brings them to mean 0.
    first = "conv_1" if config.model == "fast" else "conv_0"
    steps = config.epochs * -(-len(train[1]) // config.batch_size)
    optimizer = make_optimizer(config, steps)
    objective = jn.supervised(
        net, jn.losses.smoothed_cross_entropy(config.smoothing),
        metrics={"accuracy": jn.metrics.accuracy},
    )  # fmt: skip
    step = jn.make_step(objective, optimizer)
    changes = [jn.data.random_flip()]
    if config.shift:
        changes.append(jn.data.random_shift(config.shift))
    if config.cutout:
        changes.append(jn.data.cutout(config.cutout))
    augment = jn.data.on_inputs(jn.data.chain(*changes))
    print(jn.summary(net, train[0][:1]))
    print(f"{len(train[1]):,} photos to train on, {len(test[1]):,} to test with")

    train_state = jn.init_training(net, optimizer, jax.random.key(config.seed), train)
    epochs: list[jn.Epoch] = []
    folder = config.output / config.model
    for epoch in jn.fit(
        train_state, step, train,
        epochs=config.epochs, batch_size=config.batch_size, evaluate=test, augment=augment,
    ):  # fmt: skip
        epochs.append(epoch)
        print(epoch, flush=True)
        write(epochs, folder / "curves.csv")
        jn.viz.save(jn.viz.curves(jn.viz.history(epochs)), folder / "curves.png")
    seconds = time.perf_counter() - start
    history = jn.viz.history(epochs)
    print(f"{history['accuracy']['test'][-1]:.2%} of the test photos are told rightly")
    print(f"{seconds:.0f} seconds, compilation included; curves: {folder / 'curves.csv'}")
    recipe = Recipe(net, first=first, names=NAMES)
    pictures = draw(recipe, epochs[-1].train_state, test, history, folder)
    return Results(history, seconds, folder / "curves.csv", pictures)


def write(epochs: Sequence[jn.Epoch], path: Path) -> None:
    """One line an epoch: loss and accuracy of both parts, and seconds since the beginning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = np.cumsum([epoch.seconds for epoch in epochs])
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "s"])
        for epoch, s in zip(epochs, seconds, strict=True):
            assert epoch.test is not None
            values = [part[m] for part in (epoch.train, epoch.test) for m in ("loss", "accuracy")]
            rows.writerow([epoch.number, *(f"{v:.6f}" for v in values), f"{s:.1f}"])


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
