"""Classify MNIST's handwritten digits of 28×28 pixels by LeNet-5.

Claim: LeNet-5 classifies at least 99.0% of the test digits correctly after 3 epochs. After longer
training on digits that are rotated, sheared, scaled, shifted and elastically deformed a little, it
classifies at least 99.5% correctly.

Options were chosen on a fifth of the training digits (`--validation`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax

import jaxnet as jn
from experiments.classify import Recipe, Results, Training, classify
from experiments.common import Short, TrainSize, main
from experiments.records import Command, Picture, Record, higher

RECORDS = (
    Record(
        topic="images",
        title="LeNet-5 exceeds 99 percent on MNIST in three epochs",
        verdict="Supported",
        sentence=(
            "After 3 epochs on the original digits, LeNet-5 classifies 99.08% of the 10,000 test "
            "digits correctly. With 80 epochs, the last 8 on original digits and the others on "
            "distorted ones, it classifies 99.51% correctly."
        ),
        columns=(
            "training",
            *higher("test accuracy (%)"),
            "lowest of the seeds (%)",
            "highest (%)",
        ),
        rows=(
            ("3 epochs, original digits", "99.08 ± 0.07", "99.01", "99.19"),
            (
                "80 epochs, distorted digits, the last 8 on original digits",
                "99.51 ± 0.03",
                "99.47",
                "99.55",
            ),
            ("LeNet-5 of 1998, 20 epochs, 3 seeds", "98.90 ± 0.02", "98.87", "98.91"),
            ('"Deep MNIST for experts", 5 epochs, 3 seeds', "99.45 ± 0.01", "99.44", "99.46"),
        ),
        commands=(
            Command("--seeds 5", 90, "99 s of CPU"),
            Command(
                "--seeds 5 --augment --epochs 80 --clean-epochs 8",
                2400,
                "39 min of CPU, with large pages",
            ),
            Command("--seeds 3 --model lenet5_1998 --epochs 20", 972, "972 s of CPU"),
            Command(
                "--seeds 3 --model deep_mnist --epochs 5 --batch-size 50 --learning-rate 1e-3",
                1203,
                "20 min of CPU",
            ),
        ),
        caveat=(
            "We did not try 80 epochs without distortion, so we cannot say which of the two helps."
        ),
        seeds=5,
        key="99.51 ± 0.03% of the test digits",
        baseline="3 epochs, original digits",
        note=(
            "The claims were at least 99.0% after 3 epochs and at least 99.5% after longer "
            "training, on average. One of the five seeds stays below 99.5%.\n"
            "Digits are elastically deformed, sheared, rotated, scaled and shifted a little. At "
            "the end LeNet-5 classifies 99.0% of the distorted training digits correctly.\n"
            "We did not train for 80 epochs on original digits, so the table does not separate the "
            "effect of the distortions from that of longer training.\n"
            "LeNet-5 as published reaches 99.05% in its paper, and the net of TensorFlow's "
            "tutorial of 2015, of 3,274,634 parameters, 99.2% there. Both have our optimizer here."
        ),
        history=(
            "Options were chosen on a fifth of the training digits (`--validation`), where "
            "differences below 0.1% may be chance. We trained for 30 epochs, the last three on "
            "distorted, half distorted or original digits, and chose original digits. The final "
            "recipe has more epochs, 80 with the last 8 on original digits, which we took without "
            "a comparison. Earlier, with 12 epochs of distorted digits and one seed, we chose "
            "deformations of 0.7 pixels. For 3 epochs on original digits we compared batch sizes "
            "with Adam, with two seeds: 32 gave 99.10%, 64 gave 98.99% and 128 gave 98.65%."
        ),
        pictures=(
            Picture(
                "mnist_mistakes.png",
                "Thirty of the test digits that LeNet-5 misclassifies after 3 epochs",
            ),
        ),
        lesson=6,
    ),
)


@dataclass(frozen=True)
class Config(TrainSize, Training):
    """Trains a net to read the digits of MNIST."""

    output: Path = Path("runs/mnist")
    epochs: int = 3
    batch_size: int = 32
    model: Literal["softmax", "mlp", "lenet5", "lenet5_1998", "deep_mnist"] = "lenet5"
    """model: softmax regression, a perceptron with one hidden layer, LeNet-5, LeNet-5 as published
    in 1998, or the net of TensorFlow's tutorial of 2015, "Deep MNIST for experts"
    """
    shift: int = 0
    """largest shift of the training images in pixels"""
    augment: bool = False
    """rotate, shear, scale, shift and deform training images at random"""
    displacement: float = 0.7
    """standard deviation of the elastic deformation in pixels"""

    def __post_init__(self):
        super().__post_init__()
        if self.augment and self.shift:
            raise ValueError("augment shifts images too: give augment or shift, not both")


def deep_mnist() -> jn.Layer:
    """Make the net of the tutorial "Deep MNIST for experts", of 3,274,634 parameters."""
    return jn.serial(
        jn.conv(32, 5, name="c1"),
        jax.nn.relu,
        jn.max_pool(2),
        jn.conv(64, 5),
        jax.nn.relu,
        jn.max_pool(2),
        jn.flatten(),
        jn.dense(1024),
        jax.nn.relu,
        jn.dropout(0.5),
        jn.dense(10, name="output"),
    )


def run(config: Config) -> Results:
    """Train the model, print the accuracy on the test split, and draw."""
    (x, y), test = jn.data.mnist(data_dir=config.data_dir)
    train = x[: config.train_size], y[: config.train_size]
    match config.model:
        case "softmax":
            recipe = Recipe(jn.models.mlp([10], name="softmax"), first="output")
        case "mlp":
            recipe = Recipe(jn.models.mlp([256, 10]), first="dense")
        case "lenet5":
            recipe = Recipe(jn.models.lenet5(classes=10), first="c1")
        case "lenet5_1998":
            recipe = Recipe(jn.models.lenet5_1998(classes=10), first="c1")
            # Paper is -0.1 and ink 1.175.
            train, test = [(1.275 * images - 0.1, labels) for images, labels in (train, test)]
        case "deep_mnist":
            recipe = Recipe(deep_mnist(), first="c1")
    if config.augment:
        distort = jn.data.elastic(
            rotation=10, shear=10, scale=(0.9, 1.1), shift=2, displacement=config.displacement
        )
        recipe = recipe._replace(augment=distort)
    elif config.shift:
        recipe = recipe._replace(augment=jn.data.random_shift(config.shift))
    return classify(recipe, train, test, config)


SHORT = Short({"epochs": 1, "batch_size": 100, "augment": True})


if __name__ == "__main__":
    main(Config, run)
