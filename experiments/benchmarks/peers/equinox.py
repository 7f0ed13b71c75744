"""Equinox: `filter_jit` with donation, and `partition` with plain `jax.jit`, which calls faster.

Its modules take a single example, channels first, and are mapped over the batch.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

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
    NotOffered,
    Program,
    ResNet,
    Transformer,
    Weights,
    Workload,
    batches,
    flatten,
)

FILTER, PARTITION = "Equinox filter_jit", "Equinox partition"


def variants(workload: Workload) -> tuple[str, ...]:
    return with_accelerated(*((FILTER, PARTITION) if workload.steps == 1 else (PARTITION,)))


class Module(eqx.Module):
    """Any of the nets, with layers by the common names, for a single example."""

    layers: dict
    net: Net = eqx.field(static=True)

    def __init__(self, net: Net, shape: tuple[int, ...], key: jax.Array):
        self.net = net
        self.layers = make_layers(net, shape, key)

    def __call__(self, x, state):
        layers = self.layers
        match self.net:
            case Mlp():
                for name in self.net.names():
                    x = jax.nn.relu(layers[name](x))
            case LeNet():
                pool = eqx.nn.MaxPool2d(2, 2)
                x = pool(jax.nn.relu(layers["c1"](x)))
                x = pool(jax.nn.relu(layers["c3"](x)))
                x = jax.nn.relu(layers["c5"](x.ravel()))
                x = jax.nn.relu(layers["f6"](x))
            case ResNet():
                x, state = layers["norm_0"](layers["conv_0"](x), state)
                x = jax.nn.relu(x)
                for name, *_ in self.net.blocks():
                    x, state = run_block(layers[name], x, state)
                x = x.mean((1, 2))
            case Lstm(features):

                def step(carry, x):
                    return layers["lstm"](x, carry), None

                (x, _), _ = jax.lax.scan(step, (jnp.zeros(features), jnp.zeros(features)), x)
            case Gru(features):

                def step(carry, x):
                    return layers["gru"](x, carry), None

                x, _ = jax.lax.scan(step, jnp.zeros(features), x)
            case Transformer():
                y = jax.vmap(layers["attention_norm"])(x)
                x = x + layers["attention"](y, y, y)
                y = jax.vmap(layers["mlp_norm"])(x)
                y = jax.nn.gelu(jax.vmap(layers["mlp_in"])(y))
                x = x + jax.vmap(layers["mlp_out"])(y)
                x = x.mean(0)
        return layers["output"](x), state


def run_block(layers, x, state):
    y, state = layers["norm_1"](layers["conv_1"](x), state)
    y, state = layers["norm_2"](layers["conv_2"](jax.nn.relu(y)), state)
    if "shortcut" in layers:
        x, state = layers["shortcut_norm"](layers["shortcut"](x), state)
    return jax.nn.relu(x + y), state


class Maker:
    """Makes layers, each with a key of its own."""

    def __init__(self, key: jax.Array):
        self.key, self.count = key, 0

    def new(self):
        self.count += 1
        return jax.random.fold_in(self.key, self.count - 1)

    def linear(self, inputs, features):
        return eqx.nn.Linear(inputs, features, key=self.new())

    def conv(self, inputs, features, size, strides=1):
        return eqx.nn.Conv2d(
            inputs, features, size, strides, size // 2, use_bias=False, key=self.new()
        )

    def norm(self, features):
        return eqx.nn.BatchNorm(features, "batch", eps=1e-5, momentum=0.9, mode="batch")

    def residual(self, inputs, features, strides):
        block = {
            "conv_1": self.conv(inputs, features, 3, strides),
            "norm_1": self.norm(features),
            "conv_2": self.conv(features, features, 3),
            "norm_2": self.norm(features),
        }
        if inputs != features:
            block["shortcut"] = self.conv(inputs, features, 1, strides)
            block["shortcut_norm"] = self.norm(features)
        return block


def make_layers(net: Net, shape: tuple[int, ...], key: jax.Array) -> dict:
    width, make = shape[-1], Maker(key)
    match net:
        case Mlp(hidden):
            sizes = (width, *hidden)
            layers = {n: make.linear(*sizes[i : i + 2]) for i, n in enumerate(net.names())}
            return layers | {"output": make.linear(sizes[-1], CLASSES)}
        case LeNet():
            return {
                "c1": eqx.nn.Conv2d(width, 6, 5, padding=2, key=make.new()),
                "c3": eqx.nn.Conv2d(6, 16, 5, key=make.new()),
                "c5": make.linear(400, 120),
                "f6": make.linear(120, 84),
                "output": make.linear(84, CLASSES),
            }
        case ResNet():
            layers = {"conv_0": make.conv(width, WIDTHS[0], 3), "norm_0": make.norm(WIDTHS[0])}
            for name, *sizes in net.blocks():
                layers[name] = make.residual(*sizes)
            return layers | {"output": make.linear(WIDTHS[-1], CLASSES)}
        case Lstm(features):
            cell = eqx.nn.LSTMCell(width, features, key=make.new())
            return {"lstm": cell, "output": make.linear(features, CLASSES)}
        case Gru(features):
            cell = eqx.nn.GRUCell(width, features, key=make.new())
            return {"gru": cell, "output": make.linear(features, CLASSES)}
        case Transformer(heads, mlp):
            attention = eqx.nn.MultiheadAttention(
                heads,
                width,
                use_query_bias=True,
                use_key_bias=True,
                use_value_bias=True,
                use_output_bias=True,
                key=make.new(),
            )
            return {
                "attention_norm": eqx.nn.LayerNorm(width, eps=1e-6),
                "attention": attention,
                "mlp_norm": eqx.nn.LayerNorm(width, eps=1e-6),
                "mlp_in": make.linear(width, mlp),
                "mlp_out": make.linear(mlp, width),
                "output": make.linear(width, CLASSES),
            }


def in_layout(layers: dict, weights: Weights) -> dict:
    """Return the layers with these weights."""
    for path, p in flatten(weights).items():
        *parents, name = path
        here = layers
        for parent in parents:
            if parent != "attention":
                here = here[parent]
        if "attention" in parents:
            layer = "output_proj" if name == "out" else f"{name}_proj"
            width = p["kernel"].shape[0 if name != "out" else -1]
            kernel = p["kernel"].reshape(width, -1) if name != "out" else p["kernel"]
            kernel = kernel.reshape(-1, width) if name == "out" else kernel
            entries = {"weight": kernel.T, "bias": p["bias"].ravel()}
            for entry, value in entries.items():
                here["attention"] = eqx.tree_at(
                    lambda a, layer=layer, entry=entry: getattr(getattr(a, layer), entry),
                    here["attention"],
                    jnp.array(value),
                )
            continue
        for entry, value in entries_of(path, p).items():
            old = getattr(here[name], entry)
            value = jnp.array(value).reshape(old.shape)
            here[name] = eqx.tree_at(lambda a, e=entry: getattr(a, e), here[name], value)
    return layers


def entries_of(path: tuple[str, ...], p: Weights) -> Weights:
    if "scale" in p:
        return {"weight": p["scale"], "bias": p["bias"]}
    if "recurrent_kernel" in p:
        cell = {"weight_ih": p["kernel"].T, "weight_hh": p["recurrent_kernel"].T, "bias": p["bias"]}
        return cell | ({"bias_n": p["recurrent_bias"]} if "recurrent_bias" in p else {})
    kernel = p["kernel"]
    if path == ("c5",):  # maps are flattened channels first here
        kernel = kernel.reshape(5, 5, 16, -1).transpose(2, 0, 1, 3).reshape(400, -1)
    kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
    return {"weight": kernel} | ({"bias": p["bias"]} if "bias" in p else {})


def started(workload: Workload, weights: Weights | None) -> tuple[Module, eqx.nn.State]:
    """Return the model and its state, of several members stacked."""
    net, shape, members = workload.net, workload.shape, workload.members

    def make(key, weights):
        model, state = eqx.nn.make_with_state(Module)(net, shape, key)
        if weights is not None:
            model = eqx.tree_at(lambda m: m.layers, model, in_layout(dict(model.layers), weights))
        return model, state

    if members == 1:
        return make(jax.random.key(0), weights)
    models = []
    for i, key in enumerate(jax.random.split(jax.random.key(0), members)):
        own = None if weights is None else jax.tree.map(lambda leaf, i=i: leaf[i], weights)
        models.append(make(key, own)[0])
    arrays = [eqx.filter(model, eqx.is_array) for model in models]
    model = eqx.combine(jax.tree.map(lambda *a: jnp.stack(a), *arrays), models[0])
    return model, eqx.nn.State(model)


def build(workload: Workload, weights: Weights | None, variant: str) -> Program:
    if workload.half:
        raise NotOffered("written for float32")
    model, state = started(workload, weights)
    sgd = optimizer(workload)

    def apply(model, state, x):
        batched = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return batched(x, state)

    if workload.members > 1:
        apply = eqx.filter_vmap(apply, in_axes=(eqx.if_array(0), None, None), out_axes=(0, None))

    def loss(model, state, x, y):
        logits, state = apply(model, state, x)
        return cross_entropy(logits, y), state

    def update(carry, batch):
        model, state, opt_state = carry
        gradient = eqx.filter_value_and_grad(chosen(loss, variant), has_aux=True)
        (value, state), grads = gradient(model, state, *batch)
        updates, opt_state = sgd.update(grads, opt_state, eqx.filter(model, eqx.is_array))
        return (eqx.apply_updates(model, updates), state, opt_state), value

    opt_state = jax.jit(sgd.init)(eqx.filter(model, eqx.is_array))
    carry = model, state, opt_state
    x, y = batches(workload)
    if x.ndim - (workload.steps > 1) == 4:
        x = np.ascontiguousarray(np.moveaxis(x, -1, -3))  # channels first
    if variant.startswith(PARTITION):
        arrays, static = eqx.partition(carry, eqx.is_array)

        def update_arrays(arrays, batch):
            carry, value = update(eqx.combine(arrays, static), batch)
            return eqx.filter(carry, eqx.is_array), value

        return program(workload, update_arrays, on_device(arrays), (x, y))
    step = eqx.filter_jit(lambda batch, carry: update(carry, batch), donate="all-except-first")
    data = on_device((x, y))
    carry = jax.block_until_ready(eqx.combine(on_device(eqx.filter(carry, eqx.is_array)), carry))

    def run():
        nonlocal carry
        carry, value = step(data, carry)
        return value

    return Program(run, jax.block_until_ready)
