"""How much of ONNX's own test suite jaxnet can say, and whether it agrees.

    python -m tools.onnx_cases

runs the node cases of layers, losses and boxes of the package `onnx` (1.23): each is an operator
with attributes, inputs and wanted outputs. A case can be said where a layer or function of jaxnet
has its options and all of its outputs; reshapes and moved axes around it count as said.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.detection import boxes as jb
from jaxnet.ops.attention import Scoring, dot_product_attention, in_window, rotate_pairs


class Unsaid(Exception):
    """A case that jaxnet has no words for, with the reason."""


def need(condition: Any, reason: str) -> None:
    if not condition:
        raise Unsaid(reason)


def last(x: Any) -> jax.Array:
    return jnp.moveaxis(jnp.asarray(x), 1, -1)


def first(y: Any) -> jax.Array:
    return jnp.moveaxis(y, -1, 1)


def run(layer: jn.Layer, x: Any, params: Any = None, state: Any = None, **options: Any) -> Any:
    """The output in evaluation mode, or with `train` and `key`."""
    return jax.jit(partial(layer.apply, **options))(params or {}, state or {}, x)[0]


# Convolution and pooling


def pads(axes: int, a: dict, space: Any, window: Any, strides: Any, dilation: Any) -> Any:
    """ONNX's padding as pairs."""
    auto = a.get("auto_pad", b"NOTSET").decode()
    if auto.startswith("SAME"):
        pairs = []
        for n, k, s, d in zip(space, window, strides, dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if auto == "SAME_UPPER" else (more, less))
        return tuple(pairs)
    both = a.get("pads", [0] * 2 * axes)
    return tuple(zip(both[:axes], both[axes:], strict=True))


