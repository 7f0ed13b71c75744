"""Haiku: `transform_with_state`, a jitted and donating step."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.peers.jax_program import (
    chosen,
    cross_entropy,
    make_update,
    on_device,
    program,
    with_accelerated,
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
    NotOffered,
    Program,
    ResNet,
    Transformer,
    Weights,
    Workload,
    flatten,
)


def variants(workload: Workload) -> tuple[str, ...]:
    return with_accelerated("Haiku")


def norm(name):
    layer = hk.BatchNorm(True, True, decay_rate=0.9, eps=1e-5, name=name)
    return lambda x: layer(x, is_training=True)


def layer_norm(name):
    return hk.LayerNorm(-1, True, True, eps=1e-6, name=name)


def conv(features, size, strides, name):
    padding = (size // 2, size // 2)
    return hk.Conv2D(features, size, strides, padding=[padding] * 2, with_bias=False, name=name)


class Block(hk.Module):
    def __init__(self, features, strides, name):
        super().__init__(name=name)
        self.features, self.strides = features, strides

    def __call__(self, x):
        y = conv(self.features, 3, self.strides, "conv_1")(x)
        y = jax.nn.relu(norm("norm_1")(y))
        y = norm("norm_2")(conv(self.features, 3, 1, "conv_2")(y))
        if x.shape != y.shape:
            x = norm("shortcut_norm")(conv(self.features, 1, self.strides, "shortcut")(x))
        return jax.nn.relu(x + y)


def pool(x):
    return hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def forward(net: Net, x: jax.Array) -> jax.Array:
    match net:
        case Mlp(hidden):
            for name, features in zip(net.names(), hidden, strict=True):
                x = jax.nn.relu(hk.Linear(features, name=name)(x))
        case LeNet():
            x = pool(jax.nn.relu(hk.Conv2D(6, 5, name="c1")(x)))
            x = pool(jax.nn.relu(hk.Conv2D(16, 5, padding="VALID", name="c3")(x)))
            x = jax.nn.relu(hk.Linear(120, name="c5")(hk.Flatten()(x)))
            x = jax.nn.relu(hk.Linear(84, name="f6")(x))
        case ResNet():
            x = jax.nn.relu(norm("norm_0")(conv(WIDTHS[0], 3, 1, "conv_0")(x)))
            for name, _, features, strides in net.blocks():
                x = Block(features, strides, name)(x)
            x = x.mean((1, 2))
        case Lstm(features):
            cell = hk.LSTM(features, name="lstm")
            h: Any
            h, _ = hk.dynamic_unroll(cell, x, cell.initial_state(len(x)), time_major=False)
            x = h[:, -1]
        case Transformer(heads, mlp):
            width = x.shape[-1]
            init = hk.initializers.VarianceScaling(1.0)
            attention = hk.MultiHeadAttention(heads, width // heads, w_init=init, name="attention")
            y = layer_norm("attention_norm")(x)
            x = x + attention(y, y, y)
            y = hk.Linear(mlp, name="mlp_in")(layer_norm("mlp_norm")(x))
            x = x + hk.Linear(width, name="mlp_out")(jax.nn.gelu(y))
            x = x.mean(1)
    return hk.Linear(CLASSES, name="output")(x)


def in_layout(net: Net, weights: Weights, like: Weights) -> Weights:
    """Return entries by path, with w and b for kernel and bias, and offset in a norm."""
    found = {}
    for path, p in flatten(weights).items():
        name = "/".join(path)
        if path[0] == "lstm":
            i, f, g, o = np.split(np.concatenate([p["kernel"], p["recurrent_kernel"]]), 4, -1)
            w = np.concatenate([i, g, f, o], -1)
            i, f, g, o = np.split(p["bias"], 4)
            b = np.concatenate([i, g, f - 1, o])  # the cell adds 1 to the forget gate
            found["lstm/linear"] = {"w": w, "b": b}
        elif "scale" in p:
            found[name] = {"scale": p["scale"], "offset": p["bias"]}
        else:
            name = name.replace("attention/out", "attention/linear")
            renamed = {"kernel": "w", "bias": "b"}
            found[name] = {renamed[k]: v for k, v in p.items()}
    assert found.keys() == like.keys()

    def reshape(leaf, old):
        return leaf.reshape(old.shape)

    if isinstance(net, ResNet | Transformer):  # (c,) -> (1, 1, 1, c); heads are one axis
        return jax.tree.map(reshape, found, dict(like))
    return found


def build(workload: Workload, weights: Weights | None, variant: str) -> Program:
    if isinstance(workload.net, Gru):
        raise NotOffered("hk.GRU resets before the product, which is another function")
    net = hk.transform_with_state(lambda x: forward(workload.net, x))

    def init(key):
        return net.init(key, jnp.ones(workload.shape))

    if workload.members > 1:
        init = jax.vmap(init)
        key = jax.random.split(jax.random.key(0), workload.members)
    else:
        key = jax.random.key(0)
    params, state = jax.jit(init)(key)
    if weights is not None:
        drawn, params = params, on_device(in_layout(workload.net, weights, params))
        assert jax.tree.map(jnp.shape, dict(drawn)) == jax.tree.map(jnp.shape, params)

    def apply(params, state, x):
        return net.apply(params, state, None, x)

    if workload.members > 1:
        apply = jax.vmap(apply, (0, 0, None))

    def loss(params, state, x, y):
        logits, state = apply(params, state, x)
        return cross_entropy(logits, y), state

    carry = with_optimizer(workload, params, state)
    return program(workload, make_update(workload, chosen(loss, variant)), carry)
