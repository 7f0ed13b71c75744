"""Classify spoken digits from the raw waveform by a net of 1-D convolutions.

Claim: at least 95% of the test recordings are classified correctly. `conv` and `max_pool` work on
signals as they do on images.

Recordings last 0.75 s at 8 kHz. Recordings 0 to 4 of each digit and speaker are the test, 2,700
others train the net. The options are the first that were tried.

Net: Dai et al. 2017, "Very deep convolutional neural networks for raw waveforms" (M5, narrower).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.common import (
    Data,
    Output,
    Seeds,
    Short,
    main,
    mean_std,
    over_seeds,
    run_epochs,
    save,
    total_steps,
)
from experiments.records import Command, Picture, Record, higher
from jaxnet.typing import Augmentation, Pair
from jaxnet.viz.style import COLORS, frame, new_figure

RATE = 8000
SAMPLES = 6000  # 0.75 s: all of 97% of the recordings; the others are cut

RECORDS = (
    Record(
        topic="speech",
        title="Convolutions classify spoken digits from the raw waveform",
        verdict="Supported",
        sentence=(
            "A net of 1-D convolutions classifies 99.89% of 300 recordings of spoken digits "
            "correctly. Its input is the waveform, without computed speech features."
        ),
        columns=("net", *higher("test accuracy (%)"), "lowest of the seeds (%)", "highest (%)"),
        rows=(("1-D convolutions on raw samples", "99.89 ± 0.19", "99.67", "100.00"),),
        commands=(Command("", 140, "140 s of CPU"),),
        caveat="The recordings are new, the six speakers are not.",
        seeds=3,
        key="99.89 ± 0.19% of the recordings",
        note=(
            "The claim was an accuracy of at least 95%. One recording is 0.33% of the test.\n"
            "Recordings are cut or padded to 0.75 s.\n"
            "The same six speakers made the training recordings, but no test recording is a "
            "byte-for-byte copy of a training recording."
        ),
        history=(
            "We tried only one set of options. On recordings 5 to 9 (`--validation --seeds "
            "1`), with 2,400 recordings for training, the accuracy is 96.67%."
        ),
        pictures=(
            Picture("time_series_waves.png", "Waveforms of spoken digits"),
            Picture("time_series_filters.png", "Filters of the first layer"),
        ),
        lesson=13,
    ),
)


@dataclass(frozen=True)
class Config(Data, Seeds, Output):
    """Classifies spoken digits by their waveforms."""

    seeds: int = 3
    output: Path = Path("runs/time_series")
    features: int = 32
    """filters of the first layer; later layers have two, four and eight times as many"""
    epochs: int = 30
    """training epochs"""
    batch_size: int = 32
    """recordings per step"""
    learning_rate: float = 3e-3
    """initial learning rate of Adam, with cosine decay to 0"""
    shift: int = 800
    """largest random delay of a training recording, in samples"""
    dropout: float = 0.2
    """dropout rate before the last layer"""
    validation: bool = False
    """test on five recordings of each digit and speaker of the training split, to choose options"""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.shift < SAMPLES:
            raise ValueError(f"shift must be in [0, {SAMPLES}), got {self.shift}")


class Results(NamedTuple):
    """Accuracy.

    Fields:
      accuracies: Fraction of the test recordings classified correctly, (seeds,).
      pictures: Files written.
    """

    accuracies: np.ndarray
    pictures: list[Path]


def run(config: Config) -> Results:
    """Train the net with each seed, print the accuracies, and draw waveforms and filters."""
    train, recording = waveforms("train", config.data_dir)
    if config.validation:
        held = recording < 10  # the test split has recordings 0 to 4 of each digit and speaker
        (x, y), test = train, (train[0][held], train[1][held])
        train = x[~held], y[~held]
    else:
        test, _ = waveforms("test", config.data_dir)
    net = wave_net(config.features, config.dropout)
    print(jn.summary(net, train[0][:1]))
    print(f"{len(train[1]):,} recordings to train on, {len(test[1]):,} to test with")
    objective = jn.supervised(
        net,
        optax.softmax_cross_entropy_with_integer_labels,
        metrics={"accuracy": jn.metrics.accuracy},
    )
    steps = total_steps(len(train[1]), config)
    trainer = jn.trainer(
        jn.augmented(objective, jn.data.on_inputs(random_delay(config.shift))),
        optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps)),
    )

    def last_epoch(seed: int) -> jn.Epoch:
        return run_epochs(
            trainer,
            train,
            seed=seed,
            epochs=config.epochs,
            batch_size=config.batch_size,
            evaluate=test,
        )[-1]

    last = over_seeds(last_epoch, config)
    accuracies = np.array([(epoch.evaluation or {})["accuracy"] for epoch in last])
    print(f"test accuracy {mean_std(accuracies, ends=True)}")
    params, state = last[-1].train_state.params, last[-1].train_state.state
    figures = {
        "waves": draw_waves(test, jn.predict(net, params, state, test[0])),
        "filters": draw_filters(np.asarray(params["conv"]["kernel"])[:, 0]),
    }
    return Results(accuracies, save(figures, config.output))


def waveforms(split: str, data_dir: Path | None = None) -> tuple[Pair, np.ndarray]:
    """Return ((x, y), recording): waveforms (n, 6000, 1), digits (n,), and numbers of recordings.

    Each waveform has mean 0 and variance 1 before zero padding: loudness differs tenfold between
    recordings.
    """
    data = jn.data.spoken_digits(split, data_dir=data_dir)
    x = np.zeros((len(data.waves), SAMPLES, 1), np.float32)
    for row, audio in zip(x, data.waves, strict=True):
        wave = audio[:SAMPLES].astype(np.float32)
        row[: len(wave), 0] = (wave - wave.mean()) / wave.std()
    return (x, data.digits), data.numbers


def wave_net(features: int, dropout: float) -> jn.Layer:
    """Return four convolutions along time, each followed by pooling, as in the paper's M5."""

    def block(features, kernel_size, strides=1):
        return (
            jn.conv(features, kernel_size, strides=strides, use_bias=False),
            jn.batch_norm(),
            jax.nn.relu,
            jn.max_pool(4),
        )

    return jn.serial(
        *block(features, 80, strides=4),  # (batch, 6000, 1) -> (batch, 375, features)
        *block(2 * features, 3),  # (batch, 93, 2 * features)
        *block(4 * features, 3),  # (batch, 23, 4 * features)
        *block(8 * features, 3),  # (batch, 5, 8 * features)
        jn.global_avg_pool(),  # (batch, 8 * features)
        jn.dropout(dropout),
        jn.dense(10, name="output"),
        name="wave_net",
    )