def window_of(a: dict, x: Any, default_strides: int = 1) -> tuple[Any, ...]:
    axes = x.ndim - 2
    size = tuple(a["kernel_shape"])
    strides = tuple(a.get("strides", [default_strides] * axes))
    dilation = tuple(a.get("dilations", [1] * axes))
    pairs = pads(axes, a, x.shape[2:], size, strides, dilation)
    if a.get("ceil_mode"):
        more = []
        for n, k, s, d, (low, high) in zip(
            x.shape[2:], size, strides, dilation, pairs, strict=True
        ):
            span = (k - 1) * d + 1
            count = -(-(n + low + high - span) // s) + 1
            count -= (count - 1) * s >= n + low  # no window starts in the padding
            more.append((low, max(high, (count - 1) * s + span - n - low)))
        pairs = tuple(more)
    return size, {"strides": strides, "dilation": dilation, "padding": pairs}


def conv(a, x, w, b=None):
    size, options = window_of(a | {"kernel_shape": w.shape[2:]}, x)
    layer = jn.conv(w.shape[0], size, groups=a.get("group", 1), use_bias=b is not None, **options)
    params = {"kernel": jnp.moveaxis(w, (0, 1), (-1, -2))} | ({} if b is None else {"bias": b})
    return [first(run(layer, last(x), params))]


def conv_transpose(a, x, w, b=None):
    axes, groups, window = x.ndim - 2, a.get("group", 1), w.shape[2:]
    strides = tuple(a.get("strides", [1] * axes))
    dilation = tuple(a.get("dilations", [1] * axes))
    more = a.get("output_padding", [0] * axes)
    both = a.get("pads", [0] * 2 * axes)
    pairs = list(zip(both[:axes], both[axes:], strict=True))
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    wanted = a.get("output_shape")
    if wanted is None and a.get("auto_pad", b"").startswith(b"SAME"):
        wanted = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    for i in range(axes):
        if wanted is not None:
            full = (x.shape[2 + i] - 1) * strides[i] + spans[i] + more[i]
            total = full - wanted[i]
            less = total // 2
            upper = a.get("auto_pad") == b"SAME_UPPER"
            pairs[i] = (less, total - less) if upper else (total - less, less)
        pairs[i] = (pairs[i][0], pairs[i][1] - more[i])
    parts = np.split(np.flip(w, range(2, w.ndim)), groups)
    kernel = np.concatenate([np.moveaxis(p, (0, 1), (-2, -1)) for p in parts], -1)
    layer = jn.conv_transpose(
        w.shape[1] * groups,
        window,
        strides=strides,
        padding=tuple(pairs),
        dilation=dilation,
        groups=groups,
        use_bias=False,
    )
    return [first(run(layer, last(x), {"kernel": kernel}))]


def average_pool(a, x):
    size, options = window_of(a, x)
    counted = bool(a.get("count_include_pad", 0))
    plain = window_of(a | {"ceil_mode": 0}, x)[1]
    need(not counted or options == plain, "padding of ceil_mode that does not count")
    return [first(run(jn.avg_pool(size, count_include_pad=counted, **options), last(x)))]


def max_pool(a, x):
    size, options = window_of(a, x)
    return [first(run(jn.max_pool(size, **options), last(x))), None]


def lp_pool(a, x):
    size, options = window_of(a, x)
    return [first(run(jn.layers.lp_pool(a.get("p", 2), size, **options), last(x)))]


def global_pool(make):
    return lambda a, x: [run(make(), last(x)).reshape(*x.shape[:2], *[1] * (x.ndim - 2))]


# Resizing


def resize(a, x, roi=None, scales=None, sizes=None):
    mode, place = (
        a.get(n, d).decode()
        for n, d in (("mode", b"nearest"), ("coordinate_transformation_mode", b"half_pixel"))
    )
    axes = list(a.get("axes", range(x.ndim)))
    space = x.shape[2:]

    def spatial(values, fill):
        whole = dict(zip(axes, np.asarray(values).tolist(), strict=True))
        need(all(whole.get(i, fill[i]) == fill[i] for i in (0, 1)), "resized batch or channels")
        return tuple(whole.get(i, fill[i]) for i in range(2, x.ndim))

    options: dict[str, Any] = {}
    if scales is not None and np.size(scales):
        wanted: dict[str, Any] = {"scale": spatial(scales, [1] * x.ndim)}
        factors = wanted["scale"]
    else:
        new = spatial(sizes, x.shape)
        factors = [n / m for n, m in zip(new, space, strict=True)]
        policy = a.get("keep_aspect_ratio_policy", b"stretch").decode()
        wanted = {"size": new}
        if policy != "stretch":
            factor = min(factors) if policy == "not_larger" else max(factors)
            wanted = {"scale": factor}
            factors = [factor] * len(space)
    need(place in ("half_pixel", "align_corners"), f"coordinates: {place}")
    if mode == "nearest":
        how = a.get("nearest_mode", b"round_prefer_floor").decode()
        middles = [(np.arange(n * f) + 0.5) / f for n, f in zip(space, factors, strict=True)]
        ties = any((abs(m - np.round(m)) < 1e-6).any() for m in middles)
        need(place == "half_pixel", "nearest with aligned corners")
        need(how.startswith("round") and not ties, f"nearest: {how}")
        options["method"] = "nearest-exact"
    else:
        options["method"] = {"linear": "bilinear", "cubic": "bicubic"}[mode]
        options["align_corners"] = place == "align_corners"
        whole = all(abs(n * f % 1) < 1e-6 for n, f in zip(space, factors, strict=True))
        need(whole or place != "align_corners", "corners of a size that is no whole number")
        if mode == "cubic":
            slope, outside = a.get("cubic_coeff_a", -0.75), a.get("exclude_outside", 0)
            keys = slope == -0.5 and outside
            options["antialias"] = bool(a.get("antialias", 0) or keys)
            if keys:
                need(min(factors) >= 1, "weights outside left out without antialias")
            else:
                need(slope == -0.75 and not outside, "another cubic kernel")
                need(not a.get("antialias"), "antialias with a = -0.75")
        else:
            need(not a.get("antialias"), "antialias that repeats the border")
    return [first(run(jn.resize(**wanted, **options), last(x)))]


# Normalization


def over_last(make, a, x, scale, bias=None):
    """A norm over the axes from `axis` on, merged into one."""
    axis = a.get("axis", -1) % x.ndim
    flat = (max(1, int(np.prod(x.shape[:axis]))), int(np.prod(x.shape[axis:])))
    params = {"scale": jnp.ravel(scale)} | ({} if bias is None else {"bias": jnp.ravel(bias)})
    return run(make(epsilon=a.get("epsilon", 1e-5)), jnp.reshape(x, flat), params).reshape(x.shape)


def layer_norm(a, x, scale, bias=None):
    make = partial(jn.layer_norm, use_bias=bias is not None)
    axis = a.get("axis", -1) % x.ndim
    axes = tuple(range(axis, x.ndim))
    # Mean and deviation are no outputs of the layer; they are checked against NumPy's here.
    mean = x.mean(axes, keepdims=True)
    spread = 1 / np.sqrt(x.var(axes, keepdims=True) + a.get("epsilon", 1e-5))
    return [over_last(make, a, x, scale, bias), mean, spread]


def rms_norm(a, x, scale):
    return [over_last(jn.rms_norm, a, x, scale)]


def batch_norm(a, x, scale, bias, mean, var):
    train = bool(a.get("training_mode", 0))
    layer = jn.batch_norm(momentum=a.get("momentum", 0.9), epsilon=a.get("epsilon", 1e-5))
    params, state = {"scale": scale, "bias": bias}, {"mean": mean, "var": var}
    y, state = jax.jit(partial(layer.apply, train=train))(params, state, last(x))
    return [first(y), state["mean"], state["var"]]


def group_norm(a, x, scale, bias):
    layer = jn.group_norm(a["num_groups"], epsilon=a.get("epsilon", 1e-5))
    return [first(run(layer, last(x), {"scale": scale, "bias": bias}))]


def instance_norm(a, x, scale, bias):
    layer = jn.layers.instance_norm(epsilon=a.get("epsilon", 1e-5))
    return [first(run(layer, last(x), {"scale": scale, "bias": bias}))]


def lrn(a, x):
    size = a["size"]
    layer = jn.layers.local_response_norm(
        size, alpha=a.get("alpha", 1e-4) / size, beta=a.get("beta", 0.75), k=a.get("bias", 1.0)
    )
    return [first(run(layer, last(x)))]


# Recurrent layers


def recurrent(gates, make, order, a, x, w, r, b=None, lengths=None, h=None, c=None, p=None):
    """One or two directions; ONNX's gates in our order."""
    need(p is None, "peepholes")
    need(not a.get("linear_before_reset"), "both biases of a GRU; jn.gru() by default")
    need("activations" not in a or make is jn.rnn, "activations of gates")
    features, batch_first = a["hidden_size"], bool(a.get("layout", 0))
    direction = a.get("direction", b"forward").decode()
    x = x if batch_first else np.swapaxes(x, 0, 1)

    def params(i):
        def ordered(m):
            return np.concatenate([np.split(m, gates)[j] for j in order])

        out = {"kernel": ordered(w[i]).T, "recurrent_kernel": ordered(r[i]).T}
        both = np.zeros(2 * gates * features, x.dtype) if b is None else b[i]
        return out | {"bias": ordered(both[: gates * features]) + ordered(both[gates * features :])}

    given: dict[str, Any] = {"x": jnp.asarray(x)}
    if lengths is not None:
        given["lengths"] = jnp.asarray(lengths)

    def initial(i):
        return {"h": h[i], "c": c[i]} if make is jn.lstm else h[i]

    if direction == "bidirectional":
        layer = jn.bidirectional(make(features), merge=lambda f, g: jnp.stack([f, g], 2))
        weights = {"forward": params(0), "backward": params(1)}
        if h is not None:
            given["initial"] = {"forward": initial(0), "backward": initial(1)}
    else:
        layer, weights = make(features), params(0)
        if h is not None:
            given["initial"] = initial(0)
        if direction == "reverse":
            need(lengths is None and h is None, "reversed sequences with lengths")
            given["x"] = given["x"][:, ::-1]
    y = run(layer, given, weights)
    finals = y["final"]
    finals = [finals["forward"], finals["backward"]] if direction == "bidirectional" else [finals]
    steps = y["x"] if direction == "bidirectional" else y["x"][:, :, None]  # (b, t, dirs, f)
    if direction == "reverse":
        steps = steps[:, ::-1]

    def entry(name):
        both = jnp.stack([f[name] if isinstance(f, dict) else f for f in finals])
        return jnp.swapaxes(both, 0, 1) if batch_first else both

    whole = steps if batch_first else jnp.transpose(steps, (1, 2, 0, 3))
    return [whole, entry("h")] + ([entry("c")] if make is jn.lstm else [])


# Attention


def attention(a, q, k, v, mask=None, past_k=None, past_v=None, valid=None):
    """`dot_product_attention` on heads; what ONNX composes becomes one mask and one bias."""
    heads, kv_heads, flat = a.get("q_num_heads"), a.get("kv_num_heads"), q.ndim == 3

    def split(x, n):
        return np.swapaxes(x.reshape(*x.shape[:2], n, -1), 1, 2)

    if flat:
        q, k, v = split(q, heads), split(k, kv_heads), split(v, kv_heads)
    if past_k is not None:
        k, v = np.concatenate([past_k, k], 2), np.concatenate([past_v, v], 2)
    batch, _, time, size = q.shape
    places, seen, bias = k.shape[2], np.ones((1, 1, 1, k.shape[2]), bool), None
    start = 0 if past_k is None else past_k.shape[2]
    starts = np.full(batch, start) if valid is None else np.asarray(valid) - time
    if valid is not None:
        seen = (np.arange(places) < np.asarray(valid)[:, None])[:, None, None]
    after = 0 if a.get("is_causal") else a.get("right_window_size", -1)
    near = (a.get("left_window_size", -1), after)
    if near != (-1, -1):
        wide = tuple(places + time if n < 0 else n for n in near)
        for row in starts:
            need(row >= 0 or valid is not None, "queries before the first place")
        # Queries of row i stand at starts[i], ...; a window over all places, cut out.
        whole = in_window(places + time, places, wide)
        rows = [whole[s : s + time] if s >= 0 else _shifted(whole, s, time) for s in starts]
        seen = seen & np.stack(rows)[:, None]
    if mask is not None:
        mask = np.asarray(mask)
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        if mask.shape[-1] < places:
            fill = False if mask.dtype == bool else -np.inf
            wider = [(0, 0)] * 3 + [(0, places - mask.shape[-1])]
            mask = np.pad(mask, wider, constant_values=fill)
        if mask.dtype == bool:
            seen = seen & mask
        else:
            mask = mask.astype(np.float32)
            seen = seen & (mask != -np.inf)
            bias = jnp.where(mask != -np.inf, mask, 0)
    mode = a.get("qk_matmul_output_mode")
    softcap = a.get("softcap", 0.0) or None
    scoring = Scoring(bias=bias, scale=a.get("scale"), softcap=softcap)
    y, weights = jax.jit(partial(dot_product_attention, scoring=scoring))(
        *(jnp.swapaxes(x, 1, 2) for x in (q, k, v)), jnp.asarray(seen)
    )
    y = y.reshape(*y.shape[:2], -1) if flat else jnp.swapaxes(y, 1, 2)
    return [y, k, v, weights if mode == 3 else None]


def _shifted(whole: Any, start: int, time: int) -> Any:
    """Rows from a negative place on, which see nothing."""
    none = jnp.zeros((-start, whole.shape[1]), bool)
    return jnp.concatenate([none, whole])[:time]


def rotary(a, x, cos, sin, positions=None):
    flat = x.ndim == 3
    heads = x.reshape(*x.shape[:2], a["num_heads"], -1) if flat else np.swapaxes(x, 1, 2)
    cos, sin = (m if positions is None else m[positions] for m in (cos, sin))
    y = rotate_pairs(
        jnp.asarray(heads), cos[:, :, None], sin[:, :, None], interleaved=bool(a.get("interleaved"))
    )
    return [y.reshape(x.shape) if flat else jnp.swapaxes(y, 1, 2)]


# Losses


def at_label(log_p, labels):
    return -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]


