"""A sparse autoencoder on patches of photographs learns oriented edges, as in the visual cortex.

Claim: at least half of the filters that a sparse autoencoder learns on whitened patches of
photographs fit a Gabor function with R² > 0.6. Random weights do not, and principal components
less often.

A filter is oriented if its function is an edge or a bar rather than a round spot. The patches come
from scikit-learn's two photographs (drawn again for each seed), from CIFAR-10, or from CamVid's
road scenes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

import jaxnet as jn
from experiments.common import Data, Output, Seeds, Short, main, mean_std, over_seeds, save
from experiments.records import Command, Figures, Picture, Record, higher
from jaxnet.unsupervised import autoencoder, whitening
from jaxnet.viz.style import COLORS, frame, new_figure

ENOUGH = 0.6  # R² above which a filter counts as a Gabor function

RECORDS = (
    Record(
        topic="unsupervised",
        title="A sparse autoencoder learns edges from photographs",
        verdict="Supported",
        sentence=(
            "Gabor functions are localized waves that describe edges and bars. We fitted them to "
            "the 100 filters that a sparse autoencoder learns on patches of two photographs. They "
            "fit 94.0% of the filters, and 88.8% of the filters are oriented edges or bars. They "
            "fit no random filter. On CIFAR-10 and CamVid they fit all learned filters."
        ),
        columns=(
            "photographs",
            *higher("filters that fit (%)", "oriented filters (%)"),
            "random filters that fit (%)",
            "principal components that fit, fewest (%)",
            "most (%)",
        ),
        rows=(("two of scikit-learn", "94.0 ± 3.3", "88.8 ± 2.2", "0", "28", "33"),),
        commands=(
            Command("--seeds 5", 54, "54 s of CPU"),
            Command("--images cifar10", 29, "32 s of CPU"),
            Command("--images camvid", 20, "22 s of CPU"),
        ),
        caveat="We tuned the recipe on one seed.",
        seeds=5,
        key="94.0 ± 3.3% of the filters",
        note=(
            "A filter fits if R² > 0.6. There are 100 filters and 64 principal components.\n"
            "The claim was that at least half of the filters fit. In single seeds, 91 to 98% of "
            "them fit.\n"
            "We tuned the recipe on seed 0.\n"
            "The mean activations of the units are between 0.030 and 0.037, and the target is 0.03."
        ),
        history=(
            "The weight decay matters. With 0.02, 75% of the filters fit on the photographs. With "
            "0.03, all units become equal on CIFAR-10, so that 0% fit, and 14% fit on CamVid.\n"
            "We chose weight decay, sparsity and whitening by the fraction of filters that fit on "
            "seed 0."
        ),
        more=(
            Figures(
                "Other photographs, one seed",
                (
                    "photographs",
                    "filters that fit (%)",
                    "oriented filters (%)",
                    "random filters that fit (%)",
                    "principal components that fit (%)",
                ),
                (
                    ("CIFAR-10, re-encoded as JPEG", "100", "94", "0", "53"),
                    ("CamVid's road scenes", "100", "96", "0", "55"),
                ),
            ),
        ),
        pictures=(
            Picture("edges_filters.png", "Filters learned from photographs"),
            Picture("edges_gabors.png", "The Gabor functions fitted to them"),
            Picture("edges_r2.png", "How well the functions fit"),
        ),
        lesson=4,
    ),
)


@dataclass(frozen=True)
class Config(Data, Seeds, Output):
    """Learns features of photographs without labels and compares them with Gabor functions."""

    output: Path = Path("runs/edges")
    images: Literal["sample", "cifar10", "camvid"] = "sample"
    """scikit-learn's two photographs, the first 5,000 of CIFAR-10, or CamVid's road scenes"""
    size: int = 12
    """side of a patch in pixels"""
    components: int = 64
    """number of principal components of a patch to keep; the others are its finest detail"""
    patches: int = 40_000
    """number of patches"""
    features: int = 100
    """units of the autoencoder"""
    rho: float = 0.03
    """target mean activation of a unit"""
    beta: float = 10.0
    """weight of the sparsity penalty"""
    decay: float | None = None
    """weight decay, which removes noise from the filters; by default 0.03 for the sample, else
    0.02"""
    epochs: int = 40
    """training epochs"""

    def __post_init__(self):
        super().__post_init__()
        if self.components > self.size**2:
            raise ValueError(
                f"components must be at most the number of pixels of a patch, {self.size**2}, got "
                f"{self.components}"
            )


class Learned(NamedTuple):
    """The result of one seed.

    Fields:
      raw: Patches as cut from the images, (patches, size, size).
      filters: Filters (size, size, filters), for "learned", "random" and "principal components".
      fits: Fitted Gabor functions, under the same names.
      activation: Lowest and highest mean activation of a unit.
    """

    raw: np.ndarray
    filters: dict[str, np.ndarray]
    fits: dict[str, jn.inspect.GaborFit]
    activation: tuple[float, float]


class Results(NamedTuple):
    """Fractions of the filters.

    Fields:
      shares: Fraction of the filters that fit a Gabor function with R² > 0.6, name -> (seeds,).
      oriented: Fraction of the learned filters that fit such a function and are oriented, (seeds,).
      activation: Lowest and highest mean activation of a unit, (seeds, 2).
      pictures: Files written for the first seed.
    """

    shares: dict[str, np.ndarray]
    oriented: np.ndarray
    activation: np.ndarray
    pictures: list[Path]


def run(config: Config) -> Results:
    """Learn with every seed, print the fractions, and draw the first seed's filters."""
    images = load(config)
    runs = over_seeds(lambda seed: learn(images, config, seed), config)
    shares = {name: np.array([share(one.fits[name].r2) for one in runs]) for name in runs[0].fits}
    fits = [one.fits["learned"] for one in runs]
    edges = np.array([share(np.where(oriented(fit), fit.r2, 0)) for fit in fits])
    activation = np.array([one.activation for one in runs])
    print(f"filters that fit a Gabor function with R² > {ENOUGH}:")
    for name, values in shares.items():
        print(f"  {name} {mean_std(values, '.1%', ends=True)}")
    print(f"  learned, oriented edges or bars {mean_std(edges, '.1%')}")
    print(f"mean activations {activation.min():.3f} to {activation.max():.3f}, target {config.rho}")
    return Results(shares, edges, activation, save(draw(runs[0]), config.output / config.images))


