"""Classify MNIST's handwritten digits of 28×28 pixels by LeNet-5.

Claim: LeNet-5 classifies at least 99.0% of the test digits correctly after 3 epochs. After longer
training on digits that are rotated, sheared, scaled, shifted and elastically deformed a little, it
classifies at least 99.5% correctly.

Options were chosen on a fifth of the training digits (`--validation`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jaxnet as jn
from experiments.classify import Recipe, Results, Training, classify
from experiments.common import Short, TrainSize, main
from experiments.records import Command, Picture, Record, higher

RECORDS = (
    Record(
        topic="images",
        title="LeNet-5 exceeds 99 percent on MNIST, and distorted digits help",
        verdict="Supported",
        sentence=(
            "LeNet-5 classifies the 10,000 test digits after 3 epochs on the original digits. "
            "Training for 80 epochs on distorted digits, the last 8 on the original ones, "
            "raises the accuracy from 99.15% to 99.57%."
        ),
        columns=(
            "training",
            *higher("test accuracy (%)"),
            "lowest of the seeds (%)",
            "highest (%)",
        ),
        rows=(
            ("3 epochs, original digits", "99.15 ± 0.07", "99.04", "99.22"),
            ("40 epochs, distorted digits only", "99.47 ± 0.07", "99.38", "99.55"),
            (
                "80 epochs, distorted digits, the last 8 on original digits",
                "99.57 ± 0.03",
                "99.53",
                "99.62",
            ),
        ),
        commands=(
            Command("--seeds 5", 110, "110 s of CPU"),
            Command(
                "--seeds 5 --augment --epochs 80 --clean-epochs 8",
                2400,
                "8 min of CPU per seed, with large pages",
            ),
        ),
        seeds=5,
        versions="jax 0.10.2",
        key="99.57 ± 0.03% of the test digits",
        baseline="3 epochs, original digits",
        note=(
            "The claims were at least 99.0% after 3 epochs and at least 99.5% after longer "
            "training. Digits are elastically deformed, sheared, rotated, scaled and shifted a "
            "little. At the end LeNet-5 classifies 99.0% of the distorted training digits "
            "correctly. We think that the last epochs free the capacity that this small net "
            "spends on distortions."
        ),
        history=(
            "Options were chosen on a fifth of the training digits (`--validation`), where "
            "differences below 0.1% may be chance. We compared 30 epochs with the last three "
            "on distorted, half distorted and original digits, seeds 0 and 1. The losses were "
            "0.0185, 0.0186, 0.0173 and 0.0187, 0.0185, 0.0181; the accuracies 99.44, 99.43, "
            "99.49% and 99.46, 99.48, 99.49%. Twice as many epochs, and eight instead of "
            "three, were taken without a comparison. Before that we tried 12 epochs, distorted "
            "to the end, with 1 seed. Deformations of 0, 0.7 and 1.2 pixels gave 99.36, 99.48 "
            "and 99.04%. Without deformation, batches of 64 gave 99.33%, and from there a "
            "smoothing of 0.1 gave 99.30%, 15 degrees and 15% instead of 10 gave 99.31%, and "
            "Nesterov's momentum (a rate that rises to 0.05 and falls) gave 99.40%. In 3 "
            "epochs with 2 seeds, Adam in batches of 32 gave 99.10%, of 64 98.99%, of 128 "
            "98.65%."
        ),
        pictures=(
            Picture("mnist_mistakes.png", "Test digits that LeNet-5 misclassifies, of 10,000"),
        ),
        lesson=5,
    ),
)


@dataclass(frozen=True)
class Config(TrainSize, Training):
    """Trains a net to read the digits of MNIST."""

    output: Path = Path("runs/mnist")
    epochs: int = 3
    batch_size: int = 32
    model: Literal["softmax", "mlp", "lenet5"] = "lenet5"
    """softmax regression, a perceptron with one hidden layer, or LeNet-5"""
    shift: int = 0
    """shift training images by up to `shift` pixels"""
    augment: bool = False
    """rotate, shear, scale, shift and deform training images at random"""
    displacement: float = 0.7
    """standard deviation of the elastic deformation in pixels"""

    def __post_init__(self):
        super().__post_init__()
        if self.augment and self.shift:
            raise ValueError("augment shifts images too: give augment or shift, not both")


def run(config: Config) -> Results:
    """Trains the model, prints the accuracy on the test part, and draws."""
    (x, y), test = jn.data.mnist(data_dir=config.data_dir)
    train = x[: config.train_size], y[: config.train_size]
    match config.model:
        case "softmax":
            recipe = Recipe(jn.models.mlp([10], name="softmax"), first="output")
        case "mlp":
            recipe = Recipe(jn.models.mlp([256, 10]), first="dense")
        case "lenet5":
            recipe = Recipe(jn.models.lenet5(classes=10), first="c1")
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