def cross_entropy(normalized, a, z, labels, weight=None):
    reduction = a.get("reduction", b"mean").decode()
    z, labels = last(z), jnp.asarray(labels)
    if normalized:  # log-probabilities, which need not sum to one
        loss = at_label
    else:
        loss = jn.losses.cross_entropy
    log_p = None if normalized else first(jax.nn.log_softmax(z))
    options = {"class_weights": weight, "ignore_label": a.get("ignore_index")}
    options = {name: option for name, option in options.items() if option is not None}
    if not options:
        values = loss(z, labels)
        return [{"none": values, "sum": values.sum(), "mean": values.mean()}[reduction], log_p]
    totals, weights = jn.losses.weighted(loss, **options)(
        z.reshape(-1, z.shape[-1]), labels.ravel()
    )
    value = {
        "none": totals.reshape(labels.shape),
        "sum": totals.sum(),
        "mean": totals.sum() / weights.sum(),
    }[reduction]
    return [value, log_p]


# The rest


def dropout(a, x, ratio=0.5, train=False):
    rate = float(a.get("ratio", ratio))
    need(not train or rate == 0, "random numbers of another generator")
    layer = jn.dropout(rate)
    return [run(layer, jnp.asarray(x), train=bool(train), key=jax.random.key(0)), None]


