"""Random operations of any form, and the check that `accelerate` computes what XLA computes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxnet as jn
from tests.helpers import equations, near

BOUND = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 5e-3}  # of the largest number
DTYPES = ["float32", "float32", "float32", "bfloat16", "float16"]


def cases(count: int) -> Any:
    """Parametrizes a test by seeds, of which the first is fast."""
    slow = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, count)]
    return pytest.mark.parametrize("seed", [0, *slow])


class Draw:
    """Random sizes and arrays."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)

    def one(self, *options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def sizes(self, count: int, low: int, high: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self.rng.integers(low, high + 1, count))

    def order(self, count: int) -> tuple[int, ...]:
        return tuple(int(n) for n in self.rng.permutation(count))

    def array(self, shape: Any, dtype: str) -> jax.Array:
        return jnp.asarray(self.rng.normal(size=shape), dtype)


def ordered(sizes: tuple[int, ...], order: tuple[int, ...]) -> list[int]:
    """A shape whose axis order[i] has size i."""
    shape = [0] * len(sizes)
    for axis, size in zip(order, sizes, strict=True):
        shape[axis] = size
    return shape


def convolution(draw: Draw) -> tuple[Any, list[jax.Array]]:
    """A function of an input and a kernel, with all options of `lax.conv_general_dilated`."""
    axes = draw.one(1, 2, 3)
    groups, batch_groups = draw.one((1, 1), (1, 1), (1, 1), (2, 1), (3, 1), (1, 2), (1, 3))
    (batch,) = draw.sizes(1, 1, 3)
    inputs, features = draw.sizes(2, 1, 9)
    space = draw.sizes(axes, 3, 8)
    window = draw.sizes(axes, 1, draw.one(4, 4, 8))
    strides = draw.sizes(axes, 1, 3)
    dilation = draw.sizes(axes, 1, 2)
    input_dilation = draw.sizes(axes, 1, 2)
    padding = []
    for size, taps, apart, between in zip(space, window, dilation, input_dilation, strict=True):
        low, high = draw.sizes(2, -1, 2)
        missing = (taps - 1) * apart - (size - 1) * between - low - high
        padding.append((low, high + max(missing, 0)))
    layouts = [draw.order(axes + 2) for _ in range(3)]
    dtype = draw.one(*DTYPES)
    options = {
        "dimension_numbers": lax.ConvDimensionNumbers(*layouts),
        "feature_group_count": groups,
        "batch_group_count": batch_groups,
        "precision": draw.one(None, lax.Precision.HIGH, lax.Precision.HIGHEST),
        "preferred_element_type": draw.one(None, jnp.float32),
    }

    def call(x, kernel):
        apart = strides, padding, input_dilation, dilation
        return lax.conv_general_dilated(x, kernel, *apart, **options)

    x = ordered((batch * batch_groups, inputs * groups, *space), layouts[0])
    kernel = ordered((features * groups * batch_groups, inputs, *window), layouts[1])
    return call, [draw.array(x, dtype), draw.array(kernel, dtype)]


def pool(draw: Draw) -> tuple[Any, list[jax.Array]]:
    """A function of an input: the largest entries or the sums of windows over any axes."""
    rank = draw.one(2, 3, 4, 5)
    chosen = sorted(draw.order(rank)[: draw.one(*range(1, min(4, rank)))])
    forms, shape = [], []
    for axis in range(rank):
        if axis in chosen:
            size = draw.one(2, 3)
            stride = draw.one(1, 2, 3)
            forms.append((size, stride, draw.sizes(2, 0, size - 1)))
            shape.append(draw.one(5, 6, 8))
        else:
            forms.append((1, 1, (0, 0)))
            shape.append(draw.one(1, 2, 3, 16, 17))
    sizes, strides, padding = (tuple(each) for each in zip(*forms, strict=True))
    dtype = draw.one(*DTYPES)
    start, operation = draw.one((-np.inf, lax.max), (0, lax.add))

    def call(x):
        first = np.asarray(start, x.dtype)
        return lax.reduce_window(x, first, operation, sizes, strides, padding)

    x = draw.array(shape, dtype)
    return call, [jnp.round(x) if draw.one(True, False) else x]  # rounded, some are equal


def product(draw: Draw) -> tuple[Any, list[jax.Array]]:
    """A function of two matrices in 16 bits, each of which may be transposed."""
    rows, inner, columns = draw.sizes(3, 130, 260)
    axes = draw.one(0, 1), draw.one(0, 1)
    dtype = draw.one("bfloat16", "float16")
    of_x, of_w = axes
    x = draw.array((rows, inner) if of_x else (inner, rows), dtype)
    w = draw.array((columns, inner) if of_w else (inner, columns), dtype)

    def call(x, w):
        return lax.dot_general(x, w, (((of_x,), (of_w,)), ((), ())))

    return call, [x, w]


def loss_of(call: Any, draw: Draw, given: list[jax.Array]) -> Any:
    y = jax.eval_shape(call, *given)
    weights = draw.array(y.shape, "float32")

    def loss(*given):
        y = call(*given).astype(jnp.float32)
        return jnp.sum(jnp.sin(y / 32) * weights)

    return loss


def second(loss: Any, axes: tuple[int, ...]) -> Any:
    """The gradient of a function of the gradient."""

    def of_gradient(*given):
        return sum(jnp.sum(jnp.sin(g)) for g in jax.grad(loss, axes)(*given))

    return jax.grad(of_gradient, axes)


def check(call: Any, draw: Draw, given: list[jax.Array], *, twice: bool) -> None:
    """Values and gradients equal XLA's, the gradient taken before or after."""
    bound = BOUND[str(given[0].dtype)]
    axes = tuple(range(len(given)))
    loss = loss_of(call, draw, given)
    twice = twice and given[0].dtype == jnp.float32
    fast_call = jn.accelerate(call)
    fast_loss = jn.accelerate(loss)

    @jax.jit
    def by_xla(*given):
        more = second(loss, axes)(*given) if twice else ()
        return call(*given), jax.grad(loss, axes)(*given), more

    @jax.jit
    def gradient_after(*given):
        more = second(fast_loss, axes)(*given) if twice else ()
        return fast_call(*given), jax.grad(fast_loss, axes)(*given), more

    # In 16 bits XLA itself may be off by 3%, so it computes in 32.
    wide = [array.astype("float32") for array in given]
    try:
        jax.eval_shape(jax.grad(loss, axes), *given)
    except TypeError:  # JAX 0.7 has no gradient of 16 bits that become 32
        return near(jax.jit(fast_call)(*given), call(*wide), bound)
    expected = by_xla(*wide)
    gradient_before = jax.jit(jn.accelerate(by_xla))
    assert jax.eval_shape(fast_call, *given) == jax.eval_shape(call, *given)
    names = {one.primitive.name for one in equations(jax.make_jaxpr(fast_call)(*given).jaxpr)}
    assert not names & {"conv_general_dilated", "reduce_window_max", "reduce_window_sum"}
    near(gradient_after(*given), expected, bound)
    near(gradient_before(*given), expected, bound)
