"""Train three nets in float32, bfloat16 and float16, whose losses are scaled.

Claim: in 16 bits a net reaches the loss that it reaches in float32, and a batch that overflows in
float16 costs one step.

The nets are the convolutional net of small digits, ResNet-20 on 10,000 photos of CIFAR-10, and a
small decoder of characters. All runs of a net have the same weights, batches and steps. One run of
each in float16 gets a batch in the middle whose losses are multiplied by 1e6: they overflow.

Measured by `python -m experiments.precision --seeds 3` (1,454 s, 2 CPU cores, jax 0.12.0.1): right
outputs on test data in percent, then the loss; mean and deviation of three seeds.

    digits     float32                  97.40 ± 0.32    0.0785 ± 0.0126
               bfloat16                 97.68 ± 0.32    0.0766 ± 0.0147
               float16                  97.49 ± 0.28    0.0781 ± 0.0194
               float16 and an overflow  97.49 ± 0.28    0.0783 ± 0.0195
    ResNet-20  float32                  45.40 ± 0.64    1.4869 ± 0.0099
               bfloat16                 46.48 ± 0.85    1.4831 ± 0.0139
               float16                  46.88 ± 0.55    1.4806 ± 0.0173
               float16 and an overflow  46.83 ± 0.78    1.4808 ± 0.0184
    decoder    float32                  37.51 ± 0.56    2.1370 ± 0.0185
               bfloat16                 37.50 ± 0.61    2.1365 ± 0.0194
               float16                  37.52 ± 0.59    2.1371 ± 0.0186
               float16 and an overflow  37.50 ± 0.62    2.1372 ± 0.0198

No step was skipped but the one of the planted batch, in each of the nine runs. These are 300, 150
and 150 steps, so the nets are far from trained.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from experiments.common import Data, Seeds, main, mean_std
from experiments.digits import conv_net
from jaxnet import Table
from jaxnet.data import characters
from jaxnet.typing import Pair

PHOTOS = 10_000
RUNS = ("float32", "bfloat16", "float16", "float16 and an overflow")


@dataclass(frozen=True)
class Config(Data, Seeds):
    """Trains three nets in three precisions."""

    digits_steps: int = 300
    """training steps of the digits"""
    resnet_steps: int = 150
    """training steps of ResNet-20"""
    decoder_steps: int = 150
    """training steps of the decoder"""
    batch_size: int = 64


class Task(NamedTuple):
    """A net, its examples for training and for testing, and the number of its steps."""

    net: jn.Layer
    train: Pair
    test: Pair
    steps: int


class Run(NamedTuple):
    """What one training gave.

    Fields:
      loss: Loss on the test data.
      right: Fraction of right outputs.
      skipped: Number of steps that were skipped.
    """

    loss: float
    right: float
    skipped: int


def run(config: Config) -> dict[str, dict[str, list[Run]]]:
    """Train each net in each precision with each seed."""
    results: dict[str, dict[str, list[Run]]] = {}
    for name, task in tasks(config).items():
        results[name] = {
            kind: [train(task, kind, config, seed) for seed in config.all_seeds] for kind in RUNS
        }
        rows = [
            (
                kind,
                mean_std([each.loss for each in runs], ".4f"),
                mean_std([each.right for each in runs]),
                mean_std([each.skipped for each in runs], ".1f"),
            )
            for kind, runs in results[name].items()
        ]
        print(Table(name, ("precision", "loss", "right", "skipped steps"), rows), flush=True)
    return results


def tasks(config: Config) -> dict[str, Task]:
    """Return the three nets with their data."""
    digits = jn.data.digits()
    images = [
        jn.data.tfds.load("cifar10", part, data_dir=config.data_dir)
        for part in (f"train[:{PHOTOS}]", "test[:2000]")
    ]
    photos = [(x["image"].astype(np.float32) / 128 - 1, x["label"]) for x in images]
    texts = [
        jn.data.tfds.load("tiny_shakespeare", part, data_dir=config.data_dir)["text"][0]
        for part in ("train", "validation")
    ]
    known = characters(texts[0])
    tokens = [np.asarray(known.encode(text)) for text in texts]
    windows = [ids[: len(ids) // 65 * 65].reshape(-1, 65) for ids in tokens]
    plays = [(ids[:, :-1], ids[:, 1:]) for ids in windows]
    decoder = jn.models.decoder(known.size, depth=4, width=128, heads=4)
    resnet = jn.models.cifar_resnet(20)
    return {
        "digits, a convolutional net": Task(conv_net(), digits[0], digits[1], config.digits_steps),
        "CIFAR-10, ResNet-20": Task(resnet, photos[0], photos[1], config.resnet_steps),
        "characters, a decoder": Task(decoder, plays[0], plays[1], config.decoder_steps),
    }


def train(task: Task, kind: str, config: Config, seed: int) -> Run:
    """Train a net in one precision."""
    dtype = jnp.dtype(kind.split()[0])
    net = task.net if dtype == jnp.float32 else jn.cast(task.net, dtype)

    def objective(m, batch):
        (x, factors), y = batch
        outputs = m(net, x)
        losses = jn.losses.cross_entropy(outputs, y).reshape(len(y), -1).mean(1)
        right = jn.metrics.accuracy(outputs, y).reshape(len(y), -1).mean(1)
        return losses * factors, {"right": right}

    layer = jn.compose(objective)
    trainer = jn.trainer(layer, optax.adamw(optax.cosine_decay_schedule(2e-3, task.steps)))
    (x, y), ones = task.train, np.ones(config.batch_size, np.float32)
    order = np.random.default_rng(seed).integers(0, len(y), (task.steps, config.batch_size))
    train_state = trainer.init(jax.random.key(seed), ((x[order[0]], ones), y[order[0]]))
    for i, rows in enumerate(order):
        factors = 1e6 * ones if "overflow" in kind and i == task.steps // 2 else ones
        train_state, _ = trainer.step(train_state, ((x[rows], factors), y[rows]))
    test, labels = task.test
    every = (test, np.ones(len(labels), np.float32)), labels
    found = jn.evaluate(layer, train_state.params, train_state.state, every, batch_size=256)
    return Run(found["loss"], found["right"], int(getattr(train_state.opt_state, "skipped", 0)))


if __name__ == "__main__":
    main(Config, run)