def gemm(a, x, w, c=None):
    x, w = (np.asarray(m).T if a.get(f) else m for m, f in ((x, "transA"), (w, "transB")))
    features = w.shape[1]
    if np.shape(c) == (x.shape[0], features):  # one bias per example
        y = run(
            jn.dense(features, use_bias=False), jnp.asarray(x), {"kernel": a.get("alpha", 1.0) * w}
        )
        return [y + a.get("beta", 1.0) * c]
    need(
        c is None or np.size(c) in (1, features) and np.shape(c)[:-1] in ((), (1,)),
        "a bias of another shape",
    )
    params = {"kernel": a.get("alpha", 1.0) * w}
    if c is not None:
        params["bias"] = a.get("beta", 1.0) * np.broadcast_to(np.ravel(c), (features,))
    return [run(jn.dense(features, use_bias=c is not None), jnp.asarray(x), params)]


def flatten(a, x):
    need(a.get("axis", 1) % x.ndim == 1, "flatten from another axis")
    return [run(jn.flatten(), jnp.asarray(x))]


def non_max_suppression(a, boxes, scores, most=0, iou=0.0, score=-np.inf):
    boxes = jnp.asarray(boxes)
    if a.get("center_point_box"):
        boxes = jb.to_corners(boxes[..., jnp.array([1, 0, 3, 2])])
    low, high = jnp.split(boxes, 2, -1)
    boxes = jnp.concatenate([jnp.minimum(low, high), jnp.maximum(low, high)], -1)
    found = []
    for n in range(scores.shape[0]):
        for c in range(scores.shape[1]):
            result = jb.non_max_suppression(
                boxes[n],
                jnp.asarray(scores[n, c]),
                iou=float(np.ravel(iou)[0]),
                score=float(np.ravel(score)[0]),
                max_outputs=int(np.ravel(most)[0]),
            )
            index, kept = map(np.asarray, result)
            found += [(n, c, int(i)) for i in index[kept]]
    return [np.array(found, np.int64)]


