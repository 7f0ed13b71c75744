"""The convolution primitive against `jax.lax.conv_general_dilated` and its own derivatives."""

import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxnet import spec
from jaxnet.ops.convolution import convolve
from tests.helpers import close


def oracle(x, w, *, strides, padding, dilation=None, input_dilation=None, groups=1):
    space = "DHW"[2 - x.ndim :]
    image = f"N{space}C"
    return lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        lhs_dilation=input_dilation,
        rhs_dilation=dilation,
        dimension_numbers=(image, f"{space}IO", image),
        feature_group_count=groups,
    )


def case(id, x, w, strides, padding, **rest):
    return pytest.param(x, w, dict(strides=strides, padding=padding, **rest), id=id)


CASES = [
    case("strides, dilation", (2, 9, 3), (4, 3, 17), (2,), ((1, 2),), dilation=(2,)),
    case("input dilation", (2, 7, 18), (4, 18, 5), (2,), ((1, 2),), input_dilation=(3,)),
    case("blocks, cropping", (2, 9, 2), (4, 2, 5), (1,), ((-1, 2),)),
    case("blocks of two", (2, 6, 7, 4), (3, 2, 4, 11), (1, 1), ((0, 1), (1, 1))),
    case("groups", (2, 7, 8, 4), (3, 2, 2, 6), (2, 3), ((0, 2), (1, 0)), groups=2, dilation=(1, 2)),
    case("depthwise", (2, 5, 6, 3), (3, 2, 1, 6), (1, 2), ((1, 1), (0, 1)), groups=3),
    case("large strides", (2, 9, 8, 4), (2, 2, 4, 18), (3, 4), ((1, 0), (0, 1))),
    case("one by one", (2, 6, 5, 4), (1, 1, 4, 7), (2, 1), ((0, 0), (0, 1))),
    case("rows of y", (2, 7, 8, 17), (3, 2, 17, 5), (1, 1), ((2, 0), (-1, 3)), dilation=(2, 3)),
    case("wide window", (2, 5, 9, 17), (2, 4, 17, 8), (1, 1), ((1, 0), (2, 1)), dilation=(2, 1)),
    case("spread out", (2, 4, 5, 6), (3, 3, 6, 4), (2, 1), ((1, 1), (2, 0)), input_dilation=(2, 3)),
    case("volume", (2, 4, 5, 6, 2), (3, 2, 2, 2, 3), (1, 2, 1), ((1, 1), (0, 1), (0, 0))),
]


def random(*shapes):
    rng = np.random.default_rng(3)
    return [rng.normal(size=shape) for shape in shapes]


def objective(f):
    """Not linear in the convolution, so that its second derivatives have all their terms."""

    def loss(x, w):
        return jnp.sin(f(x, w)).sum() + (f(x, w) ** 2).sum()

    return loss


@pytest.mark.slow
@pytest.mark.parametrize("x_shape, w_shape, options", CASES)
def test_values_and_derivatives_to_second_order(x64, x_shape, w_shape, options):
    x, w, dx, dw = random(x_shape, w_shape, x_shape, w_shape)

    @partial(jax.jit, static_argnums=0)
    def everything(f, x, w, dx, dw):
        f = partial(f, **options)
        gradient = jax.grad(objective(f), (0, 1))

        def squares(x, w):
            return sum((g**2).sum() for g in gradient(x, w))

        return {
            "value": f(x, w),
            "forward mode": jax.jvp(f, (x, w), (dx, dw)),
            "gradient": gradient(x, w),
            "Hessian-vector product": jax.jvp(gradient, (x, w), (dx, dw)),
            "gradient of gradient": jax.grad(squares, (0, 1))(x, w),
        }

    found = everything(convolve, x, w, dx, dw)
    expected = everything(oracle, x, w, dx, dw)
    close(found, expected, 1e-10)


@pytest.mark.fast_cases("blocks of two", "groups", "depthwise", "volume")
@pytest.mark.parametrize("x_shape, w_shape, options", CASES)
def test_values_and_gradients(x_shape, w_shape, options):
    """Of the same case in float32: quick, so that every change of the lowering meets it."""
    x, w = random(x_shape, w_shape)
    x = jnp.asarray(x, jnp.float32)
    w = jnp.asarray(w, jnp.float32)

    @jax.jit
    def both(x, w):
        y, back = jax.vjp(partial(convolve, **options), x, w)
        right, right_back = jax.vjp(partial(oracle, **options), x, w)
        slope = jnp.cos(jnp.arange(y.size, dtype=y.dtype))
        slope = slope.reshape(y.shape)
        return (y, back(slope)), (right, right_back(slope))

    found, expected = both(x, w)
    close(found, expected, 1e-4)


BATCHES = [(0, None), (None, 0), (0, 0)]


