"""Compressed sensing: sparse signals from few random measurements, distances under projections.

Claim: basis pursuit recovers a sparse signal where theory draws the line between success and
failure. Most digits of MNIST are recovered from half as many random numbers as they have pixels,
if it is known that no pixel is negative. Random projections keep distances as Johnson and
Lindenstrauss state.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments import random_projections as cs
from experiments.common import Data, Output, Seed, Short, grid, main, save
from experiments.records import Command, Figures, Picture, Record, higher, lower
from jaxnet.initializers import Initializer
from jaxnet.viz.style import COLORS, frame, new_figure

RECORDS = (
    Record(
        topic="unsupervised",
        title="Basis pursuit recovers sparse signals where theory predicts it",
        verdict="Supported",
        sentence=(
            "Of all signals that fit the measurements, basis pursuit chooses the one with the "
            "smallest ℓ1 norm. "
            "We varied the number of measurements and the number of nonzero entries on a "
            "grid of 20 × 20 cells, and solved 20 signals with 100 unknowns in each cell. "
            "On average, the line at which half of the signals are recovered is 0.010 from "
            "the line that the theory of Donoho and Tanner predicts."
        ),
        columns=("line", "mean distance from theory (measurements per unknown)"),
        rows=(("half of the signals recovered", "0.010"),),
        commands=(Command("", 39, "39 s of CPU"),),
        seeds=1,
        key="0.010 measurements per unknown from theory",
        pictures=(
            Picture(
                "compressed_sensing_phase.png",
                "Recovery by ℓ1: fraction of signals recovered, and the line of the theory",
            ),
        ),
    ),
    Record(
        topic="unsupervised",
        title="Nine of ten digits are recovered from half as many numbers as pixels",
        verdict="Supported",
        sentence=(
            "We try to recover ten MNIST digits, one per class, from random measurements. With "
            "half as many measurements as pixels, 9 digits are recovered if the method knows that "
            "no pixel is negative. By the smallest ℓ1 norm alone, 2 are recovered."
        ),
        columns=(
            "method",
            *higher(
                "measurements: 10% of the pixels (digits recovered)", "20%", "30%", "40%", "50%"
            ),
        ),
        rows=(
            ("least squares", "0", "0", "0", "0", "0"),
            ("smallest ℓ1 norm", "0", "0", "0", "2", "2"),
            ("smallest ℓ1 norm, not negative", "0", "0", "1", "2", "9"),
        ),
        commands=(Command("", 39, "39 s of CPU"),),
        caveat="The digit that is not recovered is the 8, which has the most ink.",
        seeds=1,
        key="9 of 10 digits",
        baseline="least squares",
        note=(
            "A digit counts as recovered if the relative error is below 1e-3. The digit "
            "that was not recovered is the 8, which has ink in 29% of its pixels."
        ),
        more=(
            Figures(
                "Mean relative error (%)",
                ("method", *lower("measurements: 10% of the pixels", "20%", "30%", "40%", "50%")),
                (
                    ("least squares", "95.4", "88.5", "83.8", "77.1", "70.8"),
                    ("smallest ℓ1 norm", "107.2", "95.4", "85.2", "56.7", "26.0"),
                    ("smallest ℓ1 norm, not negative", "103.0", "86.3", "62.9", "28.7", "0.8"),
                ),
            ),
        ),
        pictures=(
            Picture("compressed_sensing_digits.png", "Digits recovered from random measurements"),
        ),
    ),
    Record(
        topic="unsupervised",
        title="Random projections keep distances within the bound",
        verdict="Supported",
        sentence=(
            "We projected 200 images to random features. The largest distortion of a squared "
            "distance falls from 95% with 64 features to 13% with 2,048. It is below the "
            "Johnson-Lindenstrauss bound for every number of features for which the bound applies."
        ),
        columns=("features", *lower("largest distortion (%)"), "Johnson-Lindenstrauss bound (%)"),
        rows=(
            ("64", "95", ""),
            ("256", "40", "50"),
            ("1,024", "18", "22"),
            ("2,048", "13", "15"),
        ),
        commands=(Command("", 39, "39 s of CPU"),),
        caveat="With 64 features the bound does not apply.",
        seeds=1,
        key="13% with 2,048 features, bound 15%",
        note=(
            "With 64 features the bound does not apply. The entries of the projection are normal. "
            "Entries of ±1, and of 0 and ±1, give the same result."
        ),
    ),
)


@dataclass(frozen=True)
class Config(Data, Seed, Output):
    """Recovers sparse signals and digits, and measures distances under random projections."""

    output: Path = Path("runs/compressed_sensing")
    unknowns: int = 100
    """length of the signals of the phase plot"""
    cells: int = 20
    """number of rows and columns of the phase plot"""
    trials: int = 20
    """signals per cell, each with its own matrix"""
    steps: int = 300
    """number of steps of basis pursuit"""
    points: int = 200
    """images whose distances are measured"""
    features: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    """numbers of features of the projections"""
    fractions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    """number of random measurements per pixel of a digit"""


class Results(NamedTuple):
    """Recovery and distortion.

    Fields:
      recovered: Fraction of the signals recovered to 1e-3, (sparsities, measurements).
      off: Mean distance of the half-way line from theory, in measurements over unknowns.
      distortions: Largest distortion at each number of features, by entries of the kernel.
      digits: Relative errors (fractions, 3) of least squares, of basis pursuit, and of basis
        pursuit with nonnegative pixels; means over the digits.
      pictures: Files written.
    """

    recovered: np.ndarray
    off: float
    distortions: dict[str, np.ndarray]
    digits: np.ndarray
    pictures: list[Path]


def run(config: Config) -> Results:
    """Measure and draw."""
    (x, labels), _ = jn.data.mnist(data_dir=config.data_dir)
    x, labels = np.asarray(x[:2000]).reshape(-1, 784).astype(np.float32), labels[:2000]

    recovered, sparse, counts = phase(config)
    halves = half_way(recovered, counts) / config.unknowns
    off = float(np.nanmean(abs(halves - theory(sparse / config.unknowns))))
    print(f"phase plot: half-way line {off:.3f} from theory's on average, in measurements/unknowns")

    distortions = distances(config, x[: config.points])
    for kind, largest in distortions.items():
        pairs = zip(largest, config.features, strict=True)
        words = ", ".join(f"{value:.3f} at {count}" for value, count in pairs)
        print(f"largest distortion, entries {kind}: {words}")

    images = x[[int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]]
    found = reconstruct(config, images)
    errors = np.linalg.norm(found - images, axis=-1) / np.linalg.norm(images, axis=-1)
    print(f"fraction of nonzero pixels: {np.round((images > 0).mean(1), 2).tolist()}")
    for fraction, row in zip(config.fractions, errors, strict=True):
        least, pursuit, positive = row.mean(1)
        print(
            f"from {fraction:.0%}: error {least:.1%} (least squares), {pursuit:.2%}, "
            f"{positive:.2%} (no pixel below 0) on average; recovered to 1e-3: "
            f"{(row < 1e-3).sum(1).tolist()} of 10 digits"
        )
    figures = {
        "phase": draw_phase(recovered, sparse, counts, config.unknowns),
        "distances": draw_distances(np.array(config.features), distortions, config.points),
        "digits": draw_digits(images, found, config.fractions, which=4),
    }
    return Results(recovered, off, distortions, errors.mean(-1), save(figures, config.output))


def theory(sparsity: np.ndarray) -> np.ndarray:
    """Return measurements over unknowns at which half of the signals of a sparsity are recovered.

    The infimum over t of s (1 + t²) + (1 − s) E(|g| − t)₊², g normal [Donoho and Tanner 2009;
    Amelunxen et al. 2014, "Living on the edge", 4.3].
    """
    t = np.linspace(0, 6, 3001)[:, None]
    tail = np.array([math.erfc(v / math.sqrt(2)) for v in t[:, 0]])[:, None]  # P(|g| > t)
    density = np.exp(-(t**2) / 2) * math.sqrt(2 / math.pi)
    excess = (1 + t**2) * tail - t * density
    return (sparsity * (1 + t**2) + (1 - sparsity) * excess).min(0)


def phase(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the fraction of signals recovered, (sparsities, measurements), and the two axes."""
    n, r = config.unknowns, np.random.default_rng(config.seed)
    counts = np.unique(np.linspace(0, n, config.cells + 1).round().astype(int))[1:]
    sparse = np.unique(np.linspace(0, 0.8 * n, config.cells + 1).round().astype(int))[1:]
    recovered = np.zeros((len(sparse), len(counts)))
    solve = jax.jit(jax.vmap(partial(cs.basis_pursuit, steps=config.steps)))
    for column, m in enumerate(counts):
        # The same matrices for all sparsities, whose signals are recovered together.
        A = r.normal(size=(config.trials, m, n)).astype(np.float32) / math.sqrt(m)
        x = r.normal(size=(config.trials, len(sparse), n)).astype(np.float32)
        ranks = r.random(x.shape).argsort(-1)
        x *= ranks < sparse[:, None]  # the nonzero entries are anywhere
        y = np.einsum("tmn,tkn->tkm", A, x)
        error = np.linalg.norm(solve(A, y) - x, axis=-1) / np.linalg.norm(x, axis=-1)
        recovered[:, column] = (error < 1e-3).mean(0)
    return recovered, sparse, counts