def random_delay(samples: int) -> Augmentation:
    """Delay each signal (time, channels) of a batch by up to `samples`, padding with zeros."""

    def augment(key, x):
        late = jnp.pad(x, ((0, 0), (samples, 0), (0, 0)))
        start = jax.random.randint(key, (x.shape[0],), 0, samples + 1)
        return jax.vmap(lambda a, i: jax.lax.dynamic_slice_in_dim(a, i, x.shape[1]))(late, start)

    return augment


def draw_waves(test: Pair, logits: np.ndarray):
    """Draw one recording of each digit, then the first five that were misclassified."""
    x, y = test
    predicted = logits.argmax(-1)
    probability = np.asarray(jax.nn.softmax(logits)).max(-1)
    correct = [np.flatnonzero((y == digit) & (predicted == y))[:1] for digit in range(10)]
    chosen = np.concatenate([*correct, np.flatnonzero(predicted != y)[:5]])
    figure = new_figure(11, 1.3 * -(-len(chosen) // 5))
    cells = figure.subplots(-(-len(chosen) // 5), 5, squeeze=False, sharex=True).ravel()
    seconds = np.arange(SAMPLES) / RATE
    for axes, i in zip(cells, chosen, strict=False):
        wrong = bool(predicted[i] != y[i])
        axes.plot(seconds, x[i, :, 0], color=COLORS[int(wrong)], linewidth=0.4)
        title = f"predicted {predicted[i]}" + f", is {y[i]}" * wrong
        axes.set_title(f"{title} ({probability[i]:.0%})", fontsize=9)
        axes.set_yticks([])
        axes.spines[["top", "left", "right"]].set_visible(False)
    for axes in cells[len(chosen) :]:
        axes.remove()
    figure.supxlabel("seconds", fontsize=9)
    return figure


def draw_filters(kernel: np.ndarray):
    """Draw filters (time, filters), sorted by pitch: impulse responses and frequency responses."""
    response = np.abs(np.fft.rfft(kernel, 512, axis=0))  # (frequencies, filters)
    order = response.argmax(0).argsort()
    kernel, response = kernel[:, order], response[:, order] / response.max(0)[order]
    figure = new_figure(11, 4.5)
    halves: Any = figure.subfigures(1, 2)
    left, right = halves
    shown = np.linspace(0, len(order) - 1, min(16, len(order))).astype(int)
    for axes, i in zip(left.subplots(4, 4).ravel(), shown, strict=False):
        axes.plot(kernel[:, i], color=COLORS[0], linewidth=0.8)
        axes.set_title(f"{response[:, i].argmax() * RATE / 512:.0f} Hz", fontsize=8)
        frame(axes)
    left.suptitle(f"filters, {1000 * len(kernel) / RATE:.0f} ms", fontsize=10)
    axes = right.subplots()
    axes.imshow(
        response,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        vmin=0,
        vmax=1,
        extent=(0.5, len(order) + 0.5, 0, RATE / 2000),
    )
    axes.set_xlabel("filter, sorted by its peak frequency")
    axes.set_ylabel("kHz")
    right.suptitle("frequency response", fontsize=10)
    return figure


SHORT = Short({"features": 2, "epochs": 1, "seeds": 1})


if __name__ == "__main__":
    main(Config, run)
