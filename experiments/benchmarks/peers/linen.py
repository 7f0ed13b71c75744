"""Flax Linen: modules with @nn.compact, a jitted and donating step."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.peers.jax_program import (
    chosen,
    cross_entropy,
    make_update,
    on_device,
    optimizer,
    program,
    with_accelerated,
    with_optimizer,
)
from experiments.benchmarks.workloads import (
    CLASSES,
    WIDTHS,
    Convs,
    Gpt,
    Gru,
    LargeResNet,
    LeNet,
    Lstm,
    Mlp,
    MobileNet,
    Net,
    Program,
    ResNet,
    Transformer,
    UNet,
    Weights,
    Workload,
    batch_specs,
    with_block,
)


def variants(workload: Workload) -> tuple[str, ...]:
    return with_accelerated("Linen")


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


def conv(features, size, strides, name, dtype=None):
    padding = size // 2
    return nn.Conv(features, (size, size), strides, padding, use_bias=False, dtype=dtype, name=name)


def batch_norm(name, dtype=None):
    return nn.BatchNorm(False, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


class Block(nn.Module):
    """Convolutions with batch norm, added to the shortcut."""

    convs: Convs
    dtype: Any

    @nn.compact
    def __call__(self, x):
        y = x
        for i, (size, _, features, strides) in enumerate(self.convs, 1):
            y = conv(features, size, strides, f"conv_{i}", self.dtype)(y)
            y = batch_norm(f"norm_{i}", self.dtype)(y)
            y = nn.relu(y) if i < len(self.convs) else y
        if x.shape != y.shape:
            strides = math.prod(one[3] for one in self.convs)
            x = conv(y.shape[-1], 1, strides, "shortcut", self.dtype)(x)
            x = batch_norm("shortcut_norm", self.dtype)(x)
        return nn.relu(x + y)


class ResNetModule(nn.Module):
    net: ResNet | LargeResNet
    dtype: Any

    @nn.compact
    def __call__(self, x):
        large = isinstance(self.net, LargeResNet)
        first = (64, 7, 2) if large else (WIDTHS[0], 3, 1)
        x = nn.relu(batch_norm("norm_0", self.dtype)(conv(*first, "conv_0", self.dtype)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))) if large else x
        for name, *sizes in self.net.blocks():
            x = Block(self.net.convs(*sizes), self.dtype, name=name)(x)
        return nn.Dense(CLASSES, name="output", dtype=self.dtype)(x.mean((1, 2)))


class Unit(nn.Module):
    """A convolution and a batch norm."""

    features: int
    size: int = 3
    strides: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(
            self.features,
            (self.size, self.size),
            self.strides,
            self.size // 2,
            feature_group_count=self.groups,
            use_bias=False,
            name="conv",
        )(x)
        return batch_norm("norm")(x)


class MobileNetModule(nn.Module):
    net: MobileNet

    @nn.compact
    def __call__(self, x):
        before = x
        for name, size, inputs, features, strides, limited in self.net.units():
            before = x if name.endswith("wide") else before
            groups = inputs if size == 3 and inputs == features else 1
            x = Unit(features, size, strides, groups, name=name)(x)
            x = nn.relu6(x) if limited else x
            x = x + before if name.endswith("narrow") and x.shape == before.shape else x
        return nn.Dense(CLASSES, name="output")(x.mean((1, 2)))


class UNetModule(nn.Module):
    net: UNet

    @nn.compact
    def __call__(self, x):
        levels, maps = len(self.net.widths), []
        for i, (name, _, features) in enumerate(self.net.units(x.shape[-1])):
            if i and not i % 2:  # another level begins
                if i < 2 * levels:
                    maps.append(x)
                    x = nn.max_pool(x, (2, 2), (2, 2))
                else:
                    twice = (len(x), 2 * x.shape[1], 2 * x.shape[2], x.shape[3])
                    x = jnp.concatenate([jax.image.resize(x, twice, "nearest"), maps.pop()], -1)
            x = nn.relu(Unit(features, name=name)(x))
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


class TransformerBlock(nn.Module):
    """Pre-norm, with GELU."""

    heads: int
    mlp: int
    causal: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.LayerNorm, dtype=self.dtype)
        y = norm(name="attention_norm")(x)
        mask = nn.make_causal_mask(x[..., 0]) if self.causal else None
        attention = nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, name="attention")
        x = x + attention(y, mask=mask)
        y = nn.Dense(self.mlp, dtype=self.dtype, name="mlp_in")(norm(name="mlp_norm")(x))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp_out")(nn.gelu(y))


class TransformerModule(nn.Module):
    net: Transformer
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        net = self.net
        x = TransformerBlock(net.heads, net.mlp, dtype=self.dtype, name="block")(x)
        return nn.Dense(CLASSES, dtype=self.dtype, name="output")(x.mean(1))


class GptModule(nn.Module):
    net: Gpt
    dtype: Any

    @nn.compact
    def __call__(self, ids):
        net = self.net
        words = nn.Embed(net.vocabulary, net.width, dtype=self.dtype, name="words")
        places = nn.Embed(ids.shape[-1], net.width, dtype=self.dtype, name="positions")
        x = words(ids) + places(jnp.arange(ids.shape[-1]))
        for i in range(net.depth):
            name = f"block_{i}"
            x = TransformerBlock(net.heads, 4 * net.width, True, self.dtype, name=name)(x)
        return words.attend(nn.LayerNorm(dtype=self.dtype, name="norm")(x))


def make(net: Net, dtype: Any = None) -> nn.Module:
    match net:
        case Mlp():
            return MlpModule(net)
        case LeNet():
            return LeNetModule()
        case ResNet() | LargeResNet():
            return ResNetModule(net, dtype)
        case MobileNet():
            return MobileNetModule(net)
        case UNet():
            return UNetModule(net)
        case Lstm():
            return LstmModule(net)
        case Gru():
            return GruModule(net)
        case Transformer():
            return TransformerModule(net, dtype)
        case Gpt():
            return GptModule(net, dtype)


def in_layout(net: Net, weights: Weights) -> Weights:
    """Return the common layout, with one layer per gate in recurrent cells."""
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
            return with_block(net, weights, "block")


def parts(workload: Workload) -> tuple[Callable, Callable]:
    """Return functions of a workload: key -> variables, and (params, state, x, y) -> loss."""
    module = make(workload.net, jnp.bfloat16 if workload.half else None)
    example = batch_specs(workload)[0]

    def init(key):
        return module.init(key, jnp.ones(example.shape, example.dtype))

    def apply(params, state, x):
        return module.apply({"params": params, **state}, x, mutable=["batch_stats"])

    if workload.members > 1:
        one, init = init, lambda key: jax.vmap(one)(jax.random.split(key, workload.members))
        apply = jax.vmap(apply, (0, 0, None))

    def loss(params, state, x, y):
        logits, state = apply(params, state, x)
        return cross_entropy(logits.astype(jnp.float32), y), state

    return init, loss


def divided(variables: Any) -> tuple[Any, Any]:
    """Return params and the rest of the variables."""
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def step_and_specs(workload: Workload) -> tuple[Any, tuple]:
    """Return the jitted training step and specs of its arguments."""
    init, loss = parts(workload)
    params, state = divided(jax.eval_shape(init, jax.random.key(0)))
    carry = params, state, jax.eval_shape(optimizer(workload).init, params)
    batch = tuple(jax.ShapeDtypeStruct(*one) for one in batch_specs(workload))
    return jax.jit(make_update(workload, loss), donate_argnums=0), (carry, batch)


def build(workload: Workload, weights: Weights | None, variant: str) -> Program:
    """Return the program of a variant; "Linen, jitted init" initializes under `jax.jit`."""
    init, loss = parts(workload)
    jitted = variant.endswith("jitted init") or workload.members > 1
    params, state = divided((jax.jit(init) if jitted else init)(jax.random.key(0)))
    if weights is not None:
        drawn, params = params, on_device(in_layout(workload.net, weights))
        assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)
    carry = with_optimizer(workload, params, state)
    return program(workload, make_update(workload, chosen(loss, variant)), carry)
