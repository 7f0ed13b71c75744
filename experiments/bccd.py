"""YOLO finds and tells apart the cells in images of blood (BCCD), trained from scratch.

Claim:   a mean average precision of 0.60 at least, at an overlap of 0.5, on the test part.
Result:  average precision on the 72 test images, 579,485 parameters, images of 192x256:
                   mAP      red cell  white cell  platelet
           seed 0  0.7618   0.7559    0.9721      0.5575
           seed 1  0.7724   0.7737    0.9737      0.5699
           mean    0.7671   0.7648    0.9729      0.5637
         The validation part, which chose the options, gave 0.7694 and 0.7568. Platelets are
         15 pixels wide here: half of the boxes on those of the validation part overlap the truth by
         less than 0.63, and at an overlap of 0.4 their precision is 0.71 in place of 0.54 (seed 0).
         Many cells that are plain to see have no box in the data, and are counted as mistakes.
         The paper's linear output learns more slowly than a sigmoid: on the validation part, after
         40 epochs with 8 images a step, a mAP of 0.5990 (platelets 0.1344) against 0.7315 (0.4450);
         `--epochs 40 --batch-size 8`, with `--output linear` or without.
Time:    4 min of CPU a seed, with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment.
Machine: 2 CPU cores, jax 0.10.2.
Command: TFDS_DATA_DIR=... python -m experiments.bccd --seed 0, and --seed 1
"""

import time
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
from jaxnet.inspect.table import Table
from jaxnet.viz.figure import COLORS, new_figure

Boxed = tuple[np.ndarray, dict[str, np.ndarray]]

# (features, strides) of the backbone's 3x3 convolutions: a cell of the grid has 16x16 pixels.
CONVOLUTIONS = ((16, 2), (32, 2), (64, 2), (64, 1), (128, 2), (128, 1))
HEAD = (128, 128)
OUTPUTS: dict[str, Callable] = {"sigmoid": jax.nn.sigmoid, "linear": lambda x: x}
VISIBLE = 0.3  # share of a box that must be left in the moved image
SHOWN = 0.3  # score of the weakest box that is drawn


@dataclass(frozen=True)
class Config:
    """Trains a small YOLO on blood cells; the record is in the file."""

    height: int = 192
    """of the images in pixels, a multiple of 16 and 3; the width is 4/3 of it"""
    epochs: int = 60
    """passes over the training part"""
    batch_size: int = 4
    """images a step"""
    learning_rate: float = 2e-3
    """of Adam at its highest: it rises for a tenth of the steps, and falls to 0 as a cosine"""
    output: Literal["sigmoid", "linear"] = "sigmoid"
    """the last activation; linear is the paper's"""
    boxes: int = 2
    """proposals of each cell"""
    coordinates: float = 5.0
    """weight of the places in the loss; 5 in the paper"""
    overlap: float = 0.5
    """boxes of one class that overlap by more are taken for one"""
    seed: int = 0
    """of the first run: draws weights, order and moves"""
    seeds: int = 1
    """number of runs, with seeds one after another"""
    train_size: int | None = None
    """train on the first so many images only"""
    frames: int = 200
    """images one by one to take the time of"""
    data_dir: Path | None = None
    """where BCCD lies; by default where TFDS_DATA_DIR says"""
    folder: Path = Path("runs/bccd")
    """of the pictures"""

    def __post_init__(self):
        if self.output not in OUTPUTS:
            raise ValueError(f"output is one of {', '.join(OUTPUTS)}, got {self.output!r}")
        if self.height % 48 or self.height < 48:
            raise ValueError(f"height must be a multiple of 48, got {self.height}")
        if min(self.epochs, self.batch_size, self.boxes, self.seeds, self.frames) < 1:
            raise ValueError("epochs, batch_size, boxes, seeds and frames must be at least 1")


class Results(NamedTuple):
    """What the experiment gives.

    Fields:
      precisions: (seeds, 3), average precision of each class at an overlap of 0.5, test part.
      frames: images a second, one by one: net, decoding and suppression.
      pictures: the files that were written.
    """

    precisions: np.ndarray
    frames: float
    pictures: list[Path]


