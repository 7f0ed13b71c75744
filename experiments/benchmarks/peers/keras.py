"""Keras on JAX: `train_on_batch`, and the stateless functions in a jitted and donating step."""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from keras import layers

from experiments.benchmarks.peers.jax_program import (
    chosen,
    on_device,
    program,
    with_accelerated,
)
from experiments.benchmarks.workloads import (
    CLASSES,
    MOMENTUM,
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

BATCH, STATELESS = "Keras train_on_batch", "Keras stateless"


def variants(workload: Workload) -> tuple[str, ...]:
    return with_accelerated(STATELESS, *((BATCH,) if workload.steps == 1 else ()))


def make(net: Net, shape: tuple[int, ...]) -> keras.Model:
    x = given = keras.Input(shape[1:], shape[0])
    match net:
        case Mlp(hidden):
            for name, features in zip(net.names(), hidden, strict=True):
                x = layers.Dense(features, "relu", name=name)(x)
        case LeNet():
            x = layers.Conv2D(6, 5, padding="same", activation="relu", name="c1")(x)
            x = layers.MaxPooling2D()(x)
            x = layers.Conv2D(16, 5, activation="relu", name="c3")(x)
            x = layers.Flatten()(layers.MaxPooling2D()(x))
            x = layers.Dense(120, "relu", name="c5")(x)
            x = layers.Dense(84, "relu", name="f6")(x)
        case ResNet():
            x = layers.ReLU()(norm("norm_0")(conv(x, WIDTHS[0], 3, 1, "conv_0")))
            for name, _, features, strides in net.blocks():
                x = block(x, features, strides, name)
            x = layers.GlobalAveragePooling2D()(x)
        case Lstm(features):
            x = layers.LSTM(features, name="lstm")(x)
        case Gru(features):
            x = layers.GRU(features, name="gru")(x)
        case Transformer(heads, mlp):
            width = shape[-1]
            y = layers.LayerNormalization(epsilon=1e-6, name="attention_norm")(x)
            x = x + layers.MultiHeadAttention(heads, width // heads, name="attention")(y, y)
            y = layers.LayerNormalization(epsilon=1e-6, name="mlp_norm")(x)
            y = keras.activations.gelu(layers.Dense(mlp, name="mlp_in")(y), approximate=True)
            x = layers.GlobalAveragePooling1D()(x + layers.Dense(width, name="mlp_out")(y))
    return keras.Model(given, layers.Dense(CLASSES, name="output")(x))


def norm(name: str) -> layers.Layer:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)


def conv(x, features: int, size: int, strides: int, name: str):
    """Return a convolution with symmetric padding; "same" pads a strided one on one side."""
    padding = "same" if strides == 1 else "valid"
    if size > 1 and strides > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    return layers.Conv2D(features, size, strides, padding, use_bias=False, name=name)(x)


def block(x, features: int, strides: int, name: str):
    y = norm(f"{name}_norm_1")(conv(x, features, 3, strides, f"{name}_conv_1"))
    y = conv(layers.ReLU()(y), features, 3, 1, f"{name}_conv_2")
    y = norm(f"{name}_norm_2")(y)
    if x.shape != y.shape:
        x = conv(x, features, 1, strides, f"{name}_shortcut")
        x = norm(f"{name}_shortcut_norm")(x)
    return layers.ReLU()(layers.Add()([x, y]))


def copy_weights(model: keras.Model, weights: Weights) -> None:
    for path, p in flatten(weights).items():
        if path[0] == "attention":
            continue
        layer = model.get_layer("_".join(path))
        if "scale" in p:
            statistics = layer.get_weights()[2:]  # of a batch norm
            layer.set_weights([p["scale"], p["bias"], *statistics])
        elif "recurrent_bias" in p:
            second = np.zeros_like(p["bias"])
            second[-len(p["recurrent_bias"]) :] = p["recurrent_bias"]
            # Gates in Keras' order: update, reset, candidate.
            r, u, n = (np.split(p[k], 3, -1) for k in ("kernel", "recurrent_kernel", "bias"))
            swapped = [np.concatenate([g[1], g[0], g[2]], -1) for g in (r, u, n)]
            layer.set_weights([*swapped[:2], np.stack([swapped[2], second])])
        else:
            layer.set_weights(list(p.values()))
    if "attention" in weights:
        parts = weights["attention"]
        order = [parts[name] for name in ("query", "key", "value", "out")]
        arrays = [p[k] for p in order for k in ("kernel", "bias")]
        model.get_layer("attention").set_weights(arrays)


def build(workload: Workload, weights: Weights | None, variant: str) -> Program:
    if workload.members > 1:
        raise NotOffered("Keras has no documented way to train members side by side")
    model = make(workload.net, workload.shape)
    if weights is not None:
        copy_weights(model, weights)
    sgd = keras.optimizers.SGD(workload.learning_rate, momentum=MOMENTUM)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    differs = ""
    if isinstance(workload.net, Gru):
        differs = "two biases are trained where jaxnet has one; only first losses are compared"
    if variant == BATCH:
        model.compile(sgd, entropy, jit_compile=True)  # type: ignore[arg-type]
        x, y = on_device(batches(workload))

        def run():
            # A number on the host already.
            return model.train_on_batch(x, y)

        return Program(run, lambda loss: loss, differs)
    sgd.build(model.trainable_variables)

    def loss(trainable, rest, x, y):
        after: Any = model.stateless_call(trainable, rest, x, training=True)
        logits, rest = after
        return entropy(y, logits), rest

    def update(carry, batch):
        trainable, rest, state = carry
        gradient = jax.value_and_grad(chosen(loss, variant), has_aux=True)
        (value, rest), grads = gradient(trainable, rest, *batch)
        trainable, state = sgd.stateless_apply(state, grads, trainable)
        return (trainable, rest, state), value

    variables = model.trainable_variables, model.non_trainable_variables, sgd.variables
    carry = on_device(tuple([v.value for v in part] for part in variables))
    return program(workload, update, carry)._replace(differs=differs)
