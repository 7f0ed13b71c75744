"""A whole training in a fresh process, from its start to the last measurement.

Used by experiments.seconds_to_accuracy. A library is imported by the function that trains in it,
since importing it counts. All train the same net from the same weights on the same batches.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WIDTHS = (32, 64, 128, 256)  # of the convolutions of the net for photos
SMOOTHING, DECAY, MOMENTUM = 0.1, 5e-4, 0.9  # of its training
MEASURED = 1000  # test examples per batch


class Task(NamedTuple):
    """What is trained.

    Fields:
      folder: Folder of x.npy, y.npy, test_x.npy, test_y.npy and weights.npz, whose names are paths
        of layers.
      photos: Whether to train the net for photos by Nesterov momentum on flipped and shifted
        photos, instead of LeNet-5 by Adam.
      epochs: Number of passes over the data.
      pieces: Number of measurements per epoch.
      batch_size: Number of examples per step.
      rate: Highest learning rate; see `rates`.
      seed: Seed of the order, the flips and the shifts.
    """

    folder: str
    photos: bool
    epochs: int
    pieces: int
    batch_size: int
    rate: float
    seed: int

    def sizes(self, count: int) -> tuple[int, int]:
        """Return the number of examples per piece, in whole batches, and of all steps."""
        size = count // self.pieces // self.batch_size * self.batch_size
        return size, self.epochs * self.pieces * size // self.batch_size

    def rates(self, steps: int) -> np.ndarray:
        """Return the rate per step: a cosine to 0 for LeNet-5, a triangle for photos."""
        at = np.arange(steps) / steps
        shape = (
            np.minimum(at / 0.2, (1 - at) / 0.8) if self.photos else (1 + np.cos(np.pi * at)) / 2
        )
        return (self.rate * shape).astype(np.float32)


class Run(NamedTuple):
    """A training in a library.

    Fields:
      train: Function that trains on images and labels in their order, and returns when it is
        finished.
      accuracy: Function that returns the accuracy on the test split.
    """

    train: Callable[[np.ndarray, np.ndarray], None]
    accuracy: Callable[[], float]


class Times(NamedTuple):
    """Seconds since the process was started.

    Fields:
      ready: Time of the first step, after imports, data and the net.
      seconds, accuracies: Times and accuracies after each piece.
    """

    ready: float
    seconds: list[float]
    accuracies: list[float]


def whole_run(library: str, task: Task, start: float) -> Times:
    """Train in one library; start is the time at which the process was started."""
    folder = Path(task.folder)
    x, y, *test = (np.load(folder / f"{n}.npy") for n in ("x", "y", "test_x", "test_y"))
    size, steps = task.sizes(len(y))
    weights = nested(dict(np.load(folder / "weights.npz")))
    run = LIBRARIES[library](task, task.rates(steps), weights, tuple(test))
    ready, seconds, accuracies = time.time() - start, [], []
    rng = np.random.default_rng(task.seed)  # the same in all libraries
    for _ in range(task.epochs):
        order = rng.permutation(len(y))
        for piece in range(task.pieces):
            places = order[piece * size : (piece + 1) * size]
            images = changed(x[places], rng) if task.photos else x[places]
            run.train(images, y[places])
            accuracies.append(run.accuracy())
            seconds.append(time.time() - start)
    return Times(ready, seconds, accuracies)


def nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return names "layer/array" as a tree."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        layer, _, array = name.partition("/")
        tree.setdefault(layer, {})[array] = value
    return tree


def changed(x: np.ndarray, rng: np.random.Generator, shift: int = 3) -> np.ndarray:
    """Return photos (batch, height, width, 3), randomly flipped and shifted by up to `shift`."""
    (batch, height, width), (down, right) = x.shape[:3], rng.integers(0, 2 * shift + 1, (2, len(x)))
    padded = np.pad(x, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.arange(width)
    flip = rng.random(batch) < 0.5
    columns[flip] = columns[flip, ::-1]
    return padded[np.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


def with_jaxnet(task: Task, rates: np.ndarray, weights: Any, test: tuple) -> Run:
    import jax

    import jaxnet as jn

    if task.photos:
        from experiments.cifar10 import fast_net

        net = fast_net(WIDTHS)
    else:
        net = jn.models.lenet5(classes=10)
    objective = jn.supervised(net, _loss(task), metrics={"accuracy": jn.metrics.accuracy})
    trainer = jn.trainer(objective, _optimizer(task, rates))
    train_state = trainer.init(jax.random.key(0), test, params=weights)

    def train(x, y):
        nonlocal train_state
        for epoch in jn.fit(
            trainer,
            train_state,
            (x, y),
            epochs=1,
            batch_size=task.batch_size,
            shuffle=False,
            progress=False,
        ):
            train_state = epoch.train_state

    def accuracy():
        params, state = train_state.params, train_state.state
        return jn.evaluate(objective, params, state, test, batch_size=MEASURED)["accuracy"]

    return Run(train, accuracy)


def _loss(task: Task) -> Callable:
    import jax
    import optax

    def smoothed(logits, labels):
        targets = optax.smooth_labels(jax.nn.one_hot(labels, 10), SMOOTHING)
        return optax.softmax_cross_entropy(logits, targets)

    return smoothed if task.photos else optax.softmax_cross_entropy_with_integer_labels


def _optimizer(task: Task, rates: np.ndarray) -> Any:
    import jax.numpy as jnp
    import optax

    def rate(step):
        return jnp.asarray(rates)[step]

    if not task.photos:
        return optax.adam(rate)
    return optax.chain(
        optax.add_decayed_weights(DECAY), optax.sgd(rate, momentum=MOMENTUM, nesterov=True)
    )


def with_linen(task: Task, rates: np.ndarray, weights: Any, test: tuple) -> Run:
    import flax.linen as nn
    import jax
    from flax.training.train_state import TrainState

    from experiments.benchmarks.peers.linen import LeNetModule

    class PhotoNet(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            for i, features in enumerate(WIDTHS, 1):
                strides = 2 if i == 1 else 1
                x = nn.Conv(features, (3, 3), strides, use_bias=False, name=f"conv_{i}")(x)
                x = nn.BatchNorm(not train, momentum=0.9, name=f"norm_{i}")(x)
                x = nn.relu(x)
                x = nn.max_pool(x, (2, 2), (2, 2)) if 1 < i < len(WIDTHS) else x
            return nn.Dense(10, name="output")(x.max((1, 2)))

    class Trained(TrainState):
        batch_stats: Any = None

    net, loss = PhotoNet() if task.photos else LeNetModule(), _loss(task)
    mode = {"train": True} if task.photos else {}

    @jax.jit
    def train_step(state, x, y):
        def loss_fn(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, after = state.apply_fn(variables, x, mutable=["batch_stats"], **mode)
            return loss(logits, y).mean(), after.get("batch_stats", {})

        (value, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads, batch_stats=batch_stats), value

    @jax.jit
    def right(state, x, y):
        logits: Any = net.apply({"params": state.params, "batch_stats": state.batch_stats}, x)
        return (logits.argmax(-1) == y).sum()

    drawn = jax.jit(net.init)(jax.random.key(0), test[0][:1])
    state = Trained.create(
        apply_fn=net.apply,
        params=weights,
        tx=_optimizer(task, rates),
        batch_stats=drawn.get("batch_stats", {}),
    )

    def train(x, y):
        nonlocal state
        for i in range(0, len(y), task.batch_size):
            batch = slice(i, i + task.batch_size)
            state, _ = train_step(state, x[batch], y[batch])
        jax.block_until_ready(state)

    def accuracy():
        x, y = test
        starts = range(0, len(y), MEASURED)
        counts = [right(state, x[i : i + MEASURED], y[i : i + MEASURED]) for i in starts]
        return float(sum(counts) / len(y))

    return Run(train, accuracy)


def _photo_net() -> Any:
    """Return the net for photos in PyTorch."""
    import torch.nn.functional as F
    from torch import nn

    class PhotoNet(nn.Module):
        def __init__(self):
            super().__init__()
            for i, (inputs, features) in enumerate(zip((3, *WIDTHS), WIDTHS, strict=False), 1):
                strides, padding = (2, 0) if i == 1 else (1, 1)
                conv = nn.Conv2d(inputs, features, 3, strides, padding, bias=False)
                self.add_module(f"conv_{i}", conv)
                self.add_module(f"norm_{i}", nn.BatchNorm2d(features))
            self.output = nn.Linear(WIDTHS[-1], 10)

        def forward(self, x):
            x = F.pad(x, (0, 1, 0, 1))  # as "SAME" does with strides of 2
            for i in range(1, len(WIDTHS) + 1):
                x = F.relu(getattr(self, f"norm_{i}")(getattr(self, f"conv_{i}")(x)))
                x = F.max_pool2d(x, 2) if 1 < i < len(WIDTHS) else x
            return self.output(x.amax((2, 3)))

    return PhotoNet()


def with_torch(task: Task, rates: np.ndarray, weights: Any, test: tuple) -> Run:
    import torch
    import torch.nn.functional as F

    from experiments.benchmarks.peers.torch import Module, in_layout
    from experiments.benchmarks.workloads import LeNet

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def tensors(x, y):
        return torch.from_numpy(x).movedim(-1, 1).contiguous(), torch.from_numpy(y).long()

    test_x, test_y = tensors(*test)
    net = _photo_net() if task.photos else Module(LeNet(), (task.batch_size, *test[0].shape[1:]))
    layout = in_layout(LeNet(), weights)
    given = {name: torch.tensor(np.ascontiguousarray(value)) for name, value in layout.items()}
    net.load_state_dict(given, strict=not task.photos)  # without the running statistics
    if task.photos:
        optimizer = torch.optim.SGD(
            net.parameters(), task.rate, MOMENTUM, weight_decay=DECAY, nesterov=True
        )
    else:
        optimizer = torch.optim.Adam(net.parameters(), task.rate, fused=True)
    smoothing, step = SMOOTHING * task.photos, 0

    def train(x, y):
        nonlocal step
        net.train()
        x, y = tensors(x, y)
        for i in range(0, len(y), task.batch_size):
            optimizer.param_groups[0]["lr"] = float(rates[step])
            optimizer.zero_grad()
            batch = slice(i, i + task.batch_size)
            F.cross_entropy(net(x[batch]), y[batch], label_smoothing=smoothing).backward()
            optimizer.step()
            step += 1

    def accuracy():
        net.eval()
        with torch.no_grad():
            parts = zip(test_x.split(MEASURED), test_y.split(MEASURED), strict=True)
            counts = [(net(x).argmax(-1) == y).sum().item() for x, y in parts]
        return sum(counts) / len(test_y)

    return Run(train, accuracy)


LIBRARIES = {"jaxnet": with_jaxnet, "Flax Linen": with_linen, "PyTorch": with_torch}
