"""64 perceptrons side by side, and the same 64 one after another.

Claim:   a sweep of 64 is at least 8 times as fast as 64 runs that each make their own step.
Result:  8 learning rates of Adam x 8 seeds, MLP 64-32-10 on the digits, 20 passes in batches of 32,
         the test digits measured after each; seconds for all 64, compilation included, two runs of
         the command:
           jn.sweep                                     2.59   2.67
           one after another, each a step of its own   71.08  66.38   (27 and 25 times as long)
           one after another, one step for all          3.29   3.35   (1.3 and 1.3 times)
         The first comparison is what one writes; most of its time is compilation. Where the step is
         compiled once for all rates (optax.inject_hyperparams), what is left is the arithmetic, of
         which two cores do about four times as much side by side (33 ms a pass of all 64, against
         some 2 ms a pass of each), and the sweep's own compilation, 1.4 s.
         The test losses agree to 3e-5 up to a rate of 0.0005, to 3e-4 up to 0.002; above, rounding
         grows within 900 steps to 6e-3 and, at 0.02, to 5e-2.
Time:    80 s.
Machine: 2 CPU cores, jax 0.10.2.
Command: python -m experiments.sweep
"""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn


@dataclass(frozen=True)
class Config:
    """Times a sweep of seeds and learning rates against the same runs one by one."""

    features: int = 32
    """hidden units"""
    epochs: int = 20
    """passes over the digits"""
    batch_size: int = 32
    """digits a step"""
    seeds: int = 8
    """seeds of each learning rate"""
    rates: tuple[float, ...] = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
    """learning rates of Adam"""

    def __post_init__(self):
        if min(self.features, self.epochs, self.batch_size, self.seeds, len(self.rates)) < 1:
            raise ValueError("features, epochs, batch_size, seeds and rates must be at least 1")


class Results(NamedTuple):
    """What the experiment gives.

    Fields:
      seconds: name of a way -> seconds for all runs, compilation included.
      apart: (rates,), the largest relative difference between the test losses of the ways.
      table: accuracy by learning rate.
    """

    seconds: dict[str, float]
    apart: np.ndarray
    table: str


def run(config: Config) -> Results:
    """Trains all in three ways, prints the seconds and the ratios, and compares the losses."""
    train, test = jn.data.digits()
    net = jn.models.mlp([config.features, 10])
    objective = jn.supervised(
        net, optax.softmax_cross_entropy_with_integer_labels,
        metrics={"accuracy": jn.metrics.accuracy},
    )  # fmt: skip
    options: dict[str, Any] = dict(
        epochs=config.epochs, batch_size=config.batch_size, evaluate=test
    )

    def one(step, optimizer, seed, rate=None):
        train_state = jn.init_training(net, optimizer, jax.random.key(seed), train)
        if rate is not None:
            train_state.opt_state.hyperparams["learning_rate"] = jnp.float32(rate)
        *_, last = jn.fit(train_state, step, train, progress=False, **options)
        assert last.test is not None
        return last.test["loss"]

    def each_anew():
        found = []
        for rate in config.rates:
            for seed in range(config.seeds):
                optimizer = optax.adam(rate)
                found.append(one(jn.make_step(objective, optimizer), optimizer, seed))
        return found

    def compiled_once():
        optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=config.rates[0])
        step = jn.make_step(objective, optimizer)
        return [one(step, optimizer, s, rate) for rate in config.rates for s in range(config.seeds)]

    swept = None

    def side_by_side():
        nonlocal swept
        grid = {"learning_rate": config.rates}
        swept = jn.sweep(
            net, objective, optax.adam, train, seeds=config.seeds, grid=grid, **options
        )
        assert swept.test is not None
        return swept.test["loss"][..., -1].ravel()

    jn.init_training(net, optax.adam(0.1), jax.random.key(0), train)  # draws compile once for all
    ways = {
        "jn.sweep": side_by_side,
        "one after another, compiled once": compiled_once,
        "one after another, each a step of its own": each_anew,
    }
    seconds, losses = {}, {}
    for name, way in ways.items():
        start = time.perf_counter()
        losses[name] = np.array(way())
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.2f} s", flush=True)
    first, *others = (values.reshape(len(config.rates), -1) for values in losses.values())
    apart = np.max([abs(other - first) / first for other in others], (0, 2))  # of each rate
    for name in list(ways)[1:]:
        print(f"{name}: {seconds[name] / seconds['jn.sweep']:.1f} times as long as the sweep")
    words = ", ".join(f"{a:.1e} at {rate:g}" for a, rate in zip(apart, config.rates, strict=True))
    print(f"largest relative difference of the test losses: {words}")
    print(swept)
    return Results(seconds, apart, str(swept))


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config))