def run(config: Config) -> Results:
    """Trains with each seed, measures average precision and speed, and draws."""
    start = time.perf_counter()
    size = config.height, config.height * 4 // 3
    train, validation, test = jn.data.bccd(size=size, data_dir=config.data_dir)
    train = jax.tree.map(lambda a: a[: config.train_size], train)
    parts = {"validation": validation, "test": test}  # options were chosen on the first alone
    net = network(config)
    print(jn.summary(net, train[0][:1]))
    print(f"{len(train[0])} images to train on, {len(validation[0])} and {len(test[0])} to measure")

    program = detector(net, config, score=0.01)  # average precision looks at weak boxes too
    runs: list[list[jn.Epoch]] = []
    precisions: dict[str, list] = {part: [] for part in parts}
    first: dict[str, Any] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        runs.append(fit(net, train, validation, config, seed))
        trained = runs[-1][-1].train_state
        for part, (x, truth) in parts.items():
            found = detect(program, trained, x, config.batch_size)
            result = jn.detection.average_precision(found, truth, len(jn.data.CELLS))
            precisions[part].append(result.each)
            each = zip(jn.data.CELLS, result.each, strict=True)
            words = "  ".join(f"{name} {ap:.4f}" for name, ap in each)
            print(f"seed {seed}, {part} part: mAP {result.mean:.4f}  {words}", flush=True)
            first.setdefault(part, (found, result))
    print(table({part: np.array(values) for part, values in precisions.items()}))
    frames = speed(net, runs[0][-1].train_state, test[0], config)
    print(f"{frames:.0f} images a second, one by one: net, decoding, suppression (median)")

    found, result = first["test"]
    loss = jn.viz.history(*runs)["loss"]
    figures = {
        "boxes": draw_images(found, test),
        "precision": draw_precision(result),
        "curves": jn.viz.curves({"loss": {"train": loss["train"], "validation": loss["test"]}}),
    }
    pictures = [jn.viz.save(f, config.folder / f"{name}.png") for name, f in figures.items()]
    for picture in pictures:
        print(f"picture: {picture}")
    print(f"{time.perf_counter() - start:.0f} seconds")
    return Results(np.array(precisions["test"]), frames, pictures)


def network(config: Config) -> jn.Layer:
    """A small backbone with batch norm, and YOLO's head."""
    layers = []
    for i, (features, strides) in enumerate(CONVOLUTIONS, 1):
        init = jn.initializers.he_normal()
        layers += [
            jn.conv(features, 3, strides=strides, use_bias=False, kernel_init=init),
            jn.batch_norm(name=f"norm_{i}"),
            partial(jax.nn.leaky_relu, negative_slope=0.1),
        ]
    backbone = jn.serial(*layers, name="backbone")
    classes, output = len(jn.data.CELLS), OUTPUTS[config.output]
    return jn.models.yolo(backbone, classes, boxes=config.boxes, hidden=HEAD, output=output)


