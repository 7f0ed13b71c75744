"""Flax Linen: modules with @nn.compact, a jitted and donating step."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.peers.jax_program import (
    cross_entropy,
    make_update,
    on_device,
    program,
    with_optimizer,
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
)


def variants(workload: Workload) -> tuple[str, ...]:
    return ("Linen",)


class MlpModule(nn.Module):
    net: Mlp

    @nn.compact
    def __call__(self, x):
        for name, features in zip(self.net.names(), self.net.hidden, strict=True):
            x = nn.relu(nn.Dense(features, name=name)(x))
        return nn.Dense(CLASSES, name="output")(x)


class LeNetModule(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (5, 5), name="c1")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Conv(16, (5, 5), padding="VALID", name="c3")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(120, name="c5")(x.reshape(len(x), -1)))
        x = nn.relu(nn.Dense(84, name="f6")(x))
        return nn.Dense(CLASSES, name="output")(x)


def conv(features, size, strides, name):
    padding = size // 2
    return nn.Conv(features, (size, size), strides, padding, use_bias=False, name=name)


def norm(name):
    return nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5, name=name)


class Block(nn.Module):
    features: int
    strides: int

    @nn.compact
    def __call__(self, x):
        y = conv(self.features, 3, self.strides, "conv_1")(x)
        y = nn.relu(norm("norm_1")(y))
        y = norm("norm_2")(conv(self.features, 3, 1, "conv_2")(y))
        if x.shape != y.shape:
            x = conv(self.features, 1, self.strides, "shortcut")(x)
            x = norm("shortcut_norm")(x)
        return nn.relu(x + y)


class ResNetModule(nn.Module):
    net: ResNet

    @nn.compact
    def __call__(self, x):
        x = nn.relu(norm("norm_0")(conv(WIDTHS[0], 3, 1, "conv_0")(x)))
        for name, _, features, strides in self.net.blocks():
            x = Block(features, strides, name=name)(x)
        return nn.Dense(CLASSES, name="output")(x.mean((1, 2)))


class LstmModule(nn.Module):
    net: Lstm

    @nn.compact
    def __call__(self, x):
        y: Any = nn.RNN(nn.OptimizedLSTMCell(self.net.features, name="lstm"))(x)
        return nn.Dense(CLASSES, name="output")(y[:, -1])


class GruModule(nn.Module):
    net: Gru

    @nn.compact
    def __call__(self, x):
        y: Any = nn.RNN(nn.GRUCell(self.net.features, name="gru"))(x)
        return nn.Dense(CLASSES, name="output")(y[:, -1])


class TransformerModule(nn.Module):
    net: Transformer

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(name="attention_norm")(x)
        x = x + nn.MultiHeadDotProductAttention(self.net.heads, name="attention")(y)
        y = nn.Dense(self.net.mlp, name="mlp_in")(nn.LayerNorm(name="mlp_norm")(x))
        x = x + nn.Dense(x.shape[-1], name="mlp_out")(nn.gelu(y))
        return nn.Dense(CLASSES, name="output")(x.mean(1))


def make(net: Net) -> nn.Module:
    match net:
        case Mlp():
            return MlpModule(net)
        case LeNet():
            return LeNetModule()
        case ResNet():
            return ResNetModule(net)
        case Lstm():
            return LstmModule(net)
        case Gru():
            return GruModule(net)
        case Transformer():
            return TransformerModule(net)


def in_layout(net: Net, weights: Weights) -> Weights:
    """The common layout, with one layer per gate in recurrent cells."""
    match net:
        case Lstm():
            p = {k: np.split(v, 4, -1) for k, v in weights["lstm"].items()}
            gates = {f"i{g}": {"kernel": p["kernel"][i]} for i, g in enumerate("ifgo")}
            for i, g in enumerate("ifgo"):
                gates[f"h{g}"] = {"kernel": p["recurrent_kernel"][i], "bias": p["bias"][i]}
            return {"lstm": gates, "output": weights["output"]}
        case Gru():
            p = {k: np.split(v, 3, -1) for k, v in weights["gru"].items() if k != "recurrent_bias"}
            gates = {}
            for i, g in enumerate("rzn"):
                gates[f"i{g}"] = {"kernel": p["kernel"][i], "bias": p["bias"][i]}
                gates[f"h{g}"] = {"kernel": p["recurrent_kernel"][i]}
            gates["hn"]["bias"] = weights["gru"]["recurrent_bias"]
            return {"gru": gates, "output": weights["output"]}
        case _:
            return weights


def build(workload: Workload, weights: Weights | None, variant: str) -> Program:
    """The program of a variant; "Linen, jitted init" draws the parameters under `jax.jit`."""
    module = make(workload.net)

    def init(key):
        return module.init(key, jnp.ones(workload.shape))

    if workload.members > 1:
        keys = jax.random.split(jax.random.key(0), workload.members)
        variables = jax.jit(jax.vmap(init))(keys)
    else:
        start = jax.jit(init) if variant.endswith("jitted init") else init
        variables = start(jax.random.key(0))
    params = variables["params"]
    state = {k: v for k, v in variables.items() if k != "params"}
    if weights is not None:
        drawn, params = params, on_device(in_layout(workload.net, weights))
        assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)

    def apply(params, state, x):
        return module.apply({"params": params, **state}, x, mutable=["batch_stats"])

    if workload.members > 1:
        apply = jax.vmap(apply, (0, 0, None))

    def loss(params, state, x, y):
        logits, state = apply(params, state, x)
        return cross_entropy(logits, y), state

    carry = with_optimizer(workload, params, state)
    return program(workload, make_update(workload, loss), carry)
