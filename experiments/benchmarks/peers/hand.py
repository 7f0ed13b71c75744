"""The same nets written by hand: functions of nested dicts, under plain `jax.jit`."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn

from experiments.benchmarks.peers.jax_program import (
    cross_entropy,
    make_update,
    on_device,
    program,
    with_optimizer,
)
from experiments.benchmarks.workloads import (
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
    draw_weights,
    flatten,
)

CUDNN = "by hand, LSTM of cuDNN"


def variants(workload: Workload) -> tuple[str, ...]:
    on_gpu = isinstance(workload.net, Lstm) and jax.default_backend() == "gpu"
    return ("by hand", CUDNN) if on_gpu else ("by hand",)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def conv(p, x, strides=1, padding=0):
    y = lax.conv_general_dilated(
        x,
        p["kernel"],
        (strides, strides),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + p["bias"] if "bias" in p else y


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def batch_norm(p, x):
    """Normalize by the batch's statistics, and return them for the running averages."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) * (lax.rsqrt(var + 1e-5) * p["scale"]) + p["bias"]
    return y, {"mean": mean, "var": var}


def layer_norm(p, x):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-6) * p["scale"] + p["bias"]


def mlp(names: list[str]):
    def forward(params, state, x):
        for name in names:
            x = jax.nn.relu(dense(params[name], x))
        return dense(params["output"], x), state

    return forward


def lenet(params, state, x):
    x = pool(jax.nn.relu(conv(params["c1"], x, padding=2)))
    x = pool(jax.nn.relu(conv(params["c3"], x)))
    x = jax.nn.relu(dense(params["c5"], x.reshape(len(x), -1)))
    x = jax.nn.relu(dense(params["f6"], x))
    return dense(params["output"], x), state


def resnet(net: ResNet):
    def forward(params, state, x):
        seen = {}

        def norm(name, p, x):
            x, seen[name] = batch_norm(p, x)
            return x

        x = conv(params["conv_0"], x, padding=1)
        x = jax.nn.relu(norm("norm_0", params["norm_0"], x))
        for name, inputs, features, strides in net.blocks():
            p = params[name]
            y = conv(p["conv_1"], x, strides, 1)
            y = jax.nn.relu(norm(f"{name}/norm_1", p["norm_1"], y))
            y = norm(f"{name}/norm_2", p["norm_2"], conv(p["conv_2"], y, padding=1))
            if inputs != features:
                x = conv(p["shortcut"], x, strides)
                x = norm(f"{name}/shortcut_norm", p["shortcut_norm"], x)
            x = jax.nn.relu(x + y)
        state = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state, seen)
        return dense(params["output"], x.mean((1, 2))), state

    return forward


def statistics(net: Net, params: Weights) -> Weights:
    """Return the initial running statistics of a ResNet; empty for other nets."""
    if not isinstance(net, ResNet):
        return {}
    return {
        "/".join(path): {"mean": jnp.zeros_like(p["bias"]), "var": jnp.ones_like(p["bias"])}
        for path, p in flatten(params).items()
        if "scale" in p
    }


def lstm(features: int):
    def forward(params, state, x):
        p = params["lstm"]
        pre = dense(p, x.swapaxes(0, 1))  # all steps at once: (time, batch, 4 * features)

        def step(carry, pre):
            c, h = carry
            i, f, g, o = jnp.split(pre + h @ p["recurrent_kernel"], 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (c, jax.nn.sigmoid(o) * jnp.tanh(c)), None

        zero = jnp.zeros((len(x), features))
        (_, h), _ = lax.scan(step, (zero, zero), pre)
        return dense(params["output"], h), state

    return forward


def packed(p: Weights) -> jax.Array:
    """Return the LSTM's weights in cuDNN's order: kernels (outputs, inputs), then two biases."""
    parts = p["kernel"].T, p["recurrent_kernel"].T, p["bias"], jnp.zeros_like(p["bias"])
    return jnp.concatenate([part.ravel() for part in parts])


def cudnn_lstm(features: int):
    def forward(params, state, x):
        batch, length, width = x.shape
        zero, lengths = jnp.zeros((1, batch, features)), jnp.full(batch, length, jnp.int32)
        weights = packed(params["lstm"])
        options = width, features, 1, 0.0, False
        _, h, _ = rnn.lstm(x, zero, zero, weights, lengths, *options)
        return dense(params["output"], h[0]), state

    return forward


def gru(features: int):
    def forward(params, state, x):
        p = params["gru"]
        pre = dense(p, x.swapaxes(0, 1))  # (time, batch, 3 * features)

        def step(h, pre):
            a_r, a_u, a_n = jnp.split(pre, 3, -1)
            b_r, b_u, b_n = jnp.split(h @ p["recurrent_kernel"], 3, -1)
            r, u = jax.nn.sigmoid(a_r + b_r), jax.nn.sigmoid(a_u + b_u)
            n = jnp.tanh(a_n + r * (b_n + p["recurrent_bias"]))
            return (1 - u) * n + u * h, None

        h, _ = lax.scan(step, jnp.zeros((len(x), features)), pre)
        return dense(params["output"], h), state

    return forward


def transformer(params, state, x):
    p = params["attention"]
    normed = layer_norm(params["attention_norm"], x)
    q, k, v = (
        jnp.einsum("btw,whd->bthd", normed, p[name]["kernel"]) + p[name]["bias"]
        for name in ("query", "key", "value")
    )
    y = jax.nn.dot_product_attention(q, k, v)
    x = x + jnp.einsum("bthd,hdw->btw", y, p["out"]["kernel"]) + p["out"]["bias"]
    y = jax.nn.gelu(dense(params["mlp_in"], layer_norm(params["mlp_norm"], x)))
    x = x + dense(params["mlp_out"], y)
    return dense(params["output"], x.mean(1)), state


def make(net: Net):
    """Return forward(params, state, x) -> (logits, state)."""
    match net:
        case Mlp():
            return mlp(net.names())
        case LeNet():
            return lenet
        case ResNet():
            return resnet(net)
        case Lstm(features):
            return lstm(features)
        case Gru(features):
            return gru(features)
        case Transformer():
            return transformer


def build(workload: Workload, weights: Weights | None, variant: str) -> Program:
    if workload.half:
        raise NotOffered("written for float32")
    if variant == CUDNN:
        assert isinstance(workload.net, Lstm)
        forward = cudnn_lstm(workload.net.features)
    else:
        forward = make(workload.net)
    if workload.members > 1:
        forward = jax.vmap(forward, (0, None, None), (0, None))
    params = on_device(draw_weights(workload) if weights is None else weights)
    state = statistics(workload.net, params)
    if not workload.train:
        predict, x = jax.jit(lambda params, x: forward(params, {}, x)[0]), batches(workload)[0]
        x = on_device(x)
        return Program(lambda: predict(params, x), jax.block_until_ready)

    def loss(params, state, x, y):
        logits, state = forward(params, state, x)
        return cross_entropy(logits, y), state

    carry = with_optimizer(workload, params, state)
    return program(workload, make_update(workload, loss), carry)
