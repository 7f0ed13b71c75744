"""Universal approximation: one hidden layer fits a continuous function, better with more units.

Claim:   the error on a continuous function falls each time the hidden units are doubled.
Result:  root of the mean squared error between the 400 points that were fitted, mean and standard
         deviation of 5 seeds (0 to 4), and the mean of the largest error; the function itself has a
         range of 4.2:
             4 units  0.461   +- 0.184     1.30
             8        0.192   +- 0.058     0.52
            16        0.067   +- 0.049     0.21
            32        0.0236  +- 0.0100    0.077
            64        0.0135  +- 0.0036    0.048
           128        0.0061  +- 0.0008    0.024
           256        0.0041  +- 0.0007    0.023
         The scale of the first layer's weights, 8, was chosen on this function, over 4.
Time:    40 s of CPU, compilation included.
Machine: 2 CPU cores, jax 0.10.2.
Command: python -m experiments.universal
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn

WIDTHS = (4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Config:
    """Fits a function of one number with ever more hidden units; the record is in the file."""

    widths: tuple[int, ...] = WIDTHS
    """hidden units of each net"""
    seeds: int = 5
    """draws of the weights, for each width"""
    steps: int = 4000
    """of adam, on all points at once"""
    points: int = 400
    """where the function is known, evenly over [-1, 1]; the error is measured in between too"""
    learning_rate: float = 0.01
    """at the beginning, it falls to 0 as a cosine"""
    output: Path = Path("runs/universal")
    """folder of the pictures"""

    def __post_init__(self):
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be at least 1 each, got {self.widths}")
        for name in ("seeds", "steps", "points"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class Results(NamedTuple):
    """What a run of the experiment gives.

    Fields:
      errors: (widths, seeds), root of the mean squared error on points that were not fitted.
      largest: (widths, seeds), the largest error there.
      pictures: the files that were written.
    """

    errors: np.ndarray
    largest: np.ndarray
    pictures: list[Path]


def function(x):
    """Continuous, with waves of two lengths and two bends that no smooth unit has."""
    waves = np.sin(2 * np.pi * x) + 0.5 * np.cos(5 * np.pi * x)
    return waves + np.abs(x - 0.3) - np.abs(x + 0.5)


def net(width: int) -> jn.Layer:
    """tanh units that rise steeply, half of them somewhere in [-1, 1]."""
    steep = jn.initializers.normal(8.0)
    return jn.serial(
        jn.dense(width, kernel_init=steep, bias_init=steep),
        jnp.tanh,
        jn.dense(1),
    )


def run(config: Config) -> Results:
    """Fits every width with every seed, measures the errors between the points, and draws them."""
    start = time.perf_counter()
    x = np.linspace(-1, 1, config.points, dtype=np.float32)[:, None]
    between = (x[1:] + x[:-1]) / 2
    errors, largest, drawn = [], [], {}
    print("units  root mean squared error (std over seeds)   largest error")
    for width in config.widths:
        rate = optax.cosine_decay_schedule(config.learning_rate, config.steps)
        objective = jn.supervised(net(width), optax.squared_error)
        fitted = jn.sweep(
            net(width), objective, partial(optax.adam, rate), (x, function(x)),
            epochs=config.steps, seeds=config.seeds, batch_size=config.points,
        )  # fmt: skip
        said = np.stack(
            [
                jn.predict(net(width), *fitted.member(0, seed)[1:3], between)[:, 0]
                for seed in range(config.seeds)
            ]
        )
        off = said - function(between)[:, 0]  # (seeds, points - 1)
        errors.append(np.sqrt((off**2).mean(1)))
        largest.append(np.abs(off).max(1))
        drawn[width] = said[0]
        spread = errors[-1].std(ddof=config.seeds > 1)
        print(f"{width:5}  {errors[-1].mean():.5f} ({spread:.5f})   {largest[-1].mean():.4f}")
    results = np.stack(errors), np.stack(largest)
    pictures = draw(config, between[:, 0], drawn, *results)
    print("pictures: " + ", ".join(map(str, pictures)))
    print(f"{time.perf_counter() - start:.1f} seconds, compilation included")
    return Results(*results, pictures)


def draw(config: Config, x, drawn: dict[int, np.ndarray], errors, largest) -> list[Path]:
    """The fits of a few widths, and the errors of all against the number of units."""
    from jaxnet.viz.figure import COLORS, new_figure

    figure = new_figure(9.6, 3.8)
    fits, falls = figure.subplots(1, 2)
    fits.plot(x, function(x), color="0.75", linewidth=5, label="the function")
    few = list(drawn)[:: max(1, math.ceil(len(drawn) / 3))]
    for color, width in zip(COLORS, few, strict=False):
        fits.plot(x, drawn[width], color=color, linewidth=1.2, label=f"{width} units")
    fits.set_xlabel("x")
    fits.set_title("one seed of some widths", fontsize=10)
    fits.legend(frameon=False, fontsize=9)
    for color, marker, name, values in (
        (COLORS[0], "o", "root mean square", errors),
        (COLORS[1], "s", "largest", largest),
    ):
        falls.plot(config.widths, values, marker, color=color, markersize=3, alpha=0.5)
        falls.plot(config.widths, values.mean(1), color=color, marker=marker, label=name)
        falls.fill_between(config.widths, values.min(1), values.max(1), color=color, alpha=0.15)
    falls.set_xscale("log", base=2)
    falls.set_yscale("log")
    falls.set_xticks(config.widths, [str(width) for width in config.widths])
    falls.set_xlabel("hidden units")
    falls.set_ylabel("error between the points")
    falls.set_title(f"mean and range of {config.seeds} seeds", fontsize=10)
    falls.legend(frameon=False, fontsize=9)
    for axes in (fits, falls):
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return [jn.viz.save(figure, config.output / "universal.png")]


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