@pytest.mark.slow
def test_vmap_is_a_loop():
    """Values and gradients, over the inputs, the kernels and both; in groups."""
    shapes = (3, 2, 5, 4), (3, 3, 2, 6), (2, 3, 6)
    x, w, dy = (jnp.asarray(a, jnp.float32) for a in random(*shapes))

    def everything(x, w):
        f = partial(convolve, strides=(2,), padding=((1, 1),), groups=2)
        y, back = jax.vjp(f, x, w)
        return y, back(dy)

    @jax.jit
    def many(x, w):
        return [
            jax.vmap(everything, (0, None))(x, w[0]),
            jax.vmap(everything, (None, 0))(x[0], w),
            jax.vmap(everything, (0, 0))(x, w),
        ]

    one = jax.jit(everything)
    for axes, found in zip(BATCHES, many(x, w), strict=True):
        for i in range(3):
            pairs = zip((x, w), axes, strict=True)
            wanted = one(*(a[0 if axis is None else i] for a, axis in pairs))
            each = jax.tree.map(lambda a, i=i: a[i], found)
            close(each, wanted, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("outer", BATCHES, ids=["x", "w", "both"])
@pytest.mark.parametrize("inner", BATCHES, ids=["x", "w", "both"])
def test_vmap_twice(x64, inner, outer):
    """Also the new axis last in memory, so that the rule must look where it is."""
    shapes = [(2, 5, 4), (3, 2, 6)]
    for size, axes in ((3, inner), (2, outer)):
        for number, axis in enumerate(axes):
            if axis == 0:
                shapes[number] = (size, *shapes[number])
    x, w = random(*shapes)
    moved = [x, w]
    last: list[int | None] = [None, None]
    for number, axis in enumerate(outer):
        if axis == 0:
            moved[number] = jnp.moveaxis(moved[number], 0, -1)
            last[number] = -1
    options = dict(strides=(2,), padding=((1, 1),), groups=2)

    def twice(f, outer):
        gradient = jax.grad(objective(partial(f, **options)), (0, 1))
        return jax.jit(jax.vmap(jax.vmap(gradient, inner), outer))

    found = twice(convolve, tuple(last))(*moved)
    close(found, twice(oracle, outer)(x, w), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tolerance", [(jnp.bfloat16, 3e-2), (jnp.float16, 4e-3)])
@pytest.mark.parametrize("w_shape", [(3, 3, 5, 6), (1, 1, 5, 6), (3, 3, 5, 20)], ids=str)
def test_narrow_floats(dtype, tolerance, w_shape):
    x, w = [a.astype(dtype) for a in random((2, 7, 6, 5), w_shape)]
    f = partial(convolve, strides=(1, 1), padding=((1, 1), (1, 1)))

    def total(x, w):
        return f(x, w).astype(jnp.float32).sum()

    @jax.jit
    def both(x, w):
        return f(x, w), jax.grad(total, (0, 1))(x, w)

    narrow = jax.tree.leaves(both(x, w))
    wide = jax.tree.leaves(both(x.astype(jnp.float32), w.astype(jnp.float32)))
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == dtype
        most = tolerance * float(abs(b).max())
        close(a.astype(jnp.float32), b, 1e-7, most)


@pytest.mark.parametrize("size, wanted", [(1, [2**24 + 1, 1, 6]), (2, [2**24 + 2, 7])])
def test_integers_stay_exact(size, wanted):
    """Also beyond 2**24, where float32 has only every second integer."""
    x = jnp.array([2**24 + 1, 1, 6]).reshape(1, 3, 1)
    kernel = jnp.ones((size, 1, 1), int)
    y = convolve(x, kernel, strides=(1,), padding=((0, 0),))
    assert y.ravel().tolist() == wanted


def test_dtypes_promote():
    x = jnp.arange(8, dtype=jnp.uint8).reshape(1, 8, 1)
    w = jnp.ones((2, 1, 1), jnp.float32)
    y = convolve(x, w, strides=(1,), padding=((0, 0),))
    np.testing.assert_array_equal(y.ravel(), [1, 3, 5, 7, 9, 11, 13])
    assert y.dtype == jnp.float32


def test_four_spatial_axes_and_an_empty_batch(x64):
    x, w = random((2, 3, 4, 5, 6, 2), (2, 3, 2, 3, 2, 3))
    options = dict(strides=(1, 1, 1, 1), padding=((0, 0),) * 4)
    y = convolve(x, w, **options)
    window = x[1, 1:3, 0:3, 2:4, 3:6]
    wanted = np.einsum("abcdi,abcdio->o", window, w)
    np.testing.assert_allclose(y[1, 1, 0, 2, 3], wanted, 1e-12)
    none = convolve(x[:0], w, **options)
    assert none.shape == (0, 2, 2, 4, 4, 3)


@pytest.mark.parametrize(("window", "dilation"), [(6, 1), (3, 3)])
def test_a_window_that_does_not_fit(window, dilation):
    words = rf"window of \({window},\) with dilation \({dilation},\) does not fit"
    x = jnp.ones((2, 5, 3))
    w = jnp.ones((window, 3, 4))
    with pytest.raises(ValueError, match=words):
        convolve(x, w, strides=(1,), padding=((0, 0),), dilation=(dilation,))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_get_their_own_form(platform):
    """CPU has one form for all three, the others have those that JAX derives."""
    w = spec((3, 3, 8, 16))
    x = spec((64, 64, 64, 8))

    def loss(w, x):
        y = convolve(x, w, strides=(1, 1), padding=((1, 1), (1, 1)))
        return (y**2).sum()

    step = jax.jit(jax.grad(loss, (0, 1)))
    text = jax.export.export(step, platforms=[platform])(w, x).mlir_module()
    forms = re.findall(r"dim_numbers = (\S.*?), window", text)
    assert len(forms) == 3
    assert len(set(forms)) == (1 if platform == "cpu" else 3), forms
