"""NaN and infinity among numbers are at the same places in C and in XLA, in values and gradients.

One operand gets wild numbers at random places. NaN makes NaN at the same places. Of infinite, tiny
and large numbers the same results are not finite: which of them are NaN depends on the order of a
sum, since inf - inf is NaN. `OTHERWISE` names each difference that stays, with the reason.
"""

import re
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops import convolution
from jaxnet.ops.attention import dot_product_attention
from jaxnet.ops.blockwise import blockwise_attention, see
from jaxnet.ops.convolution import convolve
from jaxnet.ops.native import call, conv, instructions
from jaxnet.ops.native.gemv import few_rows
from jaxnet.ops.normalization import normalized, standardized
from jaxnet.ops.pooling import window_maxima
from jaxnet.ops.product import product
from jaxnet.ops.recurrence import LSTM, TANH, unroll

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

WILD = {
    "nan": [np.nan],
    "infinite": [np.inf, -np.inf],
    "tiny": [-0.0, 1e-40, -1e-39, 1e-38],
    "large": [1e4, -1e4],  # their squares are floats in all dtypes
    "huge": [1e18, -1e18, 1e12],  # in float16 infinite
}
# In bfloat16, XLA rounds scores in two ways where it takes the largest and where it subtracts that:
# of scores of 1e10 and more the softmax may be NaN. C computes in float32.
ROUNDED_TWICE = ("attention", "causal attention", "attention in a window")
NARROW = ("float32", "bfloat16", "float16")


class Case(NamedTuple):
    """An operation that runs in C, and which of its operands have the narrow dtype.

    Fields:
      run: Function of the operands.
      shapes: Their shapes.
      narrow: Number of operands, the first ones, that may have 16 bits; others have 32.
      dtypes: Dtypes in which C computes it.
      gradients: Whether to compare the gradients by all operands as well.
    """

    run: Callable
    shapes: tuple
    narrow: int = 9
    dtypes: tuple = NARROW
    gradients: bool = True


def conv_of(x, kernel, **options):
    axes = len(x) - 2
    usual = dict(strides=(1,) * axes, padding=((1, 1),) * axes)
    return Case(partial(convolve, **usual | options), (x, kernel))


def norm_of(x, axes, centered=True):
    features = x[-2:] if len(axes) > 1 and axes[-1] == len(x) - 1 else x[-1:]

    def run(x, scale, bias):
        return standardized(x, scale, bias, axes, 1e-5, centered)

    return Case(run, (x, features, features), narrow=1)


def pool_of(window, strides, padding, dilation):
    def run(x):
        return window_maxima(x, window, strides, padding, dilation)

    return Case(run, ((2, 7, 9, 17),))


def loop_of(cell, masked):
    wide, state = cell.gates * 19, (6, 19)
    mask = np.arange(9)[:, None, None] < np.array([9, 3, 0, 1, 8, 5])[:, None]

    def run(pre, kernel, bias, h, *c):
        carry = {"c": c[0], "h": h} if c else h
        return unroll(cell, pre, kernel, (bias, None), carry, mask if masked else None)

    shapes = (9, 6, wide), (19, wide), (wide,), state
    return Case(run, shapes + (state,) * cell.memory, dtypes=("float32",))


def attention_of(time, heads, groups, **ranges):
    def run(q, k, v):
        return blockwise_attention(q, k, v, see(time, time, **ranges))

    shapes = (2, time, heads, 20), (2, time, groups, 20), (2, time, groups, 24)
    return Case(run, shapes)


def few_rows_of(form, transposed):
    numbers = np.random.default_rng(1).integers(-8, 8, (96, 96))
    grid = (96, 3) if transposed else (3, 96)
    if form == "uint8":
        numbers = numbers[:, ::2] & 15 | (numbers[:, 1::2] & 15) << 4
    if form == "int8":
        grid = (96, 1) if transposed else (1, 96)

    def of_integers(x, scale):
        return few_rows(x, jnp.asarray(numbers, form), scale, transposed=transposed)

    def of_floats(x, kernel):
        return few_rows(x, kernel.astype(form), transposed=transposed)

    floats = "float" in form
    second = (96, 96) if floats else grid
    dtypes = "float32", "bfloat16"
    run = of_floats if floats else of_integers
    return Case(run, ((3, 96), second), narrow=1, dtypes=dtypes, gradients=False)


