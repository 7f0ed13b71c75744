"""Time of single layers, forward and gradient, compared with PyTorch.

    python -m experiments.benchmarks.layers

Each library runs in a separate process on all cores, and they take turns. Both compute the
gradients of the sum of squared outputs by the input and the params: jaxnet in a jitted function,
with freed memory kept; PyTorch eagerly, with images in channels_last, in both settings of memory.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import jaxnet as jn
from experiments.benchmarks.figures import digits
from experiments.benchmarks.measure import bootstrap

Make = Callable[[Any], Any]
LIBRARIES = ("jaxnet", "PyTorch", "PyTorch, memory kept")


class Case(NamedTuple):
    """A layer in both libraries.

    Fields:
      shape: Shape of the input, features last.
      torch: Function of `torch.nn` that makes the module.
      jaxnet: Function of `jaxnet` that makes the layer.
      first: Whether PyTorch's features come first, as in convolutions.
      words: Number of ids to draw from, if the input holds ids.
    """

    shape: tuple[int, ...]
    torch: Make
    jaxnet: Make
    first: bool = False
    words: int = 0


def images(shape: tuple[int, ...], torch: Make, jaxnet: Make) -> Case:
    return Case(shape, torch, jaxnet, first=True)


CASES = {
    "conv 1-D, 1 → 32, kernel 80, stride 4": images(
        (16, 16000, 1), lambda nn: nn.Conv1d(1, 32, 80, 4),
        lambda jn: jn.conv(32, 80, strides=4, padding="VALID"),
    ),
    "conv 1-D, 64 → 64, kernel 3": images(
        (16, 1000, 64), lambda nn: nn.Conv1d(64, 64, 3, padding=1), lambda jn: jn.conv(64, 3)
    ),
    "conv 3×3, 64 → 64": images(
        (8, 56, 56, 64), lambda nn: nn.Conv2d(64, 64, 3, padding=1), lambda jn: jn.conv(64, 3)
    ),
    "conv 1×1, 64 → 256": images(
        (8, 56, 56, 64), lambda nn: nn.Conv2d(64, 256, 1), lambda jn: jn.conv(256, 1)
    ),
    "conv 7×7, 3 → 64, stride 2": images(
        (4, 224, 224, 3), lambda nn: nn.Conv2d(3, 64, 7, 2, 3),
        lambda jn: jn.conv(64, 7, strides=2, padding=3),
    ),
    "conv 3×3 per feature, 128": images(
        (8, 56, 56, 128), lambda nn: nn.Conv2d(128, 128, 3, padding=1, groups=128),
        lambda jn: jn.conv(128, 3, groups=128),
    ),
    "conv 3×3, 128 in 32 groups": images(
        (8, 28, 28, 128), lambda nn: nn.Conv2d(128, 128, 3, padding=1, groups=32),
        lambda jn: jn.conv(128, 3, groups=32),
    ),
    "conv 3×3, dilation 2, 64 → 64": images(
        (4, 56, 56, 64), lambda nn: nn.Conv2d(64, 64, 3, padding=2, dilation=2),
        lambda jn: jn.conv(64, 3, dilation=2),
    ),
    "conv_transpose 4×4, stride 2, 64 → 32": images(
        (8, 28, 28, 64), lambda nn: nn.ConvTranspose2d(64, 32, 4, 2, 1),
        lambda jn: jn.conv_transpose(32, 4, strides=2),
    ),
    "conv 3×3×3, 16 → 32": images(
        (2, 16, 32, 32, 16), lambda nn: nn.Conv3d(16, 32, 3, padding=1), lambda jn: jn.conv(32, 3)
    ),
    "max_pool 3×3, stride 2": images(
        (8, 112, 112, 64), lambda nn: nn.MaxPool2d(3, 2, 1),
        lambda jn: jn.max_pool(3, strides=2, padding=1),
    ),
    "avg_pool 2×2": images(
        (8, 112, 112, 64), lambda nn: nn.AvgPool2d(2), lambda jn: jn.avg_pool(2)
    ),
    "resize, bilinear, twice the size": images(
        (8, 64, 64, 32), lambda nn: nn.Upsample(scale_factor=2, mode="bilinear"),
        lambda jn: jn.resize((128, 128)),
    ),
    "batch_norm": images(
        (16, 56, 56, 64), lambda nn: nn.BatchNorm2d(64), lambda jn: jn.batch_norm()
    ),
    "group_norm": images(
        (16, 56, 56, 64), lambda nn: nn.GroupNorm(8, 64), lambda jn: jn.group_norm(8)
    ),
    "layer_norm, 768": Case(
        (8, 512, 768), lambda nn: nn.LayerNorm(768), lambda jn: jn.layer_norm()
    ),
    "dropout": Case((8, 512, 3072), lambda nn: nn.Dropout(0.1), lambda jn: jn.dropout(0.1)),
    "dense 1024 → 1024, 256 rows": Case(
        (256, 1024), lambda nn: nn.Linear(1024, 1024), lambda jn: jn.dense(1024)
    ),
    "dense 768 → 3072, 4,096 rows": Case(
        (8, 512, 768), lambda nn: nn.Linear(768, 3072), lambda jn: jn.dense(3072)
    ),
    "embedding, 50,000 × 256": Case(
        (16, 512), lambda nn: nn.Embedding(50000, 256), lambda jn: jn.embedding(50000, 256),
        words=50000,
    ),
    "lstm, 50 steps, 128": Case(
        (64, 50, 128), lambda nn: nn.LSTM(128, 128, batch_first=True), lambda jn: jn.lstm(128)
    ),
    "bidirectional lstm, 100 steps, 64 → 128": Case(
        (32, 100, 64), lambda nn: nn.LSTM(64, 128, batch_first=True, bidirectional=True),
        lambda jn: jn.bidirectional(jn.lstm(128)),
    ),
    "gru, 50 steps, 128": Case(
        (64, 50, 128), lambda nn: nn.GRU(128, 128, batch_first=True), lambda jn: jn.gru(128)
    ),
    "rnn, 50 steps, 128": Case(
        (64, 50, 128), lambda nn: nn.RNN(128, 128, batch_first=True), lambda jn: jn.rnn(128)
    ),
    "attention, 8 × 256 × 256": Case(
        (8, 256, 256), lambda nn: nn.MultiheadAttention(256, 8, batch_first=True),
        lambda jn: jn.multi_head_attention(8),
    ),
    "attention, 2 × 1,024 × 512": Case(
        (2, 1024, 512), lambda nn: nn.MultiheadAttention(512, 8, batch_first=True),
        lambda jn: jn.multi_head_attention(8),
    ),
}  # fmt: skip


def data(case: Case) -> np.ndarray:
    rng = np.random.default_rng(0)
    if case.words:
        return rng.integers(0, case.words, case.shape, np.int32)
    return rng.standard_normal(case.shape, np.float32)


def in_jaxnet(case: Case) -> Callable[[], Any]:
    """Return a function that computes the gradients once."""
    import jax
    import jax.numpy as jnp

    net, x, key = case.jaxnet(jn), jnp.asarray(data(case)), jax.random.key(1)
    params, state = net.init(jax.random.key(0), x)

    def loss(params, x):
        return jnp.square(net.apply(params, state, x, key=key, train=True)[0]).sum()

    gradients = jax.jit(jax.grad(loss, 0 if case.words else (0, 1)))
    return lambda: jax.block_until_ready(gradients(params, x))


def in_pytorch(case: Case) -> Callable[[], Any]:
    """Return a function that computes the gradients once."""
    import torch

    net, x = case.torch(torch.nn), torch.tensor(data(case))
    if case.first:
        x = x.movedim(-1, 1).contiguous()
    if case.first and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
        net = net.to(memory_format=torch.channels_last)
    if not case.words:
        x.requires_grad_()
    attends = isinstance(net, torch.nn.MultiheadAttention)

    def run() -> None:
        for a in (x, *net.parameters()):
            a.grad = None
        y = net(x, x, x, need_weights=False) if attends else net(x)
        y = y[0] if isinstance(y, tuple) else y
        y.square().sum().backward()

    return run


def serve(pipe: Any, library: str) -> None:
    """Answer with the time of a call: a name changes the case, a number is the number of calls."""
    if library != "PyTorch":
        jn.reuse_memory()
    run: Any = None
    while (asked := pipe.recv()) is not None:
        if isinstance(asked, str):
            run = (in_jaxnet if library == "jaxnet" else in_pytorch)(CASES[asked])
            run()
            asked = 1
        start = time.perf_counter()
        for _ in range(asked):
            run()
        pipe.send((time.perf_counter() - start) / asked)


@dataclass(frozen=True)
class Config:
    """Prints the times of both libraries by layer, and their ratio with a 95% interval."""

    cases: tuple[str, ...] = ()
    """beginnings of the names of layers, e.g. conv; all by default"""
    rounds: int = 9
    """samples per layer and library"""
    seconds: float = 0.1
    """duration of a sample"""


def run(config: Config) -> list[tuple[str, ...]]:
    """Return rows: layer, time in jaxnet in ms, and PyTorch's time / ours in both settings."""
    context, rows = multiprocessing.get_context("spawn"), []
    for name in [name for name in CASES if name.startswith(config.cases or "")]:
        pipes, counts = [], []
        for library in LIBRARIES:
            pipe, there = context.Pipe()
            context.Process(target=serve, args=(there, library), daemon=True).start()
            there.close()  # else a process that died would be waited for
            pipes.append(pipe)
        for pipe in pipes:
            pipe.send(name)
            counts.append(max(1, int(config.seconds / pipe.recv())))
        samples: list[list[float]] = [[] for _ in pipes]
        for _ in range(config.rounds):
            for pipe, count, times in zip(pipes, counts, samples, strict=True):
                pipe.send(count)
                times.append(1000 * pipe.recv())
        for pipe in pipes:
            pipe.send(None)
        ours, *theirs = samples
        ratios = ("{:.2f} ({:.2f} to {:.2f})".format(*bootstrap(each, ours)) for each in theirs)
        rows.append((name, digits(float(np.median(ours))), *ratios))
        print(*rows[-1], sep="  ", flush=True)
    print(jn.Table("Single layers", ("layer", "jaxnet (ms)", *LIBRARIES[1:]), rows))
    return rows


if __name__ == "__main__":
    import tyro

    run(tyro.cli(Config, description=__doc__))