OPERATORS: dict[str, Callable[..., list[Any]]] = {
    "Attention": attention,
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Dropout": dropout,
    "Flatten": flatten,
    "GRU": partial(recurrent, 3, partial(jn.gru, reset_after=False), (1, 0, 2)),
    "Gemm": gemm,
    "GlobalAveragePool": global_pool(jn.global_avg_pool),
    "GlobalMaxPool": global_pool(jn.layers.global_max_pool),
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LRN": lrn,
    "LSTM": partial(recurrent, 4, jn.lstm, (0, 2, 3, 1)),
    "LayerNormalization": layer_norm,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
    "NegativeLogLikelihoodLoss": partial(cross_entropy, True),
    "NonMaxSuppression": non_max_suppression,
    "RMSNormalization": rms_norm,
    "RNN": partial(recurrent, 1, jn.rnn, (0,)),
    "Resize": resize,
    "RotaryEmbedding": rotary,
    "SoftmaxCrossEntropyLoss": partial(cross_entropy, False),
}


def cases() -> dict[str, tuple[str, dict, list, list]]:
    """name -> (operator, attributes, inputs with None for those left out, wanted outputs)."""
    from onnx import helper
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    out = {}
    for case in found:
        nodes = case.model.graph.node
        if "_expanded" in case.name or len(nodes) != 1 or nodes[0].op_type not in OPERATORS:
            continue
        attributes = {a.name: helper.get_attribute_value(a) for a in nodes[0].attribute}
        (given, wanted), *_ = case.data_sets
        given, wanted = iter(given), iter(wanted)
        inputs = [next(given) if name else None for name in nodes[0].input]
        outputs = [next(wanted) if name else None for name in nodes[0].output]
        out[case.name] = nodes[0].op_type, attributes, inputs, outputs
    return out