def half_way(recovered: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return measurements at which half of the signals are recovered, per sparsity, or NaN."""
    found = np.full(len(recovered), np.nan)
    for i, shares in enumerate(recovered):
        above = np.flatnonzero(shares >= 0.5)
        if len(above) and above[0] > 0:
            j = above[0]
            part = (0.5 - shares[j - 1]) / (shares[j] - shares[j - 1])
            found[i] = counts[j - 1] + part * (counts[j] - counts[j - 1])
    return found


def signs(sparsity: float) -> Initializer:
    """Draw ±√(sparsity / features), or 0 with probability 1 − 1 / sparsity [Achlioptas 2003]."""

    def init(key, shape, dtype=jnp.float32):
        p = jnp.array([0.5 / sparsity, 1 - 1 / sparsity, 0.5 / sparsity])
        drawn = jax.random.choice(key, jnp.array([-1, 0, 1], dtype), shape, p=p)
        return drawn * math.sqrt(sparsity / shape[-1])

    return init


KINDS = {"normal": {}, "±1": {"kernel_init": signs(1)}, "0 and ±1": {"kernel_init": signs(3)}}


def distances(config: Config, x: np.ndarray) -> dict[str, np.ndarray]:
    """Return the largest distortion of distances between images, for each number of features."""
    found = {}
    for kind, options in KINDS.items():
        largest = []
        for i, count in enumerate(config.features):
            layer = cs.random_projection(count, **options)
            params, state = layer.init(jax.random.key(1000 * config.seed + i), x)
            y, _ = layer.apply(params, state, x)
            largest.append(abs(cs.distortion(x, y)).max())
        found[kind] = np.array(largest)
    return found


def reconstruct(config: Config, images: np.ndarray) -> np.ndarray:
    """Return (fractions, 3, images, pixels): least squares, basis pursuit, nonnegative pursuit."""
    pixels, r = images.shape[1], np.random.default_rng(config.seed + 1)
    pursue = jax.jit(partial(cs.basis_pursuit, steps=4 * config.steps), static_argnames="positive")
    found = []
    for fraction in config.fractions:
        A = r.normal(size=(round(fraction * pixels), pixels)).astype(np.float32)
        y = images @ A.T
        least = y @ np.linalg.solve(A @ A.T, A)
        found.append([least, pursue(A, y), pursue(A, y, positive=True)])
    return np.array(found)


def draw_phase(recovered, sparse, counts, n):
    figure = new_figure(5.6, 4.6)
    axes = figure.subplots()
    width, height = counts[1] - counts[0], sparse[1] - sparse[0]
    extent = (
        (counts[0] - width / 2) / n, (counts[-1] + width / 2) / n,
        (sparse[0] - height / 2) / n, (sparse[-1] + height / 2) / n,
    )  # fmt: skip
    shown = axes.imshow(
        recovered, origin="lower", extent=extent, aspect="auto", cmap="gray", vmin=0, vmax=1
    )
    share = np.linspace(0, extent[3], 200)
    axes.plot(theory(share), share, color=COLORS[1], lw=2, label="theory, half recovered")
    axes.set_xlim(*extent[:2])
    axes.set_ylim(*extent[2:])
    axes.set_xlabel(f"measurements / unknowns, of {n}")
    axes.set_ylabel("nonzero entries / unknowns")
    axes.legend(loc="upper left", framealpha=0.9)
    figure.colorbar(shown, ax=axes, label="fraction of signals recovered")
    return figure


def draw_distances(features, distortions, points):
    figure = new_figure(5.6, 4.2)
    axes = figure.subplots()
    epsilon = np.linspace(0.05, 0.99, 200)
    bound = [cs.projection_features(points, e) for e in epsilon]
    axes.plot(bound, epsilon, color="0.2", lw=1.5, label="Johnson-Lindenstrauss bound")
    pairs = points * (points - 1) / 2
    axes.plot(
        features,
        np.sqrt(2 / features) * math.sqrt(2 * math.log(2 * pairs)),
        ":",
        color="0.4",
        label="√(2/m) √(2 ln 2·pairs), approximation",
    )
    for (kind, largest), color, mark in zip(distortions.items(), COLORS, "os^", strict=False):
        axes.plot(features, largest, mark, color=color, ms=6, label=f"entries {kind}")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(features, [str(f) for f in features])
    axes.minorticks_off()
    axes.set_yticks(
        [0.05, 0.1, 0.2, 0.5, 1, 2, 5], ["5%", "10%", "20%", "50%", "100%", "200%", "500%"]
    )
    axes.set_xlim(6.5, 2700)
    axes.set_ylim(0.05, 6)
    axes.set_xlabel("features m of the projection")
    axes.set_ylabel(f"largest distortion among {points} images")
    axes.legend(frameon=False, fontsize=9)
    grid(axes)
    return figure


def draw_digits(images, found, fractions, which):
    """Draw one digit by least squares, by basis pursuit, and by nonnegative basis pursuit."""
    figure = new_figure(1.25 * (len(fractions) + 1), 4.3)
    cells = figure.subplots(3, len(fractions) + 1)
    size = round(math.sqrt(images.shape[1]))
    rows = ("least squares", "smallest ℓ1 norm", "…, no pixel below 0")
    for i, row in enumerate(rows):
        for j in range(len(fractions) + 1):
            axes = cells[i, j]
            image = images[which] if j == len(fractions) else found[j, i, which]
            error = np.linalg.norm(image - images[which]) / np.linalg.norm(images[which])
            axes.imshow(image.reshape(size, size), cmap="gray_r", vmin=0, vmax=1)
            frame(axes)
            axes.set_xlabel("" if j == len(fractions) else f"error {error:.1%}", fontsize=8)
            if i == 0:
                words = "the digit" if j == len(fractions) else f"from {fractions[j]:.0%}"
                axes.set_title(words, fontsize=9)
        cells[i, 0].set_ylabel(row, fontsize=8.5)
    return figure


SHORT = Short(
    {
        "unknowns": 20,
        "cells": 3,
        "trials": 2,
        "steps": 20,
        "points": 20,
        "features": (4, 8),
        "fractions": (0.2, 0.5),
    }
)


if __name__ == "__main__":
    main(Config, run)
