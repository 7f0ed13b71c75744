"""Flax NNX: `nnx.jit`, its two faster forms, and split/merge with plain `jax.jit`.

For the forms, see https://flax.readthedocs.io/en/latest/guides/performance.html.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.benchmarks.peers.jax_program import (
    chosen,
    cross_entropy,
    on_device,
    optimizer,
    program,
    with_accelerated,
)
from experiments.benchmarks.workloads import (
    CLASSES,
    WIDTHS,
    Gru,
    LeNet,
    Lstm,
    Mlp,
    Net,
    Program,
    ResNet,
    Transformer,
    Weights,
    Workload,
    batches,
    flatten,
)

JIT, SPLIT = "NNX nnx.jit", "NNX split/merge"
CACHED, PARTIAL = "NNX cached_partial", "NNX jit_partial"


def variants(workload: Workload) -> tuple[str, ...]:
    if workload.steps > 1:
        return with_accelerated(SPLIT)
    others = (JIT, PARTIAL, SPLIT) if hasattr(nnx, "jit_partial") else (JIT, SPLIT)
    return with_accelerated(CACHED, *others)


def conv(inputs: int, features: int, size: int, strides: int, rngs: nnx.Rngs) -> nnx.Conv:
    padding = size // 2
    return nnx.Conv(
        inputs, features, (size, size), strides, padding=padding, use_bias=False, rngs=rngs
    )


def norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, use_running_average=False, momentum=0.9, epsilon=1e-5, rngs=rngs)


class Block(nnx.Module):
    def __init__(self, inputs: int, features: int, strides: int, rngs: nnx.Rngs):
        self.conv_1 = conv(inputs, features, 3, strides, rngs)
        self.norm_1 = norm(features, rngs)
        self.conv_2 = conv(features, features, 3, 1, rngs)
        self.norm_2 = norm(features, rngs)
        self.project = inputs != features
        if self.project:
            self.shortcut = conv(inputs, features, 1, strides, rngs)
            self.shortcut_norm = norm(features, rngs)

    def __call__(self, x):
        y = nnx.relu(self.norm_1(self.conv_1(x)))
        y = self.norm_2(self.conv_2(y))
        if self.project:
            x = self.shortcut_norm(self.shortcut(x))
        return nnx.relu(x + y)


class Module(nnx.Module):
    """Any of the nets, with layers by the common names."""

    def __init__(self, net: Net, shape: tuple[int, ...], rngs: nnx.Rngs):
        self.net, width = net, shape[-1]
        match net:
            case Mlp(hidden):
                for i, name in enumerate(net.names()):
                    setattr(self, name, nnx.Linear((width, *hidden)[i], hidden[i], rngs=rngs))
                width = hidden[-1]
            case LeNet():
                self.c1 = nnx.Conv(width, 6, (5, 5), rngs=rngs)
                self.c3 = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
                self.c5 = nnx.Linear(400, 120, rngs=rngs)
                self.f6 = nnx.Linear(120, 84, rngs=rngs)
                width = 84
            case ResNet():
                self.conv_0 = conv(width, WIDTHS[0], 3, 1, rngs)
                self.norm_0 = norm(WIDTHS[0], rngs)
                for name, inputs, features, strides in net.blocks():
                    setattr(self, name, Block(inputs, features, strides, rngs))
                width = WIDTHS[-1]
            case Lstm(features):
                self.lstm = nnx.RNN(nnx.OptimizedLSTMCell(width, features, rngs=rngs), rngs=rngs)
                width = features
            case Gru(features):
                self.gru = nnx.RNN(nnx.GRUCell(width, features, rngs=rngs), rngs=rngs)
                width = features
            case Transformer(heads, mlp):
                self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
                self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
                self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
                self.mlp_in = nnx.Linear(width, mlp, rngs=rngs)
                self.mlp_out = nnx.Linear(mlp, width, rngs=rngs)
        self.output = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(self, x):
        match self.net:
            case Mlp():
                for name in self.net.names():
                    x = nnx.relu(getattr(self, name)(x))
            case LeNet():
                x = nnx.max_pool(nnx.relu(self.c1(x)), (2, 2), (2, 2))
                x = nnx.max_pool(nnx.relu(self.c3(x)), (2, 2), (2, 2))
                x = nnx.relu(self.c5(x.reshape(len(x), -1)))
                x = nnx.relu(self.f6(x))
            case ResNet():
                x = nnx.relu(self.norm_0(self.conv_0(x)))
                for name, *_ in self.net.blocks():
                    x = getattr(self, name)(x)
                x = x.mean((1, 2))
            case Lstm():
                x = self.lstm(x)[:, -1]  # type: ignore[index]
            case Gru():
                x = self.gru(x)[:, -1]  # type: ignore[index]
            case Transformer():
                x = x + self.attention(self.attention_norm(x))
                y = nnx.gelu(self.mlp_in(self.mlp_norm(x)))
                x = (x + self.mlp_out(y)).mean(1)
        return self.output(x)


def copy_weights(model: nnx.Module, weights: Weights) -> None:
    for path, p in flatten(weights).items():
        layer: Any = model
        for name in path:
            layer = getattr(layer, name)
        if "recurrent_kernel" in p:
            cell = layer.cell
            biased = cell.dense_h if path == ("lstm",) else cell.dense_i
            put(cell.dense_i.kernel, p["kernel"])
            put(cell.dense_h.kernel, p["recurrent_kernel"])
            put(biased.bias, p["bias"])
        else:
            for name, value in p.items():
                put(getattr(layer, name), value)


def put(variable: nnx.Variable, value: np.ndarray) -> None:
    assert variable.shape == value.shape
    value = jnp.array(value, copy=True)
    if hasattr(variable, "set_value"):
        variable.set_value(value)
    else:  # before Flax 0.12
        variable.value = value


def build(workload: Workload, weights: Weights | None, variant: str) -> Program:
    net, shape, members = workload.net, workload.shape, workload.members
    if members > 1:
        keys = jax.random.split(jax.random.key(0), members)
        model = nnx.vmap(lambda key: Module(net, shape, nnx.Rngs(key)))(keys)
        forward = nnx.vmap(lambda model, x: model(x), in_axes=(0, None))
    else:
        model = Module(net, shape, nnx.Rngs(0))
        forward = Module.__call__
    if weights is not None:
        copy_weights(model, weights)
    sgd = nnx.Optimizer(model, optimizer(workload), wrt=nnx.Param)
    differs = ""
    if isinstance(net, Gru):
        differs = "nnx.GRUCell has no bias in the recurrent product; only first losses are compared"

    def loss(model, x, y):
        return cross_entropy(forward(model, x), y)

    def train(model, sgd, x, y):
        value, grads = nnx.value_and_grad(chosen(loss, variant))(model, x, y)
        sgd.update(model, grads)
        return value

    if variant.startswith(SPLIT):
        graph, state = nnx.split((model, sgd))

        def update(state, batch):
            model, sgd = nnx.merge(graph, state)
            value = train(model, sgd, *batch)
            return nnx.state((model, sgd)), value

        return program(workload, update, state)._replace(differs=differs)
    x, y = on_device(batches(workload))
    if variant == PARTIAL:
        # The bound arguments count as one, the first.
        step = nnx.jit_partial(train, model, sgd, donate_argnums=0, graph=False)
        return Program(lambda: step(x, y), jax.block_until_ready, differs)
    step = nnx.jit(train, donate_argnums=(0, 1))
    if variant.startswith(CACHED):
        cached = nnx.cached_partial(step, model, sgd)
        return Program(lambda: cached(x, y), jax.block_until_ready, differs)
    return Program(lambda: step(model, sgd, x, y), jax.block_until_ready, differs)
