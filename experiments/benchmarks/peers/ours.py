"""jaxnet: `trainer.step`, and the same step in a scan, as `fit` runs it."""

from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import optax

import jaxnet as jn
from experiments.benchmarks.peers.jax_program import on_device, optimizer, program
from experiments.benchmarks.workloads import (
    CLASSES,
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
    batches,
    with_block,
)


def variants(workload: Workload) -> tuple[str, ...]:
    return ("jaxnet",)


def make(net: Net, length: int = 0) -> jn.Layer:
    """Return the net; a GPT for texts of this length."""
    match net:
        case Mlp(hidden):
            return jn.models.mlp((*hidden, CLASSES))
        case LeNet():
            return jn.models.lenet5(CLASSES)
        case ResNet(depth):
            return jn.models.cifar_resnet(depth, CLASSES)
        case LargeResNet(depth):
            return jn.models.resnet(depth, CLASSES)
        case MobileNet():
            return jn.compose(partial(mobile, net))
        case UNet():
            return jn.compose(partial(unet, net))
        case Lstm(features):
            return jn.serial(jn.lstm(features), jn.last_step(), jn.dense(CLASSES, name="output"))
        case Gru(features):
            return jn.serial(jn.gru(features), jn.last_step(), jn.dense(CLASSES, name="output"))
        case Transformer(heads, mlp):
            block = jn.transformer_block(heads, mlp)
            return jn.serial(block, lambda x: x.mean(1), jn.dense(CLASSES, name="output"))
        case Gpt(depth, heads, width, vocabulary):
            words = jn.embedding(vocabulary, width, tied=True, name="words")
            positions = jn.learned_positions(length, name="positions")
            blocks = [
                jn.transformer_block(heads, causal=True, name=f"block_{i}") for i in range(depth)
            ]
            return jn.serial(words, positions, *blocks, jn.layer_norm(name="norm"), words)


def unit(name: str, features: int, size: int = 3, strides: int = 1, groups: int = 1) -> jn.Layer:
    """Return a convolution and a batch norm."""
    options = {"strides": strides, "padding": size // 2, "groups": groups, "use_bias": False}
    convolution = jn.conv(features, size, **options, name="conv")
    return jn.serial(convolution, jn.batch_norm(name="norm"), name=name)


def mobile(net: MobileNet, m, x):
    before = x
    for name, size, inputs, features, strides, limited in net.units():
        before = x if name.endswith("wide") else before
        groups = inputs if size == 3 and inputs == features else 1
        x = m(unit(name, features, size, strides, groups), x)
        x = jax.nn.relu6(x) if limited else x
        x = x + before if name.endswith("narrow") and x.shape == before.shape else x
    return m(jn.dense(CLASSES, name="output"), x.mean((1, 2)))


def unet(net: UNet, m, x):
    levels = len(net.widths)
    maps = []
    for i, (name, _, features) in enumerate(net.units(x.shape[-1])):
        if i and not i % 2:  # another level begins
            if i < 2 * levels:
                maps.append(x)
                x = m(jn.max_pool(2), x)
            else:
                x = jnp.concatenate([m(jn.resize(scale=2, method="nearest"), x), maps.pop()], -1)
        x = jax.nn.relu(m(unit(name, features), x))
    return m(jn.dense(CLASSES, name="output"), x.mean((1, 2)))


def mean_over_members(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the cross-entropy (batch,) of logits (members, batch, classes), over the members."""
    labels = jnp.broadcast_to(labels, logits.shape[:-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(0)


def in_layout(workload: Workload, weights: Weights) -> Weights:
    return with_block(workload.net, weights, "transformer_block")


def model(workload: Workload) -> jn.Layer:
    net = make(workload.net, workload.shape[1])
    return jn.cast(net, jnp.bfloat16) if workload.half else net


def make_trainer(workload: Workload) -> tuple[jn.Trainer, tuple]:
    """Return the trainer of a workload, and specs of its batch."""
    net = model(workload)
    if workload.members > 1:
        net = jn.ensemble(net, workload.members)
        objective = jn.supervised(net, mean_over_members)
    else:
        objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
    batch = tuple(jn.spec(*one) for one in batch_specs(workload))
    return jn.trainer(objective, optimizer(workload)), batch


def step_and_specs(workload: Workload) -> tuple[Any, tuple]:
    """Return the jitted training step and specs of its arguments."""
    trainer, batch = make_trainer(workload)
    train_state = jax.eval_shape(trainer.init, jax.random.key(0), batch)
    return jax.jit(trainer.step, donate_argnums=0), (train_state, batch)


def lower(workload: Workload, platforms: tuple[str, ...]) -> jax.export.Exported:
    """Return the training step, lowered for other platforms, which need not be available."""
    step, specs = step_and_specs(workload)
    return jax.export.export(step, platforms=platforms)(*specs)


def operations(workload: Workload) -> float:
    """Return floating-point operations of a training step, before any is optimized away."""
    step, specs = step_and_specs(workload)
    return step.lower(*specs).cost_analysis()["flops"]


def build(workload: Workload, weights: Weights | None, variant: str) -> Program:
    trainer, batch = make_trainer(workload)
    params = None if weights is None else in_layout(workload, weights)
    train_state = trainer.init(jax.random.key(0), batch, params=params)

    if workload.steps > 1:

        def update(train_state, batch):
            train_state, metrics = trainer.step(train_state, batch)
            return train_state, metrics["loss"]

        return program(workload, update, train_state)
    data, train_state = jax.block_until_ready((on_device(batches(workload)), train_state))
    if not workload.train:
        forward = jax.jit(model(workload).apply)
        params, state = train_state.params, train_state.state
        return Program(lambda: forward(params, state, data[0])[0], jax.block_until_ready)

    def run():
        nonlocal train_state
        train_state, metrics = trainer.step(train_state, data)
        return metrics["loss"]

    return Program(run, jax.block_until_ready)