def load(config: Config) -> list[np.ndarray]:
    """Return gray photographs in [0, 1], each (height, width)."""
    match config.images:
        case "sample":
            photos = jn.data.photos()
            return [photos[name].mean(-1) for name in ("china", "flower")]
        case "cifar10":
            (x, _), _ = jn.data.cifar10(data_dir=config.data_dir)
            return list(x[:5000].mean(-1))
        case "camvid":
            photos = jn.data.tfds.load("camvid", "train", data_dir=config.data_dir)["image"]
            return [np.asarray(photo, np.float32).mean(-1) / 255 for photo in photos]


def learn(images: list[np.ndarray], config: Config, seed: int) -> Learned:
    """Return filters of one seed and the Gabor functions that fit them."""
    raw = jn.data.patches(images, config.size, config.patches, seed=seed)
    x, directions = prepare(raw.reshape(len(raw), -1), config.components)
    usual = 0.03 if config.images == "sample" else 0.02
    decay = usual if config.decay is None else config.decay
    params = autoencoder.fit_sparse_autoencoder(
        jax.random.key(seed),
        x,
        config.features,
        rho=config.rho,
        beta=config.beta,
        penalty=jn.penalties.l2(decay / 2),
        epochs=config.epochs,
    )
    active = jax.nn.sigmoid(x @ params["kernel"] + params["bias"]).mean(0)  # (features,)
    kernel = np.asarray(params["kernel"])  # (components, features)
    sets = {
        "learned": directions @ kernel,
        "random": directions @ np.random.default_rng(seed).normal(size=kernel.shape),
        "principal components": directions,
    }  # each (pixels, filters)
    filters = {name: a.reshape(config.size, config.size, -1) for name, a in sets.items()}
    fits = {name: jn.inspect.gabor_fit(a) for name, a in filters.items()}
    print(f"seed {seed}: {share(fits['learned'].r2):.0%} of {config.features} filters", flush=True)
    return Learned(raw, filters, fits, (float(active.min()), float(active.max())))


