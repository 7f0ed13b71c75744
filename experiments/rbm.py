"""Restricted Boltzmann machines on MNIST: contrastive divergence against persistent chains.

Claim:   with one Gibbs step an update, persistent chains (PCD) learn a far better density than
         contrastive divergence (CD-1): likelier test digits, and samples that stay digits. On a
         machine small enough to sum over all states, both make the data likelier, and AIS tells
         the likelihood within its error.
Result:  seed 0.
           12 x 8 units on crops of digits, exact mean log-likelihood in nats (independent pixels:
           -8.12, entropy of the data: -5.77):
             CD-1  -8.310 -> -6.851       PCD  -8.313 -> -6.817
             24 AIS estimates, 100 runs of 100 steps: off by at most 2.5 standard errors
           784 x 500 units on MNIST, pixels drawn black or white, 15 epochs; mean log-likelihood of
           the 10,000 test digits in nats, by AIS with 100 runs of 14,500 steps:
             CD-1  -161.0 (best after the second epoch, -119.4 by a tenth of the steps)
             PCD    -93.9 (two more seeds of AIS alone: -93.5 and -92.4)
         CD-1 makes the data less likely from the third epoch on, while its free energy on training
         and held-out digits goes on falling: only log Z tells. Of ten of its chains nine end at
         empty images, most within 100 steps; those of PCD change from digit to digit. The standard
         error of 0.4 nats for PCD is too small, as the three estimates show; with 10,000 steps at
         equal distances AIS says -90.4, -92.2 and -93.5, with 1,000 it says -84.0, -84.3 and -85.7.
         The paper has about -105 for CD-3 and -86 for CD with up to 25 steps.
Time:    4 min 23 s of CPU time, AIS after each epoch included (other work ran on the machine).
Machine: 2 CPU cores, jax 0.10.2.
Command: TFDS_DATA_DIR=... python -m experiments.rbm

References: Tieleman 2008; Salakhutdinov and Murray 2008, "On the Quantitative Analysis of Deep
Belief Networks" (the figures for comparison); Fischer and Igel 2010, "Empirical Analysis of the
Divergence of Gibbs Sampling Based Learning Algorithms for Restricted Boltzmann Machines".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

import jaxnet as jn
from jaxnet import unsupervised as un
from jaxnet.core import Params
from jaxnet.viz.figure import COLORS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = "CD-1", "PCD"
SAMPLED = 1, 10, 100, 1000, 10_000  # Gibbs steps after which samples are drawn


@dataclass(frozen=True)
class Config:
    """Trains machines by CD-1 and PCD on MNIST and on a small exact example; the record is in the
    file."""

    features: int = 500
    """hidden units on MNIST"""
    epochs: int = 15
    """passes over MNIST"""
    learning_rate: float = 0.05
    """at the beginning, it falls to 0 in a line"""
    batch_size: int = 100
    """examples a step, and chains of PCD"""
    betas: int = 14_500
    """steps of the last AIS estimate; a tenth of it after each epoch"""
    small_epochs: int = 60
    """passes over the small example"""
    train_size: int | None = None
    """train on the first so many images only"""
    seed: int = 0
    """of weights, order and chains"""
    data_dir: Path | None = None
    """where MNIST lies; by default where TFDS_DATA_DIR says"""
    output: Path = Path("runs/rbm")
    """folder of the pictures"""


class Results(NamedTuple):
    """What a run gives.

    Fields:
      small: method -> (epochs + 1,), exact mean log-likelihood of the small example.
      small_ais: method -> (estimates, 3): epoch, estimated log-likelihood, standard error.
      likelihood: method -> estimated mean log-likelihood of MNIST's test digits, nats.
      error: method -> its standard error.
      pictures: the files that were written.
    """

    small: dict[str, np.ndarray]
    small_ais: dict[str, np.ndarray]
    likelihood: dict[str, float]
    error: dict[str, float]
    pictures: list[Path]


def run(config: Config) -> Results:
    """Trains on the small example and on MNIST by both methods, prints and draws."""
    key = jax.random.key(config.seed)
    small, small_ais = {}, {}
    for method in METHODS:
        here = jn.child_key(key, f"small {method}")
        exact, estimates = exact_example(here, config.small_epochs, method)
        epochs, likelihood, error = estimates.T
        off = np.abs(likelihood - exact[epochs.astype(int)]) / error
        print(
            f"12 x 8 units, {method}: log-likelihood {exact[0]:.3f} -> {exact[-1]:.3f} nats, "
            f"exactly; {len(off)} AIS estimates are off by at most {off.max():.1f} standard errors"
        )
        small[method], small_ais[method] = exact, estimates
    figures = {"exact": draw_exact(small, small_ais)}

    (x, _), (held, _) = jn.data.mnist(data_dir=config.data_dir)
    x = x[: config.train_size].reshape(-1, 784)
    held = np.asarray(binarize(jn.child_key(key, "held"), held.reshape(-1, 784)))
    print(f"{len(x):,} digits to train on, {len(held):,} to test with, drawn black or white")
    free, curve, final, errors = {}, {}, {}, {}
    for method in METHODS:
        here = jn.child_key(key, method)
        rows, params = [], {}
        for learned, row in train(here, x, held, config, method):
            params = learned
            rows.append(row)
            print(
                f"{method}, epoch {len(rows)}: free energy {row.train:.1f} in training, "
                f"{row.held:.1f} held out; log-likelihood {row.likelihood:.1f} by short AIS"
            )
        free[method] = {"training": [row.train for row in rows], "held out": [r.held for r in rows]}
        curve[method] = [row.likelihood for row in rows]
        last = estimate(jn.child_key(here, "last"), params, held, x, temperatures(config.betas))
        final[method], errors[method] = last
        print(
            f"{method}: log-likelihood of the test digits {last[0]:.2f} nats "
            f"(standard error of log Z {last[1]:.2f})"
        )
        name = method.lower().replace("-1", "")
        figures[f"filters_{name}"] = jn.viz.filters(strongest(params, 64), shape=(28, 28))
        figures[f"samples_{name}"] = draw_samples(jn.child_key(here, "samples"), params, held)
    panels = {f"free energy, {method}": lines for method, lines in free.items()}
    figures["curves"] = jn.viz.curves(panels | {"log-likelihood of test digits, short AIS": curve})
    pictures = [
        jn.viz.save(figure, config.output / f"{name}.png") for name, figure in figures.items()
    ]
    print("pictures: " + ", ".join(map(str, pictures)))
    return Results(small, small_ais, final, errors, pictures)


# The small example


def exact_example(key: jax.Array, epochs: int, method: str) -> tuple[np.ndarray, np.ndarray]:
    """12 x 8 units on the 4 x 3 pixels in the middle of the digits: likelihood at each epoch.

    Returns:
      (epochs + 1,) exact mean log-likelihoods, and rows of epoch, AIS estimate, standard error.
    """
    (images, _), _ = jn.data.digits()
    x = (images[:, 2:6, 2:5, 0] > 0.5).astype(np.float32).reshape(len(images), -1)
    batch_size = 50
    rate = optax.linear_schedule(0.2, 0, epochs * -(-len(x) // batch_size))
    net, optimizer = un.rbm(8, chains=batch_size if method == "PCD" else 0), optax.sgd(rate, 0.5)
    step = jn.make_step(jn.learning_rule(un.contrastive_divergence()), optimizer)
    start = jn.init_training(net, optimizer, jn.child_key(key, "train"), x)
    curve = [float(un.log_likelihood(start.params, x).mean())]
    estimates = []
    for epoch in jn.fit(start, step, x, epochs=epochs, batch_size=batch_size):
        params = epoch.train_state.params
        curve.append(float(un.log_likelihood(params, x).mean()))
        if epoch.number % -(-epochs // 12) == 0:
            here = jax.random.fold_in(jn.child_key(key, "ais"), epoch.number)
            betas = np.linspace(0, 1, 101)
            estimates.append((epoch.number, *estimate(here, params, x, x, betas)))
    return np.array(curve), np.array(estimates)


def estimate(
    key: jax.Array, params: Params, x: np.ndarray, data: np.ndarray, betas: np.ndarray
) -> tuple[float, float]:
    """Mean log-likelihood of x by AIS, and the standard error of its log Z."""
    annealed = un.ais(key, params, betas=betas, data=data)
    likelihood = -un.free_energy(params, x).mean() - annealed.log_partition
    return float(likelihood), float(annealed.standard_error)


def draw_exact(small: dict[str, np.ndarray], small_ais: dict[str, np.ndarray]) -> "Figure":
    """Exact likelihoods, and how far the AIS estimates are from them."""
    figure = new_figure(9.6, 3.6)
    left, right = figure.subplots(1, 2)
    for i, (method, exact) in enumerate(small.items()):
        epochs, likelihood, error = small_ais[method].T
        left.plot(exact, color=COLORS[i], label=f"{method}, {exact[-1]:.3f} at the end")
        off = likelihood - exact[epochs.astype(int)]
        place = epochs + (i - 0.5) * 0.02 * len(exact)  # side by side
        right.errorbar(
            place, off, 3 * error, fmt="o", color=COLORS[i], capsize=2, markersize=4, label=method
        )
    left.set_ylabel("log-likelihood of the data, nats")
    right.set_ylabel("AIS less exact, nats, ±3 standard errors")
    right.axhline(0, color="0.4", linewidth=1, zorder=0)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    return figure


# MNIST


class Row(NamedTuple):
    """Of one epoch: mean free energy of training and held-out digits, estimated likelihood."""

    train: float
    held: float
    likelihood: float


def binarize(key: jax.Array, x: ArrayLike) -> jax.Array:
    """Black or white pixels, drawn with the grey value as the probability of black."""
    return jax.random.bernoulli(key, jnp.asarray(x)).astype(jnp.float32)


def temperatures(steps: int) -> np.ndarray:
    """Few below 0.5 and most above 0.9, as Salakhutdinov and Murray have them: at equal distances
    most runs miss the states that open up late, and log Z comes out nats too low."""
    few, more = max(steps // 29, 1), max(8 * steps // 29, 1)  # 500 and 4,000 of 14,500
    parts = np.linspace(0, 0.5, few + 1), np.linspace(0.5, 0.9, more + 1)
    rest = np.linspace(0.9, 1, steps - few - more + 1)
    return np.concatenate([parts[0][:-1], parts[1][:-1], rest])


def train(
    key: jax.Array, x: np.ndarray, held: np.ndarray, config: Config, method: str
) -> Iterator[tuple[Params, Row]]:
    """After each epoch the params, and what they are worth."""
    steps = config.epochs * -(-len(x) // config.batch_size)
    rate = optax.linear_schedule(config.learning_rate, 0, steps)
    net = un.rbm(config.features, chains=config.batch_size if method == "PCD" else 0)
    optimizer = optax.sgd(rate, momentum=0.5)
    step = jn.make_step(jn.learning_rule(un.contrastive_divergence()), optimizer)
    start = jn.init_training(net, optimizer, jn.child_key(key, "train"), x)
    bias = {"visible_bias": un.bernoulli.bias(jnp.asarray(x.mean(0)))}
    start = start._replace(params=start.params | bias)
    some = np.asarray(binarize(jn.child_key(key, "some"), x[: len(held)]))
    for epoch in jn.fit(
        start, step, x, epochs=config.epochs, batch_size=config.batch_size, augment=binarize
    ):
        params = epoch.train_state.params
        here = jax.random.fold_in(jn.child_key(key, "ais"), epoch.number)
        likelihood, _ = estimate(here, params, held, x, temperatures(config.betas // 10))
        train, test = (float(un.free_energy(params, part).mean()) for part in (some, held))
        yield params, Row(train, test, likelihood)


def strongest(params: Params, count: int) -> np.ndarray:
    """The kernels of the units with the largest weights, (pixels, count)."""
    kernel = np.asarray(params["kernel"])
    return kernel[:, np.argsort(-np.square(kernel).sum(0))[:count]]


def draw_samples(key: jax.Array, params: Params, held: np.ndarray) -> "Figure":
    """Chains that begin at test digits: each row is so many Gibbs steps later."""
    columns = 10
    x = jnp.asarray(held[:columns])
    rows, titles, done = [x], ["test digits"], 0
    for steps in SAMPLED:
        x, mean = un.gibbs(jax.random.fold_in(key, steps), params, x, steps - done)
        rows.append(mean)
        titles.append(f"{steps:,} steps" if steps > 1 else "1 step")
        done = steps
    shown = np.concatenate([np.asarray(row) for row in rows]).reshape(-1, 28, 28)
    above = [title if i == 0 else "" for title in titles for i in range(columns)]
    return jn.viz.images(shown, above, columns=columns)


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