CASES = {
    "conv": conv_of((2, 6, 7, 5), (3, 3, 5, 6)),
    "conv by tiles of 4": conv_of((2, 8, 9, 16), (3, 3, 16, 16)),
    "conv by tiles of 2": conv_of((2, 8, 9, 33), (3, 3, 33, 40)),
    "conv of strides": conv_of((2, 7, 9, 8), (3, 3, 8, 16), strides=(2, 2)),
    "conv of a dilated kernel": conv_of(
        (2, 7, 9, 8), (3, 3, 8, 17), dilation=(2, 2), padding=((2, 2), (2, 2))
    ),
    "conv of groups": conv_of((2, 7, 9, 8), (3, 3, 4, 16), groups=2),
    "depthwise conv": conv_of((2, 7, 9, 21), (3, 3, 1, 21), groups=21),
    "conv of small groups": conv_of((2, 7, 9, 32), (3, 3, 4, 32), groups=8),
    "conv of one tap": conv_of(
        (2, 17, 19, 64), (1, 1, 64, 64), padding=((0, 0), (0, 0))
    )._replace(dtypes=("float32", "bfloat16")),
    "transposed conv": conv_of((2, 4, 5, 8), (3, 3, 8, 17), input_dilation=(2, 2)),
    "conv of a line": conv_of((2, 20, 5), (4, 5, 12), strides=(2,)),
    "conv of a volume": conv_of((2, 3, 5, 7, 5), (3, 2, 3, 5, 17)),
    "cropping conv": conv_of((2, 8, 9, 4), (2, 3, 4, 20), padding=((-2, -1), (-1, -2))),
    "layer norm": norm_of((64, 300), (-1,)),
    "rms norm": norm_of((64, 300), (-1,), centered=False),
    "group norm": norm_of((2, 3, 5, 4, 6), (1, 2, 4)),
    "instance norm": norm_of((3, 4, 5, 19), (1, 2)),
    "norm of all": norm_of((3, 5, 1, 37), (1, 3)),
    "batch norm": Case(
        lambda x, scale, bias: normalized(x, scale, bias, 1e-5), ((1024, 17), (17,), (17,)), 1
    ),
    "max pool": pool_of((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "max pool of a dilated window": pool_of((2, 3), (1, 1), ((0, 2), (-1, 2)), (2, 1)),
    "lstm": loop_of(LSTM, masked=False),
    "lstm of lengths": loop_of(LSTM, masked=True),
    "rnn": loop_of(TANH, masked=False),
    "rnn of lengths": loop_of(TANH, masked=True),
    "attention": attention_of(70, 3, 3),
    "causal attention": attention_of(77, 4, 2, causal=True),
    "attention in a window": attention_of(150, 2, 1, causal=True, window=(20, 0)),
    "attention of one query": Case(
        lambda q, k, v: dot_product_attention(q, k, v),
        ((2, 1, 4, 20), (2, 50, 2, 20), (2, 50, 2, 24)),
        dtypes=("float32", "bfloat16"),
        gradients=False,
    ),
    "product": Case(product, ((300, 200), (200, 270)), dtypes=("bfloat16",)),
    "few rows of float32": few_rows_of("float32", False),
    "few rows of bfloat16, transposed": few_rows_of("bfloat16", True),
    "few rows of int8": few_rows_of("int8", False),
    "few rows of int8, transposed": few_rows_of("int8", True),
    "few rows of 4 bits": few_rows_of("uint8", False),
    "few rows of 4 bits, transposed": few_rows_of("uint8", True),
}  # fmt: skip


ROWS = [
    pytest.param(name, dtype, marks=[] if dtype == case.dtypes[0] else pytest.mark.slow)
    for name, case in CASES.items()
    for dtype in case.dtypes
]


class Otherwise(NamedTuple):
    """A difference that stays, of one result by one operand; cotangents are operands below 0.

    Fields:
      cases: Part of the names of the cases.
      operand, result: Numbers of both.
      in_c: Whether the numbers of C that differ are not finite, and XLA's are; else the reverse.
      where: Whether it is so at the wild numbers alone.
    """

    cases: str
    operand: int
    result: int
    in_c: bool
    where: bool = False


OTHERWISE = (
    # The kernel's gradient of a transposed convolution is that of the reversed one: x is multiplied
    # by zeros around y. XLA multiplies y by the zeros between and around x.
    Otherwise("transposed conv", operand=0, result=2, in_c=True),
    Otherwise("transposed conv", operand=-1, result=2, in_c=False),
    # C multiplies zeros around y by the kernel, with strides too. XLA does so without them alone.
    Otherwise("conv of a line", operand=1, result=1, in_c=True),
    # In C, the gradient of pixels that no output reads is 0.
    Otherwise("cropping conv", operand=1, result=1, in_c=False),
    # In XLA the cotangents 0 of a step that is left out are multiplied by the recurrent kernel.
    *(Otherwise("lstm of lengths", 1, result, in_c=False) for result in (3, 6, 7)),
    *(Otherwise("rnn of lengths", 1, result, in_c=False) for result in (2, 5)),
    # XLA replaces a key or value that is not finite by 0, whose own gradient is then 0.
    Otherwise("attention", operand=1, result=3, in_c=True, where=True),
    Otherwise("attention", operand=2, result=4, in_c=True, where=True),
    # In XLA, a weight of 0 times a query or cotangent reaches places that the query does not see.
    *(Otherwise("causal attention", *pair, in_c=False) for pair in ((0, 3), (-2, 4))),
    *(Otherwise("attention in a window", *pair, in_c=False) for pair in ((0, 3), (-2, 4))),
)


def targets(program: Any) -> str:
    return " ".join(re.findall(r'custom_call_target="(\w+)"', program.as_text()))


def programs(case, dtype):
    """The operation with its gradients in C and in XLA, and the shapes of their operands."""

    def run(cotangents, *operands):
        if not case.gradients:
            return case.run(*operands)
        y, pull = jax.vjp(case.run, *operands)
        return y, pull(cotangents)

    of_operands = [
        jax.ShapeDtypeStruct(shape, dtype if n < case.narrow else jnp.float32)
        for n, shape in enumerate(case.shapes)
    ]
    cotangents = jax.eval_shape(case.run, *of_operands)
    given = cotangents, *of_operands

    def compiled():
        return jax.jit(lambda *given: run(*given)).lower(*given).compile()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "OVERHEAD", 0)
        in_c = compiled()
        patch.setattr(call, "on_one_device", lambda context: False)
        patch.setattr(convolution, "on_one_device", lambda context: False)
        in_xla = compiled()
    if instructions() != "AVX-512-BF16" and "jaxnet" not in targets(in_c):
        pytest.skip("needs a processor that multiplies bfloat16")
    assert "jaxnet" in targets(in_c)
    assert "jaxnet" not in targets(in_xla)
    return in_c, in_xla, given


programs_of = cache(lambda name, dtype: programs(CASES[name], dtype))


def kinds(name: str, dtype: str) -> list[str]:
    skipped = "huge" if name in ROUNDED_TWICE and dtype == "bfloat16" else None
    return [kind for kind in WILD if kind != skipped]


def filled(given: Any, kind: str, rng: Any, gradients: bool) -> tuple[Any, int, np.ndarray]:
    """Normal numbers, with wild ones at random places of one operand.

    Returns:
      Cotangents and operands; the number of the operand, below 0 for a cotangent; and the places.
    """
    leaves, structure = jax.tree.flatten(given)
    cotangents = len(leaves) - len(given) + 1
    arrays = [rng.normal(size=leaf.shape).astype(leaf.dtype) for leaf in leaves]
    which = int(rng.integers(0 if gradients else cotangents, len(arrays)))
    where = np.zeros(arrays[which].size, bool)
    where[rng.integers(where.size, size=rng.choice([1, 1, 2, 5]))] = True
    where = where.reshape(arrays[which].shape)
    with np.errstate(over="ignore"):
        wild = np.array(WILD[kind]).astype(arrays[which].dtype)
    arrays[which][where] = rng.choice(wild, where.sum())
    return jax.tree.unflatten(structure, arrays), which - cotangents, where


def differences(name: str, dtype: str, kind: str, draws: int) -> list[str]:
    """Where C and XLA differ in random draws, but for what `OTHERWISE` names."""
    in_c, in_xla, given = programs_of(name, dtype)
    rng = np.random.default_rng(list(CASES).index(name))
    found = []
    for draw in range(draws):
        operands, which, where = filled(given, kind, rng, CASES[name].gradients)
        both = jax.tree.leaves(in_c(*operands)), jax.tree.leaves(in_xla(*operands))
        for result, pair in enumerate(zip(*both, strict=True)):
            a, b = (np.asarray(array, np.float32) for array in pair)
            seen = np.isnan if kind == "nan" else np.isfinite
            differs = (seen(a) != seen(b)) | (np.isfinite(a) != np.isfinite(b))
            for other in OTHERWISE:
                if (other.operand, other.result) == (which, result) and other.cases in name:
                    kept = ~np.isfinite(a if other.in_c else b) & np.isfinite(
                        b if other.in_c else a
                    )
                    differs &= ~(kept & where) if other.where else ~kept
            if differs.any():
                words = f"{differs.sum()} of result {result} by operand {which}, draw {draw}"
                found.append(f"{words}: {a[differs][0]} in C, {b[differs][0]} in XLA")
    return found


@pytest.mark.parametrize("name, dtype", ROWS)
def test_a_draw_of_each(name, dtype):
    for kind in kinds(name, dtype):
        assert not differences(name, dtype, kind, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name, dtype", ROWS)
def test_many_draws_of_each(name, dtype):
    for kind in kinds(name, dtype):
        assert not differences(name, dtype, kind, 200)