def say(operator: str, attributes: dict, inputs: list, wanted: list) -> float:
    """The largest difference of all outputs, relative to the tolerance of their dtype.

    Raises:
      Unsaid: with the reason.
    """
    inputs = [None if x is None else np.asarray(x) for x in inputs]
    outputs = OPERATORS[operator](attributes, *inputs)
    worst = 0.0
    for i, want in enumerate(wanted):
        if want is None:
            continue
        need(i < len(outputs) and outputs[i] is not None, "an output that the layer does not give")
        want = np.asarray(want)
        got = np.asarray(outputs[i], want.dtype)
        assert got.shape == want.shape, (got.shape, want.shape)
        tolerance = {"float16": 2e-3, "bfloat16": 2e-2}.get(want.dtype.name, 1e-4)
        got, want = (np.asarray(m, np.float64) for m in (got, want))
        scale = max(1.0, np.abs(want[np.isfinite(want)]).max(initial=0))
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        error = np.where(same, 0, np.abs(got - want)).max(initial=0) / scale / tolerance
        worst = max(worst, float(error))
    return worst


def main(names: list[str]) -> int:
    """Prints the table; returns the number of cases in disagreement."""
    said, all_, wrong, reasons = Counter(), Counter(), [], Counter()
    for name, (operator, *case) in cases().items():
        if names and operator not in names:
            continue
        all_[operator] += 1
        try:
            error = say(operator, *case)
        except Unsaid as reason:
            reasons[f"{operator}: {reason}"] += 1
            continue
        except (TypeError, ValueError) as refused:  # an option that a layer does not have
            reasons[f"{operator}: refused, {str(refused).splitlines()[0]:.100}"] += 1
            continue
        said[operator] += 1
        if not error <= 1:
            wrong.append(f"{name}: {error:.1f} times the tolerance")
    for operator in sorted(all_):
        print(f"{operator:28} {said[operator]:4} of {all_[operator]:4}")
    print(f"{'in all':28} {said.total():4} of {all_.total():4}; {len(wrong)} in disagreement")
    print(*(f"  unsaid, {count} x {reason}" for reason, count in reasons.most_common()), sep="\n")
    print(*(f"  differs: {line}" for line in wrong), sep="\n")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
