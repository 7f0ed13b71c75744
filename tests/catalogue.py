"""One row per layer and model: the laws in test_laws.py run on them.

A new layer adds one row here. Sizes all differ, so that a swapped axis shows.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import Layer, spec
from jaxnet.ops.product import broadcast


class Row(NamedTuple):
    """A layer and what is special about it.

    id: shown by pytest; begins with the name of the public function that it covers.
    make: builds the layer.
    x: specs of an input; a float leaf is filled with well separated values of both signs.
    high: integer leaves are drawn from [0, high).
    train: "same" as evaluation, "differs" (running statistics), or "random" (needs a key).
    smooth: False where no gradient is to be checked (rounding, sampling).
    rows: whether the examples of a batch are independent in evaluation.
    batch_axis: False where leaves have no common batch axis to cut (then rows is not tested).
    """

    id: str
    make: Callable[[], Layer]
    x: Any
    high: int = 3
    train: str = "same"
    smooth: bool = True
    rows: bool = True


def fill(row: Row, dtype: Any = jnp.float32) -> Any:
    """An input for the row: floats of this dtype, no two equal and none near 0.

    Drawn in NumPy, which compiles nothing.
    """
    leaves, tree = jax.tree.flatten(row.x)
    filled = []
    for i, leaf in enumerate(leaves):
        rng = np.random.default_rng(17 + i)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            n = max(leaf.size, 2)
            steps = (np.arange(leaf.size) - (n - 1) / 2 + 0.25) * (3.0 / n)
            filled.append(jnp.asarray(rng.permutation(steps).reshape(leaf.shape), dtype))
        elif leaf.dtype == jnp.bool_:
            mask = rng.random(leaf.shape) < 0.7
            mask[..., 0] = True
            filled.append(jnp.asarray(mask))
        else:
            filled.append(jnp.asarray(rng.integers(0, row.high, leaf.shape), leaf.dtype))
    return jax.tree.unflatten(tree, filled)


IMAGE = spec((2, 8, 6, 3))
LENGTHS = (spec((3, 6, 5)), spec((3,), jnp.int32))  # (x, lengths) of sequences

ROWS = [
    # core
    Row(
        "stateless",
        lambda: jn.stateless(
            lambda key, x: {"w": jax.random.normal(key, x.shape[1:])},
            lambda p, x: broadcast(p["w"], x.shape) * x,
            "w",
        ),
        spec((3, 4)),
    ),
    Row(
        "compose",
        lambda: jn.compose(
            lambda m, x: m(jn.dense(4), x) * m(jnp.tanh, m(jn.dense(4), x)), name="gate"
        ),
        spec((3, 5)),
    ),
    Row("serial", lambda: jn.serial(jn.dense(7), jnp.tanh, jn.dense(4)), spec((3, 5))),
    Row("parallel", lambda: jn.parallel(jn.dense(7), jn.dense(4)), spec((3, 5))),
    Row("parallel-tuple", lambda: jn.parallel(jn.dense(7), jnp.tanh), (spec((3, 5)), spec((3, 2)))),
    Row("residual", lambda: jn.residual(jn.dense(5)), spec((3, 5))),
    Row("residual-shortcut", lambda: jn.residual(jn.dense(4), jn.dense(4)), spec((3, 5))),
    # layers
    Row("dense", lambda: jn.dense(4), spec((3, 5))),
    Row("dense-no-bias", lambda: jn.dense(4, use_bias=False), spec((2, 3, 5))),
    Row("conv", lambda: jn.conv(4, 3), IMAGE),
    Row("conv-strided", lambda: jn.conv(4, (5, 2), strides=(2, 3), padding=1), IMAGE),
    Row("conv-grouped", lambda: jn.conv(6, 3, groups=3, dilation=2, use_bias=False), IMAGE),
    Row("conv-signal", lambda: jn.conv(4, 3, padding="CAUSAL"), spec((2, 7, 3))),
    Row("conv-video", lambda: jn.conv(2, (2, 3, 2), padding="VALID"), spec((2, 3, 5, 4, 3))),
    Row("depthwise_conv", lambda: jn.depthwise_conv(3, multiplier=2, strides=2), IMAGE),
    Row("conv_transpose", lambda: jn.conv_transpose(4, 3, strides=2), IMAGE),
    Row("conv_transpose-grouped", lambda: jn.conv_transpose(6, 3, strides=2, groups=3), IMAGE),
    Row("conv_transpose-padded", lambda: jn.conv_transpose(4, 4, strides=2, padding=1), IMAGE),
    Row("max_pool", lambda: jn.max_pool(2), IMAGE),
    Row("max_pool-overlap", lambda: jn.max_pool(3, strides=2, padding="SAME"), IMAGE),
    Row("max_pool-dilated", lambda: jn.max_pool(2, strides=1, dilation=3), IMAGE),
    Row("adaptive_avg_pool", lambda: jn.layers.adaptive_avg_pool((3, 7)), IMAGE),
    Row("avg_pool", lambda: jn.avg_pool((3, 2)), IMAGE),
    Row("avg_pool-uncounted", lambda: jn.avg_pool(3, padding=1, count_include_pad=False), IMAGE),
    Row("lp_pool", lambda: jn.layers.lp_pool(3, 2, strides=1), IMAGE),
    Row("l2_pool_channels", lambda: jn.layers.l2_pool_channels(3), IMAGE),
    Row("global_max_pool", jn.layers.global_max_pool, IMAGE),
    Row("global_avg_pool", jn.global_avg_pool, IMAGE),
    Row("locally_connected", lambda: jn.layers.locally_connected(4, 3, strides=2), IMAGE),
    Row("locally_connected-signal", lambda: jn.layers.locally_connected(4, 3), spec((2, 7, 3))),
    Row("local_response_norm", lambda: jn.layers.local_response_norm(2, alpha=0.5), IMAGE),
    Row("resize-repeated", lambda: jn.resize(scale=(2, 3), method="nearest"), IMAGE),
    Row("resize-doubled", lambda: jn.resize(scale=2), IMAGE),
    Row("resize", lambda: jn.resize((5, 9), method="bicubic"), IMAGE),
    Row("resize-nearest", lambda: jn.resize(scale=(0.7, 1.5), method="nearest"), IMAGE),
    Row("batch_norm", jn.batch_norm, IMAGE, train="differs"),
    Row(
        "batch_norm-plain",
        lambda: jn.batch_norm(use_scale=False, use_bias=False),
        spec((7, 3)),
        train="differs",
    ),
    Row("dropout", lambda: jn.dropout(0.4), spec((50, 7)), train="random"),
    Row(
        "spatial_dropout",
        lambda: jn.layers.spatial_dropout(0.4),
        spec((5, 4, 2, 9)),
        train="random",
    ),
    Row("drop_path", lambda: jn.layers.drop_path(0.4), spec((40, 3)), train="random"),
    Row("layer_norm", jn.layer_norm, spec((2, 3, 5))),
    Row("rms_norm", jn.rms_norm, spec((2, 3, 5))),
    Row("group_norm", lambda: jn.group_norm(3), spec((2, 4, 5, 6))),
    Row("instance_norm", jn.layers.instance_norm, IMAGE),
    Row("weight_norm", lambda: jn.transforms.weight_norm(jn.dense(4)), spec((3, 5))),
    Row(
        "weight_norm-composed",
        lambda: jn.transforms.weight_norm(jn.serial(jn.dense(4), jn.batch_norm(), jn.dense(2))),
        spec((7, 5)),
        train="differs",
    ),
    # Gradients hold the singular vectors constant: no finite difference shows them, torch does.
    # A kernel so large that 15 steps of the power method in `init` leave something to improve.
    Row(
        "spectral_norm",
        lambda: jn.transforms.spectral_norm(jn.dense(16)),
        spec((3, 24)),
        train="differs",
        smooth=False,
    ),
    # With all params trained, gradients are those of the function; the constants have own tests.
    Row("lora", lambda: jn.lora(jn.dense(4), 2, where="kernel", trainable="*"), spec((3, 5))),
    Row(
        "lora-attention",
        lambda: jn.lora(jn.multi_head_attention(2), 3, scale=0.5, trainable="*"),
        spec((3, 5, 8)),
    ),
    # Rounding has no slope.
    Row("quantized", lambda: jn.quantized(jn.dense(4)), spec((3, 5)), smooth=False),
    Row("quantized-4", lambda: jn.quantized(jn.dense(7), 4, group=2), spec((3, 5)), smooth=False),
    Row(
        "quantized-aware", lambda: jn.quantized(jn.dense(4), aware=True), spec((3, 5)), smooth=False
    ),
    # Integers give float32 parameters, so the float64 gradients are in its own test.
    Row("embedding", lambda: jn.embedding(11, 4), spec((2, 3), jnp.int32), high=11, smooth=False),
    Row("embedding-tied", lambda: jn.embedding(11, 4, tied=True), spec((2, 3, 4))),
    Row("learned_positions", lambda: jn.learned_positions(9), spec((2, 5, 4))),
    Row(
        "learned_positions-given",
        lambda: jn.learned_positions(9),
        (spec((2, 4)), spec((2,), jnp.int32)),
        high=9,
    ),
    Row("sinusoidal_positions", jn.layers.sinusoidal_positions, spec((2, 5, 4))),
    Row(
        "additive_attention",
        lambda: jn.layers.additive_attention(6, return_weights=True),
        {"x": spec((2, 3, 4)), "memory": spec((2, 5, 7)), "mask": spec((2,), jnp.int32)},
        high=6,
    ),
    Row(
        "additive_attention-one",
        lambda: jn.layers.additive_attention(6),
        {"x": spec((2, 4)), "memory": spec((2, 5, 7))},
    ),
    Row(
        "multi_head_attention",
        lambda: jn.multi_head_attention(2, causal=True, rotary=True),
        spec((3, 5, 8)),
    ),
    Row(
        "multi_head_attention-window",
        lambda: jn.multi_head_attention(
            2,
            value_size=5,
            window=(1, 2),
            softcap=3.0,
            rotary=partial(jn.rotary, size=2, interleaved=True),
        ),
        (spec((2, 5, 6)), spec((2, 2, 5, 5))),
    ),
    Row(
        "multi_head_attention-cross",
        lambda: jn.multi_head_attention(4, kv_heads=2, features=5, return_weights=True),
        {"x": spec((2, 3, 8)), "memory": spec((2, 5, 7)), "mask": spec((2, 3, 5), jnp.bool_)},
    ),
    Row(
        "multi_head_attention-normed",
        lambda: jn.multi_head_attention(
            2, causal=True, rotary=True, qk_norm=jn.rms_norm, use_bias=("query", "value")
        ),
        spec((3, 5, 8)),
    ),
    Row(
        "multi_head_attention-sinks",
        lambda: jn.multi_head_attention(4, causal=True, window=2, kv_heads=2, sinks=True),
        (spec((2, 5, 8)), spec((2,), jnp.int32)),
        high=6,
    ),
    Row(
        "transformer_block",
        lambda: jn.transformer_block(2, 6, rotary=True),
        (spec((2, 5, 8)), spec((2,), jnp.int32)),
        high=6,
    ),
    Row(
        "transformer_block-post", lambda: jn.transformer_block(2, 6, norm_at="sum"), spec((2, 5, 4))
    ),
    Row(
        "transformer_block-both",
        lambda: jn.transformer_block(
            2, 6, norm_at="both", scale=0.3, use_bias=("mlp",), residual_scale=0.7
        ),
        spec((2, 5, 4)),
    ),
    Row(
        "transformer_block-decoder",
        lambda: jn.transformer_block(
            2, 6, causal=True, cross=True, gated=True, dropout_rate=0.2, norm=jn.rms_norm
        ),
        {"x": spec((2, 3, 8)), "memory": spec((2, 5, 7)), "memory_mask": spec((2,), jnp.int32)},
        high=6,
        train="random",
    ),
    Row("moe", lambda: jn.moe(jn.dense(4), 7, 2), spec((3, 6, 5))),
    Row("moe-lengths", lambda: jn.moe(jn.dense(4), 3, 1), (spec((3, 6, 5)), LENGTHS[1]), high=7),
    Row("rnn", lambda: jn.rnn(4), spec((3, 6, 5))),
    Row("rnn_cell", lambda: jn.layers.rnn_cell(4), (spec((3, 4)), spec((3, 5)))),
    Row("lstm", lambda: jn.lstm(4), spec((3, 6, 5))),
    Row("lstm-lengths", lambda: jn.lstm(4), LENGTHS, high=7),
    Row(
        "lstm-states",
        lambda: jn.lstm(4, use_bias=False),
        {"x": spec((3, 6, 5)), "initial": {"c": spec((3, 4)), "h": spec((3, 4))}},
    ),
    Row("lstm_cell", lambda: jn.layers.lstm_cell(4), (None, spec((3, 5)))),
    Row("gru", lambda: jn.gru(4), LENGTHS, high=7),
    Row(
        "gru-states",
        lambda: jn.gru(4),
        {"x": LENGTHS[0], "lengths": LENGTHS[1], "initial": spec((3, 4))},
        high=7,
    ),
    Row("gru-reset", lambda: jn.gru(4, reset_after=False), LENGTHS, high=7),
    Row("gru_cell", lambda: jn.layers.gru_cell(4), (spec((3, 4)), spec((3, 5)))),
    Row("recurrent", lambda: jn.recurrent(jn.layers.gru_cell(4)), LENGTHS, high=7),
    Row("bidirectional", lambda: jn.bidirectional(jn.lstm(4)), LENGTHS, high=7),
    Row("stack_rnn", lambda: jn.layers.stack_rnn(jn.gru(4), jn.lstm(7)), {"x": spec((3, 6, 5))}),
    Row("time_distributed", lambda: jn.layers.time_distributed(jn.dense(4)), LENGTHS, high=7),
    Row("last_step", jn.last_step, LENGTHS, high=7),
    Row("mapped", lambda: jn.transforms.mapped(jn.dense(4)), spec((2, 3, 5))),
    Row("flatten", jn.flatten, IMAGE),
    Row("polynomial", lambda: jn.layers.polynomial(3), spec((3, 4))),
    Row("rbf", lambda: jn.layers.rbf(5, width=2.0), spec((3, 4))),
    Row("random_fourier", lambda: jn.layers.random_fourier(5, 2.0), spec((2, 3, 4))),
    # models
    Row("mlp", lambda: jn.models.mlp([7, 4], jnp.tanh), spec((3, 2, 5, 1))),
    Row(
        "autoencoder",
        lambda: jn.models.autoencoder(
            jn.serial(jn.dense(4), jnp.tanh), jn.models.mlp([7, 5], jnp.tanh)
        ),
        spec((3, 5)),
    ),
    Row("perceptron", lambda: jn.models.perceptron(4), spec((3, 5)), smooth=False),  # a threshold
    Row("adaline", lambda: jn.models.adaline(4), spec((3, 5))),
    # Thousands of rectified units: some bend within any finite difference (see test_lenet5).
    Row("lenet5", lambda: jn.models.lenet5(classes=7), spec((2, 28, 28, 3)), smooth=False),
    Row("lenet5_1998", lambda: jn.models.lenet5_1998(classes=7), spec((2, 28, 28, 1))),
    Row(
        "cifar_resnet",
        lambda: jn.models.cifar_resnet(8, classes=7),
        spec((2, 8, 6, 3)),
        train="differs",
        smooth=False,
    ),
    Row(
        "unet",
        lambda: jn.models.unet(3, features=4, levels=2),
        spec((2, 8, 6, 5)),
        train="differs",
        smooth=False,
    ),
    Row(
        "yolo",
        lambda: jn.models.yolo(jn.conv(5, 3, strides=2), classes=3, boxes=2, hidden=(4,)),
        IMAGE,
        train="differs",
        smooth=False,
    ),
    # Integers give float32 parameters: gradients are in its own test.
    Row(
        "rnnsearch",
        lambda: jn.models.rnnsearch(
            7, 8, embedding_features=4, features=5, readout_features=3, dropout_rate=0.2
        ),
        (spec((3, 6), jnp.int32), spec((3,), jnp.int32), spec((3, 4), jnp.int32)),
        high=7,
        train="random",
        smooth=False,
    ),
    # unsupervised
    Row(
        "hmm",
        lambda: jn.unsupervised.hmm.hmm(4, jn.unsupervised.hmm.gaussian_mixture(2)),
        LENGTHS,
        high=7,
    ),
    # Integers give float32 parameters: gradients are in tests of its own.
    Row(
        "hmm of symbols",
        lambda: jn.unsupervised.hmm.hmm(4, jn.unsupervised.hmm.categorical(3)),
        spec((2, 5), jnp.int32),
        smooth=False,
    ),
    Row("rbm", lambda: jn.unsupervised.rbm.rbm(4, chains=2), spec((3, 5))),
]

# Models of several layers that have rows of their own: seconds to compile.
LARGE = {"rnnsearch", "cifar_resnet", "unet", "transformer_block-decoder"}

ONE_PER_KIND = {re.split("[- ]", row.id)[0]: row for row in reversed(ROWS)}


def cases(rows: Iterable[Row] = ROWS, *, one_per_kind: bool = False) -> list:
    """The rows as cases of a test; slow are the large ones, or all but one per kind."""

    def is_fast(row: Row) -> bool:
        is_further = one_per_kind and row not in ONE_PER_KIND.values()
        return row.id not in LARGE and not is_further

    slow = pytest.mark.slow
    return [pytest.param(row, id=row.id, marks=() if is_fast(row) else slow) for row in rows]