def prepare(x: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return whitened patches (n, components), and the components (pixels, components).

    Brightness and contrast of each patch are normalized first, as in the retina; patches with
    almost no contrast, such as sky, are not amplified.
    """
    x = x - x.mean(1, keepdims=True)
    x = x / np.sqrt(x.var(1, keepdims=True) + 0.05**2)
    params = whitening.fit_whitening(None, x, components, epsilon=0.1)
    kernel = np.asarray(params["kernel"])
    whitened = x @ kernel + np.asarray(params["bias"])
    return whitened.astype(np.float32), kernel / np.linalg.norm(kernel, axis=0)


def share(r2) -> float:
    """Return the fraction of the filters that count as Gabor functions."""
    return float(np.mean(np.asarray(r2) > ENOUGH))


def oriented(fit: jn.inspect.GaborFit) -> np.ndarray:
    """Return whether a function is oriented: it has both signs, or is twice as long as wide."""
    gabor = fit.gabor
    # at least half a wave from -2σ to 2σ of the Gaussian, else it is one round spot
    waves = 4 * np.asarray(gabor.sigma_along) * np.asarray(gabor.frequency)
    long = np.asarray(gabor.sigma_across) > 2 * np.asarray(gabor.sigma_along)
    return (waves > 0.5) | long


def draw(learned: Learned) -> dict[str, Any]:
    """Draw patches, all filters from the best fit to the worst, filters next to fits, and R²."""
    filters = learned.filters["learned"]
    size = len(filters)
    r2 = {name: np.asarray(fit.r2) for name, fit in learned.fits.items()}
    order = np.argsort(-r2["learned"])
    fitted = np.asarray(learned.fits["learned"].gabor.draw(size, size))
    columns = int(np.ceil(np.sqrt(len(order))))
    return {
        "patches": jn.viz.images(1 - learned.raw[:60], columns=12),
        "filters": jn.viz.filters(filters[:, :, None, order], columns=columns),
        "gabors": draw_pairs(filters, fitted, r2["learned"], order),
        "r2": histogram(r2),
    }


def draw_pairs(filters, fitted, r2, order, columns: int = 12, rows: int = 3):
    """Draw filters with the fitted Gabor functions below them, evenly over the order."""
    chosen = order[np.linspace(0, len(order) - 1, min(columns * rows, len(order))).astype(int)]
    rows = -(-len(chosen) // columns)
    figure = new_figure(0.8 * columns + 0.8, 1.85 * rows)
    cells = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in cells.ravel():
        axes.axis("off")
    for i, unit in enumerate(chosen):
        row, column = divmod(i, columns)
        pair = cells[2 * row : 2 * row + 2, column]
        largest = np.abs(filters[:, :, unit]).max() or 1.0
        for axes, image, name in zip(pair, (filters, fitted), ("filter", "Gabor"), strict=True):
            axes.axis("on")
            axes.imshow(image[:, :, unit] / largest, cmap="RdBu_r", vmin=-1, vmax=1)
            frame(axes)
            axes.set_ylabel("" if column else name, fontsize=9)
        pair[0].set_title(f"R² {r2[unit]:.2f}", fontsize=9)
    return figure


def histogram(r2: dict[str, np.ndarray]):
    """Draw the distribution of R² for each set of filters."""
    figure = new_figure(5.6, 3.6)
    axes = figure.subplots()
    for (name, values), color in zip(r2.items(), COLORS, strict=False):
        label = f"{name}: {share(values):.0%} above {ENOUGH}"
        weights = np.full(len(values), 1 / len(values))
        axes.hist(
            np.clip(values, 0, 1),
            np.linspace(0, 1, 26).tolist(),
            weights=weights,
            histtype="step",
            linewidth=1.8,
            color=color,
            label=label,
        )
    axes.axvline(ENOUGH, color="0.6", linestyle="--", linewidth=1)
    axes.set_xlabel("R² of the nearest Gabor function")
    axes.set_ylabel("fraction of the filters")
    axes.set_xlim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.3))
    return figure


SHORT = Short(
    {"images": "camvid", "size": 5, "components": 9, "patches": 500, "features": 9, "epochs": 1}
)


if __name__ == "__main__":
    main(Config, run)