def fit(
    net: jn.Layer, train: Boxed, validation: Boxed, config: Config, seed: int
) -> list[jn.Epoch]:
    """One training; every epoch of it."""
    steps = config.epochs * -(-len(train[0]) // config.batch_size)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, max(1, steps // 10), max(2, steps)
    )
    optimizer = optax.adam(rate)
    loss = partial(jn.models.yolo_loss, boxes=config.boxes, coordinates=config.coordinates)
    step = jn.make_step(jn.supervised(net, loss), optimizer)
    train_state = jn.init_training(net, optimizer, jax.random.key(seed), train)
    epochs = []
    for epoch in jn.fit(
        train_state, step, train,
        epochs=config.epochs, batch_size=config.batch_size, evaluate=validation, augment=augment,
    ):  # fmt: skip
        epochs.append(epoch)
        if epoch.number % -(-config.epochs // 10) == 0:  # ten lines at most
            print(epoch, flush=True)
    return epochs


def augment(key: jax.Array, batch: Any) -> Any:
    """Flips, stretches and moves images with their boxes, all in one map, and changes colours.

    A box of which little is left in the image is dropped: nobody would have drawn it.
    """
    x, targets = batch
    n, height, width = x.shape[:3]
    keys = jax.random.split(key, 5)
    scale = jnp.exp(jax.random.uniform(keys[0], (n, 1), minval=-0.15, maxval=0.3))
    scale = scale * jnp.exp(jax.random.uniform(keys[1], (n, 2), minval=-0.1, maxval=0.1))
    flip = 2.0 * jax.random.bernoulli(keys[2], shape=(n, 2)) - 1
    matrix = jnp.eye(2) * (scale * flip)[:, None]  # (batch, 2, 2)
    middle = 0.1 * jnp.array([height, width])
    middle = middle * jax.random.uniform(keys[3], (n, 2), minval=-1, maxval=1)
    moved = jn.data.warp({"image": x, "boxes": targets["boxes"]}, matrix, middle)
    whole = jn.detection.area(targets["boxes"]) * scale.prod(-1, keepdims=True)
    seen = jn.detection.area(moved["boxes"]) > VISIBLE * whole  # (batch, n)
    color = jn.data.color_jitter(brightness=0.15, contrast=0.15, saturation=0.3)
    return color(keys[4], moved["image"]), {
        "boxes": jnp.where(seen[..., None], moved["boxes"], 0),
        "classes": jnp.where(seen, targets["classes"], -1),
    }


def detector(net: jn.Layer, config: Config, score: float) -> Callable:
    """`(params, state, images) -> Detections` as one program."""

    @jax.jit
    def program(params, state, x):
        outputs, _ = net.apply(params, state, x)
        return jn.models.yolo_detect(
            outputs, boxes=config.boxes, score=score, iou=config.overlap, most=60
        )

    return program


def detect(
    program: Callable, trained: jn.TrainState, x: np.ndarray, batch_size: int
) -> dict[str, np.ndarray]:
    """What is found in all images, some at a time."""
    size = min(batch_size, len(x))
    places = [np.resize(np.arange(i, min(i + size, len(x))), size) for i in range(0, len(x), size)]
    parts = [program(trained.params, trained.state, x[place]) for place in places]
    found = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(x)], *parts)
    return found._asdict()


def speed(net: jn.Layer, trained: jn.TrainState, x: np.ndarray, config: Config) -> float:
    """Images a second, from pixels on the host to boxes on the host, one by one."""
    program = detector(net, config, score=0.2)
    params, state = trained.params, trained.state
    jax.device_get(program(params, state, x[:1]))  # compiles
    seconds = []
    for i in range(config.frames):
        start = time.perf_counter()
        jax.device_get(program(params, state, x[i % len(x)][None]))
        seconds.append(time.perf_counter() - start)
    return 1 / float(np.median(seconds))


def table(precisions: dict[str, np.ndarray]) -> Table:
    """Part -> (seeds, classes), as means and deviations."""
    rows = []
    for part, each in precisions.items():
        columns = np.column_stack([each.mean(1), each])  # (seeds, 1 + classes)
        spread = columns.std(0, ddof=1) if len(columns) > 1 else np.full(columns.shape[1], np.nan)
        cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(columns.mean(0), spread, strict=True)]
        rows.append((part, *cells))
    return Table("average precision at 0.5", ("part", "mAP", *jn.data.CELLS), rows)


def draw_images(found: dict[str, np.ndarray], data: Boxed, count: int = 6) -> Any:
    """Every so many images of the part, with what is found and what is true."""
    x, truth = data
    some = np.linspace(0, len(x) - 1, count).astype(int)
    found = {name: value[some] for name, value in found.items()}
    found["classes"] = np.where(found["scores"] > SHOWN, found["classes"], -1)
    truth = {name: value[some] for name, value in truth.items()}
    return jn.viz.boxes(x[some], found, truth, names=jn.data.CELLS, columns=3)


def draw_precision(result: Any) -> Any:
    """Precision against recall, a line a class."""
    figure = new_figure(4.8, 3.8)
    axes = figure.subplots()
    for name, recall, precision, ap, color in zip(
        jn.data.CELLS, result.recall, result.precision, result.each, COLORS, strict=False
    ):
        axes.plot(recall, precision, color=color, label=f"{name}, AP {ap:.3f}")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.02)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    return figure


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
