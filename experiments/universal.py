"""Universal approximation: one hidden layer fits a continuous function, better with more units.

Claim: the error on a continuous function falls each time the hidden units are doubled.

The error is measured between the 400 points that were fitted. The scale of the first layer's
weights, 8, was chosen on this function, over 4.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.common import Output, Seeds, Short, grid, main, mean_std, save
from experiments.records import Command, Picture, Record, lower
from jaxnet.viz.style import COLORS, new_figure

RECORDS = (
    Record(
        topic="classic",
        title="More hidden units fit a function better",
        verdict="Supported",
        sentence=(
            "A net with one hidden layer fits 400 points of a continuous function. From 4 to 256 "
            "units, the mean of the root mean squared errors falls from 0.407 to 0.0041."
        ),
        columns=("hidden units", *lower("root mean squared error", "largest error")),
        rows=(
            ("4", "0.407 ± 0.079", "1.13"),
            ("8", "0.174 ± 0.068", "0.56"),
            ("16", "0.117 ± 0.095", "0.44"),
            ("32", "0.0406 ± 0.0258", "0.136"),
            ("64", "0.0194 ± 0.0137", "0.077"),
            ("128", "0.0088 ± 0.0039", "0.048"),
            ("256", "0.0041 ± 0.0008", "0.020"),
        ),
        commands=(Command("", 32, "32 s of CPU"),),
        caveat="Single doublings often differ less than the seeds do.",
        seeds=5,
        key="from 0.407 ± 0.079 to 0.0041 ± 0.0008",
        baseline="4",
        note=(
            "The errors are measured between the fitted points. The function has a range of 4.2.\n"
            "Not every single doubling is reliable: from 8 to 16 units, for example, the errors of "
            "the seeds overlap.\n"
            "We chose the scale of the first layer's weights on this function: 8 instead of 4."
        ),
        pictures=(Picture("universal.png", "Fits and errors by hidden units"),),
        lesson=3,
    ),
)


@dataclass(frozen=True)
class Config(Seeds, Output):
    """Fits a function of one number with more and more hidden units."""

    output: Path = Path("runs/universal")
    seeds: int = 5
    widths: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    """hidden units of each net"""
    steps: int = 4000
    """number of steps of Adam, on all points at once"""
    points: int = 400
    """number of points to fit, evenly spaced over [-1, 1]; the error is measured between them"""
    learning_rate: float = 0.01
    """initial learning rate, with cosine decay to 0"""


class Results(NamedTuple):
    """Results of the experiment.

    Fields:
      errors: Root mean squared error on points that were not fitted, (widths, seeds).
      largest: Largest error on these points, (widths, seeds).
      pictures: Files written.
    """

    errors: np.ndarray
    largest: np.ndarray
    pictures: list[Path]


def run(config: Config) -> Results:
    """Fit every width with every seed, measure the errors between the points, and draw them."""
    x = np.linspace(-1, 1, config.points, dtype=np.float32)[:, None]
    between = (x[1:] + x[:-1]) / 2
    errors, largest, fits = [], [], {}
    print("units  root mean squared error   largest error")
    for width in config.widths:
        rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
        fitted = jn.sweep(
            jn.supervised(net(width), optax.squared_error),
            partial(optax.adam, rate),
            (x, function(x)),
            epochs=config.steps,
            seeds=config.all_seeds,
            batch_size=config.points,
        )
        runs = [fitted.member(0, i) for i in range(config.seeds)]
        y = np.stack([jn.predict(net(width), r.params, r.state, between)[:, 0] for r in runs])
        off = y - function(between)[:, 0]  # (seeds, points - 1)
        errors.append(np.sqrt((off**2).mean(1)))
        largest.append(np.abs(off).max(1))
        fits[width] = y[0]
        print(f"{width:5}  {mean_std(errors[-1], '.5f')}         {largest[-1].mean():.4f}")
    results = np.stack(errors), np.stack(largest)
    figure = draw(config, between[:, 0], fits, *results)
    return Results(*results, save({"universal": figure}, config.output))


def function(x):
    """Return a continuous function: waves of two lengths, and two kinks that no smooth unit has."""
    waves = np.sin(2 * np.pi * x) + 0.5 * np.cos(5 * np.pi * x)
    return waves + np.abs(x - 0.3) - np.abs(x + 0.5)


def net(width: int) -> jn.Layer:
    """Return a hidden layer of steep tanh units, half of them centered in [-1, 1]."""
    steep = jn.initializers.normal(8.0)
    return jn.serial(
        jn.dense(width, kernel_init=steep, bias_init=steep),
        jnp.tanh,
        jn.dense(1),
    )


def draw(config: Config, x, fits: dict[int, np.ndarray], errors, largest):
    """Draw the fits of a few widths, and the errors of all against the number of units."""
    figure = new_figure(9.6, 3.8)
    left, right = figure.subplots(1, 2)
    left.plot(x, function(x), color="0.75", linewidth=5, label="the function")
    few = list(fits)[:: max(1, math.ceil(len(fits) / 3))]
    for color, width in zip(COLORS, few, strict=False):
        left.plot(x, fits[width], color=color, linewidth=1.2, label=f"{width} units")
    left.set_xlabel("x")
    left.set_title("one seed of some widths", fontsize=10)
    left.legend(frameon=False, fontsize=9)
    for color, marker, name, values in (
        (COLORS[0], "o", "root mean square", errors),
        (COLORS[1], "s", "largest", largest),
    ):
        right.plot(config.widths, values, marker, color=color, markersize=3, alpha=0.5)
        right.plot(config.widths, values.mean(1), color=color, marker=marker, label=name)
        right.fill_between(config.widths, values.min(1), values.max(1), color=color, alpha=0.15)
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.set_xticks(config.widths, [str(width) for width in config.widths])
    right.set_xlabel("hidden units")
    right.set_ylabel("error between the points")
    right.set_title(f"mean and range of {config.seeds} seeds", fontsize=10)
    right.legend(frameon=False, fontsize=9)
    grid(left)
    grid(right)
    return figure


SHORT = Short({"widths": (2,), "seeds": 1, "steps": 5, "points": 20})


if __name__ == "__main__":
    main(Config, run)
