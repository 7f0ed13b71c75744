"""Segment volumes of balls, tubes and boxes in noise with a small U-Net of three axes.

Claim: the U-Net over volumes reaches a Dice of at least 0.9 for each shape on held-out volumes. It
is better than the same U-Net over slices, since a slice of a ball is like a slice of a tube.

The volumes are made on the spot: none of the datasets holds any. Both nets see the same voxels per
step. The larger volumes are predicted in windows of the size that the net was trained on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.benchmarks.measure import peak_memory
from experiments.common import Output, Seeds, Short, main, mean_std, run_epochs, save, total_steps
from experiments.records import Command, Figures, Picture, Record, higher
from jaxnet import Table
from jaxnet.typing import Pair

RECORDS = (
    Record(
        topic="segmentation",
        title="A network of three axes segments volumes better than their slices",
        verdict="Mixed",
        claim=(
            "the network of three axes reaches a Dice of at least 0.9 for each shape, and slices "
            "have less"
        ),
        sentence=(
            "A small U-Net segments a ball, a tube and a box in noise, in 16 held-out volumes of "
            "32×32×32 voxels. Over three axes the mean Dice is 0.910, over slices 0.817, since a "
            "slice of a ball is like a slice of a tube. In windows of this size, the network "
            "segments volumes of eight times as many voxels with a mean Dice of 0.923."
        ),
        columns=("what the U-Net sees", *higher("ball", "tube", "box", "mean Dice")),
        rows=(
            ("slices", "0.688 ± 0.021", "0.884 ± 0.006", "0.879 ± 0.012", "0.817 ± 0.013"),
            ("whole volumes", "0.860 ± 0.017", "0.938 ± 0.008", "0.932 ± 0.024", "0.910 ± 0.009"),
        ),
        commands=(
            Command("--nets volumes --seeds 3", 242, "323 s of CPU"),
            Command("--nets slices --seeds 3", 131, "203 s of CPU"),
            Command("", 178, "198 s of CPU"),
        ),
        seeds=3,
        key="Dice 0.910 ± 0.009, over slices 0.817 ± 0.013",
        baseline="slices",
        caveat=(
            "The volumes are made on the spot, with shapes of one brightness, so the figures say "
            "nothing about real scans."
        ),
        note=(
            "The claim was a Dice of at least 0.9 for each shape, and less over slices. Balls miss "
            "it in volumes of 32³.\n"
            "Both nets see as many voxels per step and per run, with 8, 16 and 32 maps.\n"
            "One seed of three axes took 81 s, of slices 44 s, on two cores that other programs "
            "used too. The peak memory of the process was 696 MB and 726 MB."
        ),
        history=(
            "We chose the noise (0.5 after 0.7), the learning rate (1e-2 after 5e-3), 64 volumes "
            "after 48 and 30 epochs after 20 on other volumes, where the Dice of the last choice "
            "was 0.919, 0.937 and 0.955. Then we drew new held-out volumes."
        ),
        more=(
            Figures(
                "Four volumes of 64×64×64 voxels",
                ("what the U-Net sees", *higher("ball", "tube", "box", "mean Dice")),
                (
                    ("slices", "0.568 ± 0.015", "0.865 ± 0.010", "0.826 ± 0.008", "0.753 ± 0.009"),
                    (
                        "windows of 32×32×32",
                        "0.888 ± 0.019",
                        "0.956 ± 0.006",
                        "0.926 ± 0.039",
                        "0.923 ± 0.010",
                    ),
                ),
            ),
        ),
        pictures=(
            Picture(
                "volumes.png",
                "Middle slices of three held-out volumes, their shapes and two predictions",
            ),
        ),
    ),
)
SHAPES = ("none", "ball", "tube", "box")
COLORS = np.array([[0.9, 0.9, 0.9], [0.9, 0.3, 0.1], [0.1, 0.5, 0.9], [0.2, 0.7, 0.2]])
SIDE = 32  # of a volume for training


@dataclass(frozen=True)
class Config(Seeds, Output):
    """Segments volumes of balls, tubes and boxes in noise."""

    output: Path = Path("runs/volumes")
    nets: tuple[Literal["slices", "volumes"], ...] = ("slices", "volumes")
    """whether the U-Net is over the slices of a volume, or over whole volumes"""
    train_size: int = 64
    """number of volumes for training"""
    test_size: int = 16
    """number of held-out volumes, and of larger ones a quarter of it"""
    large: int = 64
    """side of the larger volumes"""
    features: int = 8
    """number of maps of the first level"""
    levels: int = 3
    """number of resolutions"""
    epochs: int = 30
    """passes over the training volumes"""
    batch_size: int = 2
    """volumes per step"""
    learning_rate: float = 1e-2
    """initial learning rate of Adam, with cosine decay to 0"""
    noise: float = 0.5
    """standard deviation of the noise; shapes are 1 and the rest is 0"""


class Results(NamedTuple):
    """Results of the experiment.

    Fields:
      confusion: Counts of voxels, what is measured -> (seeds, shapes, shapes).
      pictures: Files written.
    """

    confusion: dict[str, np.ndarray]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Train each net with each seed, print the Dice of each shape, and draw."""
    train = make_volumes(config.train_size, SIDE, config.noise, seed=0)
    held = make_volumes(config.test_size, SIDE, config.noise, seed=3)
    large = make_volumes(max(1, config.test_size // 4), config.large, config.noise, seed=4)
    found: dict[str, list[np.ndarray]] = {}
    drawn = {}
    for name in config.nets:
        net = jn.models.unet(len(SHAPES), config.features, config.levels)
        trainer = make_trainer(net, config)
        for seed in config.all_seeds:
            print(f"seed {seed}: {name}")
            data, batch_size = train, config.batch_size
            if name == "slices":
                data, batch_size = as_slices(train), SIDE * config.batch_size
            trained = run_epochs(
                trainer, data, seed=seed, epochs=config.epochs, batch_size=batch_size
            )[-1].train_state
            for x, y in (held, large):
                what = f"{name}, {x.shape[1]}³"
                labels = predict(net, trained, x, slices=name == "slices")
                matrix = jn.metrics.confusion(jnp.asarray(labels), jnp.asarray(y), len(SHAPES))
                found.setdefault(what, []).append(np.asarray(matrix))
                drawn[what] = labels
    confusion = {what: np.stack(matrices) for what, matrices in found.items()}
    print(table(confusion))
    print(f"peak memory {peak_memory():,.0f} MB")
    columns = {name: drawn[f"{name}, {SIDE}³"] for name in config.nets}
    figure = draw(held, columns)
    return Results(confusion, save({"volumes": figure}, config.output))


def make_volumes(n: int, side: int, noise: float, *, seed: int) -> Pair:
    """Draw volumes (n, side, side, side, 1) and the shape at each voxel (n, side, side, side).

    A volume of 32 voxels a side has one ball, one tube and one box. A larger one has as many of
    each as it has parts of this size.
    """
    rng = np.random.default_rng(seed)
    labels = np.stack([make_labels(rng, side) for _ in range(n)])
    volumes = (labels > 0) + rng.normal(0, noise, labels.shape)
    return volumes[..., None].astype(np.float32), labels


def make_labels(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw the shape at each voxel of one volume, (side, side, side)."""
    place = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1)
    labels = np.zeros((side,) * 3, np.int32)
    for shape in rng.permutation(np.repeat([1, 2, 3], (side // SIDE) ** 3)):
        offset = place - rng.uniform(6, side - 6, 3)
        match SHAPES[shape]:
            case "ball":
                inside = np.linalg.norm(offset, axis=-1) < rng.uniform(4, 6)
            case "tube":  # along one axis, through the whole volume
                across = np.delete(offset, rng.integers(3), -1)
                inside = np.linalg.norm(across, axis=-1) < rng.uniform(2, 4)
            case _:
                inside = (np.abs(offset) < rng.uniform(3, 6, 3)).all(-1)
        labels[inside] = shape
    return labels


def as_slices(volumes: Pair) -> Pair:
    """Return the slices of all volumes as a batch of pictures with their labels."""
    x, y = volumes
    return x.reshape(-1, *x.shape[2:]), y.reshape(-1, *y.shape[2:])


def make_trainer(net: jn.Layer, config: Config) -> jn.Trainer:
    """Return a trainer of cross-entropy plus Dice, on volumes that are flipped at random."""

    def loss(logits, labels):
        per_voxel = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return per_voxel.mean(tuple(range(1, labels.ndim))) + jn.losses.dice(logits, labels)

    flips = [jn.data.random_flip(axis=-1), jn.data.random_flip(axis=-2)]

    def flip(key, batch):
        more = [jn.data.random_flip(axis=-3)] if batch[1].ndim == 4 else []
        return jn.data.on_masks(jn.data.chain(*flips, *more))(key, batch)

    rate = optax.cosine_decay_schedule(config.learning_rate, total_steps(config.train_size, config))
    return jn.trainer(jn.augmented(jn.supervised(net, loss), flip), optax.adam(rate))


def predict(net: jn.Layer, trained: jn.TrainState, x: np.ndarray, *, slices: bool) -> np.ndarray:
    """Return the shape at each voxel; volumes are predicted in windows of the training size."""
    if slices:
        flat, _ = as_slices((x, x[..., 0]))
        y = jn.predict(net, trained.params, trained.state, flat, batch_size=64)
        return y.argmax(-1).reshape(x.shape[:-1])
    y = jn.predict_windows(net, trained.params, trained.state, x, SIDE, batch_size=4)
    return y.argmax(-1)


def dice(matrices: np.ndarray) -> np.ndarray:
    """Return the Dice of each shape, 2|A∩B| / (|A| + |B|), (seeds, shapes)."""
    both = np.diagonal(matrices, axis1=1, axis2=2)
    return 2 * both / (matrices.sum(1) + matrices.sum(2))


def table(confusion: dict[str, np.ndarray]) -> Table:
    """Return the Dice of each shape, mean and deviation over the seeds."""
    rows = []
    for what, matrices in confusion.items():
        scores = dice(matrices)[:, 1:]
        cells = [mean_std(column, ".3f") for column in (*scores.T, scores.mean(1))]
        rows.append((what, *cells))
    return Table("Dice on held-out volumes", ("net", *SHAPES[1:], "mean"), rows)


def draw(held: Pair, columns: dict[str, np.ndarray]) -> Any:
    """Draw the middle slices of the first volumes, their shapes and what the nets predict."""
    x, y = (a[:3, SIDE // 2] for a in held)
    gray = np.repeat(np.clip((x + 1) / 3, 0, 1), 3, -1)
    masks = {"truth": y} | {name: labels[:3, SIDE // 2] for name, labels in columns.items()}
    return jn.viz.masks(gray, masks, SHAPES, COLORS)


SHORT = Short(
    {"train_size": 2, "test_size": 1, "large": 40, "features": 2, "levels": 2, "epochs": 1}
)


if __name__ == "__main__":
    main(Config, run)
