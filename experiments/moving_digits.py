"""Moving digits: which way do they go? Convolutions over space and time against single frames.

Claim:   `conv` serves video as it serves images: with three spatial axes it tells direction and
         digit of a moving digit, of which one frame shows the digit alone.
Result:  2,000 test digits, 4,000 to train on, 6 epochs; right answers, mean and standard deviation
         of 3 seeds (0 to 2):
                   direction       digit           both
           frame   12.53 +- 0.16   80.83 +- 4.32   10.35 +- 0.59   58,514 weights; chance is 12.5
           stack   99.93 +- 0.06   63.90 +- 1.42   63.87 +- 1.42   59,666 weights
           video   99.98 +- 0.03   76.73 +- 0.45   76.72 +- 0.43   52,770 weights
         In more noise, on other training digits, one seed (Noisy, below): frame 12.65, 19.95, 2.40;
         stack 99.45, 26.10, 25.75; video 99.65, 36.15, 36.05. So motion is easy for whoever sees
         all frames, and of these two 3-D convolutions read more digits; one frame without motion
         reads more of them still where there is little noise.
Time:    246 s of CPU, compilation included, most of it for the video; noisy: 91 s of CPU.
Machine: 2 CPU cores, jax 0.10.2.
Command: TFDS_DATA_DIR=... python -m experiments.moving_digits
Noisy:   ... --validation --seeds 1 --epochs 3 --train-size 6000 --batch-size 64 --noise 0.3
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from jaxnet.viz.figure import COLORS, frame, new_figure

ARROWS = "→↗↑↖←↙↓↘"  # direction k goes k / 8 of a turn from the right, counterclockwise
FRAMES, CANVAS, DIGIT = 9, 32, 14


@dataclass(frozen=True)
class Config:
    """Tells directions and digits in small videos; the record is in the file."""

    nets: tuple[str, ...] = ("frame", "stack", "video")
    """frame: 2-D convolutions of the middle frame; stack: of all frames as channels; video: 3-D
    convolutions of all frames"""
    train_size: int = 4000
    """digits to train on"""
    test_size: int = 2000
    """digits of the test part to measure with"""
    epochs: int = 6
    """passes over the digits, which move anew in each"""
    batch_size: int = 32
    """videos a step"""
    learning_rate: float = 3e-3
    """of Adam at the beginning; it falls to 0 as a cosine"""
    noise: float = 0.1
    """standard deviation of what is added to each pixel of each frame"""
    seeds: int = 3
    """number of runs of each net"""
    validation: bool = False
    """measure on other training digits, not on those of the test part: for choosing options"""
    data_dir: Path | None = None
    """where MNIST lies; None takes TFDS_DATA_DIR"""
    output: Path = Path("runs/moving_digits")
    """folder of the pictures"""

    def __post_init__(self):
        for net in self.nets:
            if net not in NETS:
                raise ValueError(f"nets are of {', '.join(NETS)}, got {net!r}")
        if min(self.train_size, self.test_size, self.epochs, self.batch_size, self.seeds) < 1:
            raise ValueError("sizes, epochs, batch_size and seeds must be at least 1")


class Results(NamedTuple):
    """What the experiment gives.

    Fields:
      accuracies: net -> "direction", "digit" or "both" -> (seeds,), on the test digits.
      pictures: the files that were written.
    """

    accuracies: dict[str, dict[str, np.ndarray]]
    pictures: list[Path]


def moving(key: jax.Array, images: jax.Array, noise: float) -> tuple[jax.Array, jax.Array]:
    """Videos (batch, 9, 32, 32, 1) of images (batch, 14, 14, 1) that move, and directions (batch,).

    Each goes 1 to 1.75 pixels a frame in one of eight directions. Where it is in the middle frame
    does not depend on the direction, so that this frame alone says nothing of it.
    """
    way_key, pace_key, place_key, noise_key = jax.random.split(key, 4)
    n = images.shape[0]
    way = jax.random.randint(way_key, (n,), 0, 8)
    turn = way * (jnp.pi / 4)
    pace = jax.random.uniform(pace_key, (n, 1), minval=1.0, maxval=1.75)
    velocity = pace * jnp.stack([-jnp.sin(turn), jnp.cos(turn)], -1)  # (down, right)
    middle = (CANVAS - DIGIT) / 2 + jax.random.uniform(place_key, (n, 2), minval=-2, maxval=2)
    since = jnp.arange(FRAMES) - FRAMES // 2
    place = middle[:, None] + since[:, None] * velocity[:, None]  # (batch, frames, 2)
    place = jnp.round(place).astype(jnp.int32)

    def draw(image, corner):
        canvas = jnp.zeros((CANVAS, CANVAS, 1))
        return jax.lax.dynamic_update_slice(canvas, image, (corner[0], corner[1], 0))

    videos = jax.vmap(jax.vmap(draw, in_axes=(None, 0)))(images, place)
    return videos + noise * jax.random.normal(noise_key, videos.shape), way


def convolutions(features: int, in_time: tuple[int, ...] = ()) -> jn.Layer:
    """Three convolutions of images, or of videos where `in_time` has how each step goes in time."""

    def in_space(i, size):
        return (in_time[i], size, size) if in_time else size

    return jn.serial(
        jn.conv(features, 3, strides=in_space(0, 2)),  # (..., 32, 32, c) -> (..., 16, 16, f)
        jax.nn.relu,
        jn.max_pool(in_space(0, 2)),  # (..., 8, 8, f)
        jn.conv(2 * features, 3),
        jax.nn.relu,
        jn.max_pool(in_space(1, 2)),  # (..., 4, 4, 2 f)
        jn.conv(4 * features, 3),
        jax.nn.relu,
        jn.max_pool(in_space(2, 2)),  # (..., 2, 2, 4 f)
        jn.flatten(),
        name="convolutions",
    )


def two_answers(see, trunk: jn.Layer) -> jn.Layer:
    """Logits of 8 directions and of 10 digits, of what `see` takes from videos."""
    heads = jn.parallel(jn.dense(8, name="direction"), jn.dense(10, name="digit"))
    return jn.serial(see, trunk, jn.dense(128), jax.nn.relu, heads)


def middle_frame(x):
    return x[:, FRAMES // 2]  # (batch, h, w, 1)


def as_channels(x):
    return jnp.moveaxis(x[..., 0], 1, -1)  # (batch, frames, h, w, 1) -> (batch, h, w, frames)


def all_frames(x):
    return x


# A window of 3x3x3 has three times the weights of one of 3x3, so the video has fewer features.
NETS = {
    "frame": lambda: two_answers(middle_frame, convolutions(16)),
    "stack": lambda: two_answers(as_channels, convolutions(16)),
    "video": lambda: two_answers(all_frames, convolutions(8, in_time=(1, 2, 2))),
}


def loss(outputs, targets):
    """Cross-entropy of both answers, (batch,)."""
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return cross_entropy(outputs[0], targets[0]) + cross_entropy(outputs[1], targets[1])


def right(part):
    """The metric of one answer, or of both together where part is None."""

    def metric(outputs, targets):
        each = [jn.metrics.accuracy(o, t) for o, t in zip(outputs, targets, strict=True)]
        return each[0] * each[1] if part is None else each[part]

    return metric


METRICS = {"direction": right(0), "digit": right(1), "both": right(None)}


def run(config: Config) -> Results:
    """Trains each net with each seed, prints a table, and draws videos and filters."""
    start = time.perf_counter()
    (x, y), test = jn.data.mnist(data_dir=config.data_dir)
    if config.validation:
        test = x[-config.test_size :], y[-config.test_size :]
    train, test = (
        (small(x[:size]), y[:size])
        for (x, y), size in (((x, y), config.train_size), (test, config.test_size))
    )
    videos, ways = moving(jax.random.key(99), jnp.asarray(test[0]), config.noise)
    test = videos, (ways, test[1])
    steps = config.epochs * -(-len(train[1]) // config.batch_size)
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps))

    def augment(key, batch):
        videos, ways = moving(key, batch[0], config.noise)
        return videos, (ways, batch[1])

    accuracies: dict[str, dict[str, np.ndarray]] = {}
    last: dict[str, jn.TrainState] = {}
    for name in config.nets:
        net = NETS[name]()
        step = jn.make_step(jn.supervised(net, loss, metrics=METRICS), optimizer)
        runs = []
        for seed in range(config.seeds):
            train_state = jn.init_training(net, optimizer, jax.random.key(seed), test)
            for epoch in jn.fit(
                train_state, step, train,
                epochs=config.epochs, batch_size=config.batch_size, augment=augment,
            ):  # fmt: skip
                train_state = epoch.train_state
            runs.append(jn.evaluate(train_state, step, test))
            last[name] = train_state
        accuracies[name] = {word: np.array([run[word] for run in runs]) for word in METRICS}
        size = sum(leaf.size for leaf in jax.tree.leaves(last[name].params))
        words = (
            f"{word} {a.mean():.2%} +- {spread(a):.2%}" for word, a in accuracies[name].items()
        )
        print(f"{name:6} {size:7,} weights  " + "  ".join(words), flush=True)
    print(f"{time.perf_counter() - start:.0f} s by the clock, {time.process_time():.0f} s of CPU")
    pictures = draw(last, test, config.output)
    print("pictures: " + ", ".join(map(str, pictures)))
    return Results(accuracies, pictures)


def small(x: np.ndarray) -> np.ndarray:
    """Images (n, 28, 28, 1) at half the size: means of 2x2 pixels."""
    return x.reshape(len(x), DIGIT, 2, DIGIT, 2, 1).mean((2, 4))


def spread(a: np.ndarray) -> float:
    return a.std(ddof=1) if len(a) > 1 else 0.0


def draw(last: dict[str, jn.TrainState], test, folder: Path) -> list[Path]:
    """Videos with what each net says of them, and filters of the first layer over time."""
    videos, (ways, digits) = test[0][:6], (np.asarray(test[1][0]), test[1][1])
    said = {
        name: [np.asarray(a).argmax(-1) for a in NETS[name]().apply(s.params, s.state, videos)[0]]
        for name, s in last.items()
    }
    figures = {"videos": draw_videos(np.asarray(videos), ways, digits, said)}
    if "video" in last:
        kernel = np.asarray(last["video"].params["convolutions"]["conv"]["kernel"])
        figures["filters"] = draw_filters(kernel[..., 0, :])
    return [jn.viz.save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def draw_videos(videos, ways, digits, said):
    """A row of frames for each video; what the nets say stands beside it, wrong in colour."""
    figure = new_figure(1.0 * FRAMES + 2.2, 1.05 * len(videos))
    grid = figure.add_gridspec(len(videos), FRAMES + 1, width_ratios=[1] * FRAMES + [2.2])
    for i, video in enumerate(videos):
        for t, image in enumerate(video):
            axes = figure.add_subplot(grid[i, t])
            axes.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
            frame(axes)
            if t == 0:
                axes.set_ylabel(
                    f"{digits[i]} {ARROWS[ways[i]]}", fontsize=14, rotation=0, labelpad=18
                )
        axes = figure.add_subplot(grid[i, FRAMES])
        axes.axis("off")
        for j, (name, (way, digit)) in enumerate(said.items()):
            fine = way[i] == ways[i] and digit[i] == digits[i]
            axes.text(
                0, 0.85 - 0.35 * j, f"{name}: {digit[i]} {ARROWS[way[i]]}",
                fontsize=11, color="0.2" if fine else COLORS[1], va="center",
            )  # fmt: skip
    return figure


def draw_filters(kernel):
    """Filters (time, height, width, filters): a column each, one moment below another."""
    largest = np.abs(kernel).max((0, 1, 2))
    figure = new_figure(0.9 * kernel.shape[-1], 3.0)
    cells = figure.subplots(len(kernel), kernel.shape[-1], squeeze=False)
    for (t, i), axes in np.ndenumerate(cells):
        axes.imshow(kernel[t, :, :, i] / largest[i], cmap="RdBu_r", vmin=-1, vmax=1)
        frame(axes)
        if i == 0:
            axes.set_ylabel(f"t {t - 1:+d}" if t != 1 else "t", fontsize=9)
    return figure


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
