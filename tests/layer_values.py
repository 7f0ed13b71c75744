"""What each row of the catalogue computes, in NumPy: loops over positions, steps and heads.

`VALUES[row.id](params, state, x, train)` is the output. Gradients need no second way: another law
compares them with differences of these values.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit as sigmoid

from tests.oracles import log_probabilities, log_softmax, rotary

Value = Callable[..., Any]


def gelu(z):
    return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def softmax(z):
    return np.exp(log_softmax(z))


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


# Windows.


def same(size, window, stride, dilation=1):
    """Zeros before and after, for ceil(size / stride) outputs; an odd one comes after."""
    total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def seen_by(x, window, strides, pads, dilation=1, fill=0.0):
    """The windows of x (batch, *space, channels): (batch, *outputs, *window, channels)."""
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    reach = [(k - 1) * dilation + 1 for k in window]
    outputs = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    found = np.zeros((len(x), *outputs, *window, x.shape[-1]))
    for place in np.ndindex(*outputs):
        steps = zip(place, strides, reach, strict=True)
        here = [slice(p * s, p * s + r, dilation) for p, s, r in steps]
        found[(slice(None), *place)] = x[(slice(None), *here)]
    return found


def conv(p, x, strides, pads, dilation=1, groups=1):
    kernel = p["kernel"]
    axes = x.ndim - 2
    seen = seen_by(x, kernel.shape[:axes], strides, pads, dilation)
    over = [*range(axes + 1, 2 * axes + 2)], [*range(axes + 1)]
    parts = [
        np.tensordot(part, w, over)
        for part, w in zip(np.split(seen, groups, -1), np.split(kernel, groups, -1), strict=True)
    ]
    return np.concatenate(parts, -1) + p.get("bias", 0)


def spread(x, strides):
    """x with strides - 1 zeros between its entries."""
    wide = [(n - 1) * s + 1 for n, s in zip(x.shape[1:-1], strides, strict=True)]
    found = np.zeros((len(x), *wide, x.shape[-1]))
    found[(slice(None), *(slice(None, None, s) for s in strides))] = x
    return found


def conv_transpose(p, x, stride, pads, groups=1):
    return conv(p, spread(x, (stride, stride)), (1, 1), pads, groups=groups)


def pool(reduce, x, window, strides, pads=((0, 0), (0, 0)), dilation=1, fill=0.0):
    return reduce(seen_by(x, window, strides, pads, dilation, fill), axis=(3, 4))


def adaptive(reduce, x, rows, columns):
    def parts(n, outputs):
        return [slice(i * n // outputs, -(-(i + 1) * n // outputs)) for i in range(outputs)]

    across = parts(x.shape[2], columns)
    down = parts(x.shape[1], rows)
    found = [[reduce(x[:, r, c], axis=(1, 2)) for c in across] for r in down]
    return np.moveaxis(np.array(found), 2, 0)


def locally_connected(p, x, window, strides):
    seen = seen_by(x, window, strides, [(0, 0)] * (x.ndim - 2))
    flat = seen.reshape(*seen.shape[: x.ndim - 1], -1)
    return np.einsum("n...i,...io->n...o", flat, p["kernel"]) + p["bias"]


def response_norm(x, size, alpha, beta=0.75, k=2.0):
    found = np.zeros(x.shape)
    for c in range(x.shape[-1]):
        near = x[..., max(0, c - size // 2) : c + (size - 1) // 2 + 1]
        found[..., c] = x[..., c] / (k + alpha * (near**2).sum(-1)) ** beta
    return found


# Resizing, one axis after another.


def along(x, axis, outputs, scale, weight):
    """Each output is a sum of the four entries near its place, which end at the outermost ones."""
    inputs = x.shape[axis]
    x = np.moveaxis(x, axis, 0)
    found = np.zeros((outputs, *x.shape[1:]))
    for i in range(outputs):
        place = (i + 0.5) / scale - 0.5
        for entry in range(math.floor(place) - 1, math.floor(place) + 3):
            found[i] += weight(abs(place - entry)) * x[min(max(entry, 0), inputs - 1)]
    return np.moveaxis(found, 0, axis)


def linear(d):
    return max(0.0, 1 - d)


def cubic(d, a=-0.75):
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def resize(x, sizes, weight):
    for axis, size in enumerate(sizes, start=1):
        x = along(x, axis, size, size / x.shape[axis], weight)
    return x


def nearest(x, *scales):
    for axis, scale in enumerate(scales, start=1):
        outputs = int(x.shape[axis] * scale + 1e-9)
        x = np.take(x, [math.floor(i / scale + 1e-9) for i in range(outputs)], axis)
    return x


# Norms.


def normalized(x, axes, epsilon):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


def affine(p, x):
    return x * p.get("scale", 1) + p.get("bias", 0)


def batch_norm(p, s, x, train):
    if train:
        return affine(p, normalized(x, tuple(range(x.ndim - 1)), 1e-5))
    return affine(p, (x - s["mean"]) / np.sqrt(s["var"] + 1e-5))


def layer_norm(p, x):
    return affine(p, normalized(x, -1, 1e-6))


def rms_norm(p, x):
    return affine(p, x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6))


def group_norm(p, x, groups):
    parts = x.reshape(*x.shape[:-1], groups, -1)
    return affine(p, normalized(parts, (*range(1, x.ndim - 1), x.ndim), 1e-6).reshape(x.shape))


def unnormed(p):
    """The params of a layer under `weight_norm`: each kernel has the length g along v."""

    def kernel(entry):
        return entry["v"] * entry["g"] / np.sqrt((entry["v"] ** 2).sum(0))

    return p | {"kernel": kernel(p["kernel"])}


def spectral(p, s, x, train):
    vectors = s["spectral_norm"]["kernel"]
    u, v, w = vectors["u"], vectors["v"], p["kernel"]
    if train:
        u = v @ w / np.linalg.norm(v @ w)
        v = w @ u / np.linalg.norm(w @ u)
    return dense(p | {"kernel": w / (v @ w @ u)}, x)


def adapted(p, scale=1.0):
    """The params of a layer under `lora`: a kernel and the product of its factors."""
    a, b = p["kernel_lora_a"], p["kernel_lora_b"]
    return p | {"kernel": p["kernel"] + scale * np.tensordot(a, b, 1)}


def from_nibbles(entry, features, group):
    """The kernel of two 4-bit numbers per byte, with a scale for each `group` of inputs."""
    kernel = np.zeros((len(entry["int4"]), features))
    for i, j in np.ndindex(*kernel.shape):
        byte = int(entry["int4"][i, j // 2])
        number = byte >> 4 if j % 2 else byte & 15
        if number > 7:
            number -= 16
        kernel[i, j] = number * entry["scale16"][i // group, j]
    return kernel


def rounded(kernel, largest):
    """The kernel with at most 2 * largest + 1 different values per column."""
    scale = np.abs(kernel).max(0) / largest
    return np.round(kernel / scale) * scale


# Positions and attention.


def sinusoidal(x):
    found = x.copy()
    for t, i in itertools.product(range(x.shape[1]), range(x.shape[2] // 2)):
        angle = t / 10000 ** (2 * i / x.shape[2])
        found[:, t, 2 * i] += math.sin(angle)
        found[:, t, 2 * i + 1] += math.cos(angle)
    return found


def additive(p, x, memory, mask=None):
    single = x.ndim == 2
    q = (x[:, None] if single else x) @ p["query"]["kernel"]
    k = memory @ p["key"]["kernel"]
    scores = (np.tanh(q[:, :, None] + k[:, None]) @ p["score"]["kernel"])[..., 0]
    if mask is not None:
        gone = np.arange(memory.shape[1]) >= np.asarray(mask)[:, None, None]
        scores = np.where(gone, -np.inf, scores)
    weights = nowhere_is_0(scores)
    y = weights @ memory
    return (y[:, 0], weights[:, 0]) if single else (y, weights)


def nowhere_is_0(scores):
    """A softmax, with zeros for a row of -inf."""
    some = (scores > -np.inf).any(-1, keepdims=True)
    return np.where(some, softmax(np.where(some, scores, 0)), 0)


def attention(p, queries, memory, seen=None, bias=0.0, turn=None, softcap=None, scale=None):
    """Head by head; `seen` broadcasts against (batch, heads, time, places)."""
    q, k, v = (
        np.einsum("btf,fhd->bthd", a, p[name]["kernel"]) + p[name].get("bias", 0)
        for name, a in (("query", queries), ("key", memory), ("value", memory))
    )
    if "query_norm" in p:
        q = rms_norm(p["query_norm"], q)
        k = rms_norm(p["key_norm"], k)
    if turn is not None:
        q, k = turn(q), turn(k)
    return attended(p, q, k, v, seen, bias, softcap, scale)


def attended(p, q, k, v, seen=None, bias=0.0, softcap=None, scale=None):
    heads, size = q.shape[2:]
    shared = heads // k.shape[2]  # queries per head of keys
    found = np.zeros((*q.shape[:3], v.shape[3]))
    all_weights = []
    for h in range(heads):
        scores = q[:, :, h] @ k[:, :, h // shared].swapaxes(1, 2) * (scale or 1 / math.sqrt(size))
        scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
        scores = scores + (bias if np.ndim(bias) == 0 else bias[:, h])
        if seen is not None:
            here = np.broadcast_to(seen, (len(q), heads, *scores.shape[1:]))[:, h]
            scores = np.where(here, scores, -np.inf)
        if "sinks" in p:
            scores = np.insert(scores, 0, p["sinks"][h], -1)
        all_weights.append(nowhere_is_0(scores)[..., "sinks" in p :])
        found[:, :, h] = all_weights[-1] @ v[:, :, h // shared]
    y = np.einsum("bthd,hdf->btf", found, p["out"]["kernel"]) + p["out"].get("bias", 0)
    if seen is not None:
        y = np.where((np.stack(all_weights).sum(0) > 0).any(-1)[..., None], y, 0)
    return y, np.stack(all_weights, 1)


def until(lengths, places):
    return (np.arange(places) < np.asarray(lengths)[:, None])[:, None, None]


def near(time, before, after):
    distance = np.arange(time) - np.arange(time)[:, None]
    return (distance >= -before) & (distance <= after)


def block(p, x, attend, norm_first=True):
    def add(branch, norm, x):
        if norm_first:
            return x + branch(layer_norm(norm, x))
        return layer_norm(norm, x + branch(x))

    x = add(attend, p["attention_norm"], x)
    return add(lambda x: dense(p["mlp_out"], gelu(dense(p["mlp_in"], x))), p["mlp_norm"], x)


def block_with_norms_around(p, x, scale, residual):
    y = layer_norm(p["attention_norm"], x)
    y = layer_norm(p["attention_out_norm"], attention(p["attention"], y, y, scale=scale)[0])
    x = x + residual * y
    y = gelu(dense(p["mlp_in"], layer_norm(p["mlp_norm"], x)))
    return x + residual * layer_norm(p["mlp_out_norm"], dense(p["mlp_out"], y))


def decoder_block(p, x, memory, memory_mask, norm=rms_norm, gated=True):
    """In evaluation: causal, then to the memory, then an MLP."""
    y = norm(p["attention_norm"], x)
    x = x + attention(p["attention"], y, y, near(x.shape[1], x.shape[1], 0))[0]
    y = norm(p["cross_norm"], x)
    x = x + attention(p["cross_attention"], y, memory, until(memory_mask, memory.shape[1]))[0]
    y = norm(p["mlp_norm"], x)
    gate = dense(p["mlp_gate"], y) if gated else 1
    return x + dense(p["mlp_out"], gelu(dense(p["mlp_in"], y)) * gate)


def mixture(p, x, k, expert, lengths=None):
    """Token by token; the chosen probabilities are divided by their sum if there are several."""
    found = []
    for b, t in np.ndindex(*x.shape[:2]):
        probabilities = softmax(x[b, t] @ p["router"]["kernel"])
        best = np.argsort(-probabilities, kind="stable")[:k]
        weights = probabilities[best] / (probabilities[best].sum() if k > 1 else 1)
        each = [expert({n: a[i] for n, a in p["experts"].items()}, x[b, t]) for i in best]
        here = lengths is None or t < np.asarray(lengths)[b]
        found.append(here * sum(w * y for w, y in zip(weights, each, strict=True)))
    return np.stack(found).reshape(*x.shape[:2], -1)


# Recurrence: steps of (params, carry, x) -> carry.


def rnn_step(p, h, x):
    return np.tanh(dense(p, x) + h @ p["recurrent_kernel"])


def lstm_step(p, carry, x):
    i, f, g, o = np.split(dense(p, x) + carry["h"] @ p["recurrent_kernel"], 4, -1)
    c = sigmoid(f) * carry["c"] + sigmoid(i) * np.tanh(g)
    return {"c": c, "h": sigmoid(o) * np.tanh(c)}


def gru_step(p, h, x):
    a_r, a_u, a_n = np.split(dense(p, x), 3, -1)
    b_r, b_u, b_n = np.split(h @ p["recurrent_kernel"], 3, -1)
    r, u = sigmoid(a_r + b_r), sigmoid(a_u + b_u)
    n = np.tanh(a_n + r * (b_n + p["recurrent_bias"]))
    return (1 - u) * n + u * h


def gru_before_step(p, h, x):
    a_r, a_u, a_n = np.split(dense(p, x), 3, -1)
    w_r, w_u, w_n = np.split(p["recurrent_kernel"], 3, -1)
    r, u = sigmoid(a_r + h @ w_r), sigmoid(a_u + h @ w_u)
    return (1 - u) * np.tanh(a_n + (r * h) @ w_n) + u * h


def output(carry):
    return carry["h"] if isinstance(carry, dict) else carry


def zero_carry(p, x, memory=False):
    h = np.zeros((len(x), p["recurrent_kernel"].shape[0]))
    return {"c": h, "h": h} if memory else h


def over_time(step, p, x, lengths=None, initial=None, memory=False):
    """(outputs, last carry); a sequence that has ended keeps its carry, and its outputs are 0."""
    lengths = np.full(len(x), x.shape[1]) if lengths is None else np.asarray(lengths)
    carry = zero_carry(p, x, memory) if initial is None else initial
    outputs = []
    for t in range(x.shape[1]):
        new = step(p, carry, x[:, t])
        going = (t < lengths)[:, None]
        if isinstance(new, dict):
            carry = {name: np.where(going, new[name], carry[name]) for name in new}
        else:
            carry = np.where(going, new, carry)
        outputs.append(np.where(going, output(carry), 0))
    return np.stack(outputs, 1), carry


def sequence(step, memory, p, given):
    """x, (x, lengths) or a dict, and the output in the same form."""
    if isinstance(given, dict):
        given = dict(given)
        x, initial = given.pop("x"), given.pop("initial", None)
        y, final = over_time(step, p, x, given.get("lengths"), initial, memory)
        return given | {"x": y, "final": final}
    if isinstance(given, tuple):
        return over_time(step, p, *given, memory=memory)[0], given[1]
    return over_time(step, p, given, memory=memory)[0]


def one_step(step, memory, p, given):
    carry, x = given
    carry = step(p, zero_carry(p, x, memory) if carry is None else carry, x)
    return carry, output(carry)


def stack(p, given):
    y, first = over_time(gru_step, p["gru"], given["x"])
    y, second = over_time(lstm_step, p["lstm"], y, memory=True)
    return {"x": y, "final": (first, second)}


def backwards(x, lengths):
    """Each sequence in reverse order, its padding at the end."""
    return np.stack([np.concatenate([a[:n][::-1], a[n:]]) for a, n in zip(x, lengths, strict=True)])


def both_ways(p, x, lengths):
    there, _ = over_time(lstm_step, p["forward"], x, lengths, memory=True)
    back, _ = over_time(lstm_step, p["backward"], backwards(x, lengths), lengths, memory=True)
    return there, backwards(back, lengths)


# Features, and what is learned without labels.


def polynomial(x, degree):
    choose = itertools.combinations_with_replacement
    features = range(x.shape[-1])
    terms = [term for n in range(1, degree + 1) for term in choose(features, n)]
    return np.stack([x[..., list(term)].prod(-1) for term in terms], -1)


def distances(x, centers):
    return np.sqrt(np.square(x[:, None] - centers).sum(-1))


def hmm_of_gaussians(p, x, lengths):
    e = p["emission"]
    away = np.square(x[:, :, None, None] - e["mean"]) / np.exp(e["log_variance"])
    density = -0.5 * (away + e["log_variance"] + np.log(2 * np.pi)).sum(-1)
    scores = np.logaddexp.reduce(density + log_probabilities(e["weight"]), axis=-1)
    return chain(p, scores, lengths)


def hmm_of_symbols(p, x):
    scores = np.moveaxis(log_probabilities(p["emission"]["logits"])[:, np.asarray(x)], 0, -1)
    return chain(p, scores, [x.shape[1]] * len(x))


def chain(p, scores, lengths):
    """By products of matrices; `tests/oracles.py` tries every path."""
    start, move = (np.exp(log_probabilities(p[name])) for name in ("start", "transition"))
    found = []
    for one, n in zip(np.exp(scores), lengths, strict=True):
        alpha = start * one[0]
        for t in range(1, n):
            alpha = alpha @ move * one[t]
        found.append(math.log(alpha.sum()) if n else 0.0)
    return np.array(found)


# Models of the layers above, in evaluation.


def lenet5(p, x):
    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))  # 28x28 pixels
    for layer in ("c1", "c3"):
        x = pool(np.max, np.maximum(conv(p[layer], x, (1, 1), ((0, 0),) * 2), 0), (2, 2), (2, 2))
    x = x.reshape(len(x), -1)
    for layer in ("c5", "f6"):
        x = np.maximum(dense(p[layer], x), 0)
    return dense(p["output"], x)


def lenet5_1998(p, x):
    """With the connections of table I, and the codes of the default."""

    def squash(z):
        return 1.7159 * np.tanh(2 * z / 3)

    def subsample(p, x):
        return squash(pool(np.mean, x, (2, 2), (2, 2)) * p["scale"] + p["bias"])

    x = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    x = subsample(p["s2"], squash(conv(p["c1"], x, (1, 1), ((0, 0),) * 2)))
    maps, place = [], 0
    for seen in lenet5_maps():
        part = {"kernel": p["c3"]["kernel"][..., place : place + len(seen)][..., None]}
        maps.append(conv(part, x[..., seen], (1, 1), ((0, 0),) * 2))
        place += len(seen)
    x = subsample(p["s4"], squash(np.concatenate(maps, -1) + p["c3"]["bias"]))
    x = squash(dense(p["c5"], x.reshape(len(x), -1)))
    x = squash(dense(p["f6"], x))
    codes = np.random.default_rng(1998).choice([-1.0, 1.0], (7, 84))
    return -(distances(x, codes) ** 2)


def lenet5_maps():
    """Table I of the paper: three in a row, four in a row, two and two, all."""
    rows = [[(i + k) % 6 for k in range(3)] for i in range(6)]
    rows += [[(i + k) % 6 for k in range(4)] for i in range(6)]
    rows += [[(i + k) % 6 for k in (0, 1, 3, 4)] for i in range(3)]
    return [sorted(row) for row in rows] + [list(range(6))]


def yolo(p, s, x, train):
    x = conv(p["conv"], x, (2, 2), sames(x, (3, 3), (2, 2)))
    x = conv(p["head_1"], x, (1, 1), sames(x, (3, 3), (1, 1)))
    x = batch_norm(p["norm_1"], s["norm_1"], x, train)
    return sigmoid(conv(p["output"], np.where(x > 0, x, 0.1 * x), (1, 1), ((0, 0),) * 2))


def rnnsearch(p, source, lengths, target, attends=True, maxout=True):
    """(logits, weights of the attention or None)."""
    e = p["encoder"]
    source = np.asarray(source)
    target = np.asarray(target)
    read, x = e["bidirectional"], e["embedding"]["embedding"][source]
    there, end = over_time(gru_step, read["forward"], x, lengths)
    back, begin = over_time(gru_step, read["backward"], backwards(x, lengths), lengths)
    memory = np.concatenate([there, backwards(back, lengths)], -1)
    s = np.tanh(dense(e["start"], begin))
    logits = []
    all_weights = []
    for y in np.moveaxis(p["target"]["embedding"]["embedding"][target], 1, 0):
        context = np.concatenate([end, begin], -1)
        if attends:
            both = p["decoder"]["attention"] | {"key": e["keys"]}
            context, weights = additive(both, s, memory, lengths)
            all_weights.append(weights)
        s = gru_step(p["decoder"]["gru"], s, np.concatenate([y, context], -1))
        t = dense(p["readout"]["hidden"], np.concatenate([s, y, context], -1))
        t = np.maximum(t[:, ::2], t[:, 1::2]) if maxout else np.tanh(t)
        logits.append(dense(p["readout"]["output"], t))
    return np.stack(logits, 1), np.stack(all_weights, 1) if attends else None


def stateless(compute: Value) -> Value:
    return lambda p, s, x, train: compute(p, x)


def of_input(compute: Value) -> Value:
    return lambda p, s, x, train: compute(x)


def split_lengths(compute: Value) -> Value:
    """For an input (x, lengths): the lengths are passed on."""
    return lambda p, s, x, train: (compute(p, *x), x[1])


def sames(x, window, strides, dilation=1):
    return [same(n, k, s, dilation) for n, k, s in zip(x.shape[1:-1], window, strides, strict=True)]


VALUES: dict[str, Value] = {
    "stateless": stateless(lambda p, x: p["w"] * x),
    "compose": stateless(lambda p, x: dense(p["dense"], x) * np.tanh(dense(p["dense_1"], x))),
    "serial": stateless(lambda p, x: dense(p["dense_1"], np.tanh(dense(p["dense"], x)))),
    "parallel": stateless(lambda p, x: (dense(p["dense"], x), dense(p["dense_1"], x))),
    "parallel-tuple": stateless(lambda p, x: (dense(p["dense"], x[0]), np.tanh(x[1]))),
    "mapped": stateless(lambda p, x: dense(p, x)),
    "residual": stateless(lambda p, x: x + dense(p["dense"], x)),
    "residual-shortcut": stateless(lambda p, x: dense(p["dense"], x) + dense(p["dense_1"], x)),
    "dense": stateless(dense),
    "dense-no-bias": stateless(dense),
    "conv": stateless(lambda p, x: conv(p, x, (1, 1), sames(x, (3, 3), (1, 1)))),
    "conv-strided": stateless(lambda p, x: conv(p, x, (2, 3), ((1, 1), (1, 1)))),
    "conv-grouped": stateless(
        lambda p, x: conv(p, x, (1, 1), sames(x, (3, 3), (1, 1), 2), 2, groups=3)
    ),
    "conv-signal": stateless(lambda p, x: conv(p, x, (1,), ((2, 0),))),
    "conv-video": stateless(lambda p, x: conv(p, x, (1, 1, 1), ((0, 0),) * 3)),
    "depthwise_conv": stateless(
        lambda p, x: conv(p, x, (2, 2), sames(x, (3, 3), (2, 2)), groups=3)
    ),
    # "SAME" keeps inputs * strides outputs: of window + strides - 2 zeros one more is before.
    "conv_transpose": stateless(lambda p, x: conv_transpose(p, x, 2, ((2, 1), (2, 1)))),
    "conv_transpose-grouped": stateless(
        lambda p, x: conv_transpose(p, x, 2, ((2, 1), (2, 1)), groups=3)
    ),
    # Explicit padding is that of the convolution that is transposed: window - 1 - padding zeros.
    "conv_transpose-padded": stateless(lambda p, x: conv_transpose(p, x, 2, ((2, 2), (2, 2)))),
    "max_pool": of_input(lambda x: pool(np.max, x, (2, 2), (2, 2))),
    "max_pool-overlap": of_input(
        lambda x: pool(np.max, x, (3, 3), (2, 2), sames(x, (3, 3), (2, 2)), fill=-np.inf)
    ),
    "max_pool-dilated": of_input(lambda x: pool(np.max, x, (2, 2), (1, 1), dilation=3)),
    "adaptive_avg_pool": of_input(lambda x: adaptive(np.mean, x, 3, 7)),
    "avg_pool": of_input(lambda x: pool(np.mean, x, (3, 2), (3, 2))),
    "avg_pool-uncounted": of_input(
        lambda x: pool(np.nanmean, x, (3, 3), (3, 3), ((1, 1), (1, 1)), fill=np.nan)
    ),
    "lp_pool": of_input(
        lambda x: pool(lambda a, axis: (abs(a) ** 3).sum(axis) ** (1 / 3), x, (2, 2), (1, 1))
    ),
    "l2_pool_channels": of_input(
        lambda x: np.sqrt(np.square(x.reshape(*x.shape[:-1], -1, 3)).sum(-1))
    ),
    "global_max_pool": of_input(lambda x: x.max((1, 2))),
    "global_avg_pool": of_input(lambda x: x.mean((1, 2))),
    "locally_connected": stateless(lambda p, x: locally_connected(p, x, (3, 3), (2, 2))),
    "locally_connected-signal": stateless(lambda p, x: locally_connected(p, x, (3,), (1,))),
    "local_response_norm": of_input(lambda x: response_norm(x, 2, 0.5)),
    "resize-repeated": of_input(lambda x: np.repeat(np.repeat(x, 2, 1), 3, 2)),
    "resize-doubled": of_input(lambda x: resize(x, (16, 12), linear)),
    "resize": of_input(lambda x: resize(x, (5, 9), cubic)),
    "resize-nearest": of_input(lambda x: nearest(x, 0.7, 1.5)),
    "batch_norm": batch_norm,
    "batch_norm-plain": batch_norm,
    "layer_norm": stateless(layer_norm),
    "rms_norm": stateless(rms_norm),
    "group_norm": stateless(partial(group_norm, groups=3)),
    "instance_norm": stateless(lambda p, x: affine(p, normalized(x, (1, 2), 1e-6))),
    "weight_norm": stateless(lambda p, x: dense(unnormed(p), x)),
    "weight_norm-composed": lambda p, s, x, train: dense(
        unnormed(p["dense_1"]),
        batch_norm(p["batch_norm"], s["batch_norm"], dense(unnormed(p["dense"]), x), train),
    ),
    "spectral_norm": spectral,
    "lora": stateless(lambda p, x: dense(adapted(p), x)),
    "lora-attention": stateless(
        lambda p, x: attention(
            p | {part: adapted(p[part], 0.5) for part in ("query", "value")}, x, x
        )[0]
    ),
    "quantized": stateless(
        lambda p, x: dense(p | {"kernel": p["kernel"]["int8"] * p["kernel"]["scale"]}, x)
    ),
    "quantized-4": stateless(
        lambda p, x: dense(p | {"kernel": from_nibbles(p["kernel"], 7, 2)}, x)
    ),
    "quantized-aware": stateless(lambda p, x: dense(p | {"kernel": rounded(p["kernel"], 127)}, x)),
    "embedding": stateless(lambda p, x: p["embedding"][np.asarray(x)]),
    "embedding-tied": stateless(lambda p, x: x @ p["embedding"].T),
    "learned_positions": stateless(lambda p, x: x + p["embedding"][: x.shape[1]]),
    "learned_positions-given": stateless(lambda p, x: x[0] + p["embedding"][np.asarray(x[1])]),
    "sinusoidal_positions": of_input(sinusoidal),
    "additive_attention": stateless(lambda p, x: additive(p, **x)),
    "additive_attention-one": stateless(lambda p, x: additive(p, **x)[0]),
    "multi_head_attention": stateless(
        lambda p, x: attention(p, x, x, near(5, 5, 0), turn=rotary)[0]
    ),
    "multi_head_attention-window": stateless(
        lambda p, x: attention(
            p, x[0], x[0], near(5, 1, 2), x[1], partial(rotary, size=2, interleaved=True), 3.0
        )[0]
    ),
    "multi_head_attention-cross": stateless(
        lambda p, x: attention(p, x["x"], x["memory"], np.asarray(x["mask"])[:, None])
    ),
    "multi_head_attention-sinks": stateless(
        lambda p, given: attention(p, given[0], given[0], until(given[1], 5) & near(5, 2, 0))[0]
    ),
    "multi_head_attention-normed": stateless(
        lambda p, x: attention(p, x, x, near(5, 5, 0), turn=rotary)[0]
    ),
    "transformer_block": stateless(
        lambda p, given: block(
            p,
            given[0],
            lambda y: attention(p["attention"], y, y, until(given[1], 5), turn=rotary)[0],
        )
    ),
    "transformer_block-post": stateless(
        lambda p, x: block(p, x, lambda y: attention(p["attention"], y, y)[0], norm_first=False)
    ),
    "transformer_block-both": stateless(lambda p, x: block_with_norms_around(p, x, 0.3, 0.7)),
    "transformer_block-decoder": stateless(lambda p, x: decoder_block(p, **x)),
    "moe": stateless(lambda p, x: mixture(p, x, 2, dense)),
    "moe-lengths": stateless(lambda p, x: mixture(p, x[0], 1, dense, x[1])),
    "rnn": stateless(partial(sequence, rnn_step, False)),
    "rnn_cell": stateless(partial(one_step, rnn_step, False)),
    "lstm": stateless(partial(sequence, lstm_step, True)),
    "lstm-lengths": stateless(partial(sequence, lstm_step, True)),
    "lstm-states": stateless(partial(sequence, lstm_step, True)),
    "lstm_cell": stateless(partial(one_step, lstm_step, True)),
    "gru": stateless(partial(sequence, gru_step, False)),
    "gru-states": stateless(partial(sequence, gru_step, False)),
    "gru-reset": stateless(partial(sequence, gru_before_step, False)),
    "gru_cell": stateless(partial(one_step, gru_step, False)),
    "recurrent": stateless(partial(sequence, gru_step, False)),
    "bidirectional": split_lengths(lambda p, *x: np.concatenate(both_ways(p, *x), -1)),
    "stack_rnn": stateless(stack),
    "time_distributed": split_lengths(
        lambda p, x, lengths: np.where(until(lengths, 6)[:, 0, 0, :, None], dense(p, x), 0)
    ),
    "last_step": of_input(
        lambda x: np.stack([a[max(n, 1) - 1] for a, n in zip(x[0], np.asarray(x[1]), strict=True)])
    ),
    "flatten": of_input(lambda x: x.reshape(len(x), -1)),
    "polynomial": of_input(lambda x: polynomial(x, 3)),
    "rbf": stateless(lambda p, x: np.exp(-(distances(x, p["centers"]) ** 2) / 2 / p["width"] ** 2)),
    "random_fourier": stateless(lambda p, x: math.sqrt(2 / 5) * np.cos(dense(p, x))),
    "mlp": stateless(
        lambda p, x: dense(p["output"], np.tanh(dense(p["dense"], x.reshape(len(x), -1))))
    ),
    "autoencoder": stateless(
        lambda p, x: dense(
            p["decoder"]["output"],
            np.tanh(dense(p["decoder"]["dense"], np.tanh(dense(p["encoder"]["dense"], x)))),
        )
    ),
    "perceptron": stateless(lambda p, x: (dense(p, x) > 0) * 1.0),
    "adaline": stateless(dense),
    "lenet5": stateless(lenet5),
    "lenet5_1998": stateless(lenet5_1998),
    "yolo": yolo,
    "rnnsearch": stateless(lambda p, x: rnnsearch(p, *x)[0]),
    "hmm": stateless(lambda p, x: hmm_of_gaussians(p, *x)),
    "hmm of symbols": stateless(hmm_of_symbols),
    "rbm": stateless(lambda p, x: sigmoid(dense(p, x))),
}
