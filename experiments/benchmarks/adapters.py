"""What low-rank adaptation saves: FLOPs, memory and time of a training step of a decoder.

The decoder has 4 blocks of width 512, or 8 blocks made by `jn.repeat(jn.remat(block), 8)`. All
params train, or matrices of rank 8 next to each kernel of the blocks, whose kernels are floats or
int8. FLOPs and memory are those of the compiled step, which donates the train state; times are
medians of interleaved rounds.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.benchmarks.figures import digits

WORDS, RANK, BATCH, STEPS = 4000, 8, 4, 256


class Form(NamedTuple):
    """A compiled step: its name, its costs, and a function that runs it."""

    name: str
    gflop: float
    megabytes: float
    step: Callable[[], None]


def decoder() -> jn.Layer:
    return jn.models.decoder(WORDS, depth=4, width=512, heads=8, mlp_features=2048)


def repeated() -> jn.Layer:
    block = jn.transformer_block(8, 2048, causal=True)
    return jn.serial(
        jn.embedding(WORDS, 512),
        jn.repeat(jn.remat(block), 8),
        jn.layer_norm(),
        jn.dense(WORDS, name="head"),
    )


def forms() -> list[Form]:
    """Compile the step of each form."""
    found = []
    for which, net, where in (
        ("4 blocks", decoder(), "block*/kernel"),
        ("8 blocks by repeat and remat", repeated(), "transformer_block/*kernel"),
    ):
        adam, thin = optax.adam(1e-3), {"*_lora_(a|b)": optax.adam(1e-3), "*": optax.set_to_zero()}
        for name, layer, optimizer in (
            ("all params", net, adam),
            ("LoRA", jn.lora(net, RANK, where=where), jn.by_path(thin)),
            ("LoRA, int8", jn.lora(jn.quantized(net), RANK, where=where), jn.by_path(thin)),
        ):
            found.append(form(f"{which}, {name}", layer, optimizer))
    return found


def form(name: str, net: jn.Layer, optimizer: optax.GradientTransformation) -> Form:
    ids = np.random.default_rng(0).integers(0, WORDS, (BATCH, STEPS + 1), np.int32)
    batch = jnp.asarray(ids[:, :-1]), jnp.asarray(ids[:, 1:])
    loss = optax.softmax_cross_entropy_with_integer_labels
    trainer = jn.trainer(jn.supervised(net, loss), optimizer)
    train_state = trainer.init(jax.random.key(0), batch)
    program = jax.jit(trainer.step, donate_argnums=0).lower(train_state, batch).compile()
    costs: Any = program.cost_analysis()
    memory: Any = program.memory_analysis()

    def step() -> None:
        nonlocal train_state
        train_state, metrics = program(train_state, batch)
        metrics["loss"].block_until_ready()

    megabytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e6
    return Form(name, costs["flops"] / 1e9, megabytes, step)


@dataclass(frozen=True)
class Config:
    """Prints a row per form: GFLOP, memory and median time of a step."""

    rounds: int = 9
    """number of timed steps per form"""


def run(config: Config) -> list[tuple[str, ...]]:
    found = forms()
    samples: list[list[float]] = [[] for _ in found]
    for r in range(config.rounds + 1):  # the first round warms up
        for one, times in zip(found, samples, strict=True):
            start = time.perf_counter()
            one.step()
            times += [1000 * (time.perf_counter() - start)] if r else []
    rows = [
        (one.name, digits(one.gflop), digits(one.megabytes), digits(float(np.median(times))))
        for one, times in zip(found, samples, strict=True)
    ]
    head = ("trained", "GFLOP per step", "memory (MB)", "time (ms)")
    print(jn.Table("Adapters", head, rows))
    return rows


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
