"""Runs every program of ours that calls LAPACK or FFT many times, several at once, with a watchdog.

    python -m tools.stress --runs 200 --at-once 4

On few cores two batched LAPACK calls that are ready at once stand still without end, see
`jaxnet/ops/linalg.py`. Each program runs in processes beside each other; one that says nothing for
a minute counts as hung, prints its stacks and ends.
"""

import argparse
import faulthandler
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from experiments import random_projections
from jaxnet.inspect.gabor import gabor_fit
from jaxnet.unsupervised import sparse_coding

QUIET = 60  # seconds without a sign of life
Program = tuple[Callable, tuple[Any, ...]]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def pursuit() -> Program:
    """A batch of matrices, as experiments.compressed_sensing has it."""
    solve = jax.vmap(partial(random_projections.basis_pursuit, steps=5))
    return solve, (normal(20, 15, 40), normal(20, 8, 15))


def codes() -> Program:
    """Two ensembles of sparse codes, independent of each other."""
    fista = jax.vmap(partial(sparse_coding.fista, penalty=0.1, steps=3))
    return (lambda d, x: (fista(d, x), fista(2 * d, x))), (normal(6, 12, 9), normal(6, 5, 9))


def drawn() -> Program:
    """Orthogonal kernels of several LSTMs for several keys."""
    net = jn.ensemble(jn.bidirectional(jn.lstm(6)), 4)
    return (lambda key: net.init(key, jn.spec((2, 5, 4)))), (jax.random.key(0),)


def warped() -> Program:
    """The augmentation of a training step."""
    change = jn.data.elastic(rotation=20, shear=10, scale=(0.8, 1.2), shift=2.0)
    return change, (jax.random.key(0), jnp.asarray(normal(16, 12, 12, 1)))


PROGRAMS: dict[str, Callable[[], Program]] = {
    "basis pursuit": pursuit,
    "sparse codes": codes,
    "orthogonal kernels": drawn,
    "elastic": warped,
}


def gabors() -> None:
    gabor_fit(normal(6, 8, 8))


def work(name: str, runs: int, done: Any) -> None:
    faulthandler.dump_traceback_later(QUIET, exit=True)
    if name == "gabors":
        run: Callable[[], Any] = gabors
    else:
        function, args = PROGRAMS[name]()
        run = partial(jax.jit(function), *args)
    for _ in range(runs):
        jax.block_until_ready(run())
        faulthandler.dump_traceback_later(QUIET, exit=True)
        with done.get_lock():
            done.value += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=4)
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    hung = 0
    for name in [*PROGRAMS, "gabors"]:
        done, start = spawn.Value("i", 0), time.perf_counter()
        share = -(-options.runs // options.at_once)
        workers = [spawn.Process(target=work, args=(name, share, done))
                   for _ in range(options.at_once)]  # fmt: skip
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stuck = sum(worker.exitcode != 0 for worker in workers)
        hung += stuck
        seconds = time.perf_counter() - start
        print(f"{name}: {done.value} runs, {stuck} hung, {seconds:.0f} s", flush=True)
    sys.exit(hung > 0)


if __name__ == "__main__":
    main()
