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
    numbers = (f"N{space}C", f"{space}IO", f"N{space}C")
    spread = input_dilation, dilation
    return lax.conv_general_dilated(x, w, strides, padding, *spread, numbers, groups)


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
    return lambda x, w: jnp.sin(f(x, w)).sum() + (f(x, w) ** 2).sum()


@pytest.mark.slow
@pytest.mark.parametrize("x_shape, w_shape, options", CASES)
def test_values_and_derivatives_to_second_order(x64, x_shape, w_shape, options):
    x, w, dx, dw = random(x_shape, w_shape, x_shape, w_shape)

    @partial(jax.jit, static_argnums=0)
    def everything(f, x, w, dx, dw):
        f = partial(f, **options)
        gradient = jax.grad(objective(f), (0, 1))
        squares = lambda x, w: sum((g**2).sum() for g in gradient(x, w))  # noqa: E731
        return {
            "value": f(x, w),
            "forward mode": jax.jvp(f, (x, w), (dx, dw)),
            "gradient": gradient(x, w),
            "Hessian-vector product": jax.jvp(gradient, (x, w), (dx, dw)),
            "gradient of gradient": jax.grad(squares, (0, 1))(x, w),
        }

    close(everything(convolve, x, w, dx, dw), everything(oracle, x, w, dx, dw), 1e-10)


@pytest.mark.parametrize("x_shape, w_shape, options", CASES)
def test_values_and_gradients(x_shape, w_shape, options):
    """Of the same case in float32: quick, so that every change of the lowering meets it."""
    x, w = random(x_shape, w_shape)
    x, w = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)

    @jax.jit
    def both(x, w):
        y, back = jax.vjp(partial(convolve, **options), x, w)
        right, right_back = jax.vjp(partial(oracle, **options), x, w)
        slope = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return (y, back(slope)), (right, right_back(slope))

    close(*both(x, w), 1e-4)


BATCHES = [(0, None), (None, 0), (0, 0)]


def test_vmap_is_a_loop():
    """Values and gradients, over the inputs, the kernels and both; in groups."""
    x, w, dy = (jnp.asarray(a, jnp.float32) for a in random((3, 2, 5, 4), (3, 3, 2, 6), (2, 3, 6)))

    def everything(x, w):
        f = partial(convolve, strides=(2,), padding=((1, 1),), groups=2)
        y, back = jax.vjp(f, x, w)
        return y, back(dy)

    @jax.jit
    def many(x, w):
        return [jax.vmap(everything, axes)(*given) for axes, given in each(x, w)]

    def each(x, w):
        return zip(BATCHES, ((x, w[0]), (x[0], w), (x, w)), strict=True)

    one = jax.jit(everything)
    for axes, found in zip(BATCHES, many(x, w), strict=True):
        for i in range(3):
            pairs = zip((x, w), axes, strict=True)
            wanted = one(*(a[0 if axis is None else i] for a, axis in pairs))
            close(jax.tree.map(lambda a, i=i: a[i], found), wanted, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("outer", BATCHES, ids=["x", "w", "both"])
@pytest.mark.parametrize("inner", BATCHES, ids=["x", "w", "both"])
def test_vmap_twice(x64, inner, outer):
    """Also the new axis last in memory, so that the rule must look where it is."""
    shapes = [(2, 5, 4), (3, 2, 6)]
    for sizes, axes in ((3, inner), (2, outer)):
        shapes = [(sizes, *s) if a == 0 else s for s, a in zip(shapes, axes, strict=True)]
    x, w = random(*shapes)
    pairs = zip((x, w), outer, strict=True)
    moved = [jnp.moveaxis(a, 0, -1) if axis == 0 else a for a, axis in pairs]
    options = dict(strides=(2,), padding=((1, 1),), groups=2)

    def twice(f, outer):
        gradient = jax.grad(objective(partial(f, **options)), (0, 1))
        return jax.jit(jax.vmap(jax.vmap(gradient, inner), outer))

    last = tuple(None if axis is None else -1 for axis in outer)
    close(twice(convolve, last)(*moved), twice(oracle, outer)(x, w), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tolerance", [(jnp.bfloat16, 3e-2), (jnp.float16, 4e-3)])
@pytest.mark.parametrize("w_shape", [(3, 3, 5, 6), (1, 1, 5, 6), (3, 3, 5, 20)], ids=str)
def test_narrow_floats(dtype, tolerance, w_shape):
    x, w = [a.astype(dtype) for a in random((2, 7, 6, 5), w_shape)]

    @jax.jit
    def both(x, w):
        f = partial(convolve, strides=(1, 1), padding=((1, 1), (1, 1)))
        return f(x, w), jax.grad(lambda x, w: f(x, w).astype(jnp.float32).sum(), (0, 1))(x, w)

    narrow, wide = both(x, w), both(x.astype(jnp.float32), w.astype(jnp.float32))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(narrow))
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        close(a.astype(jnp.float32), b, 1e-7, tolerance * float(abs(b).max()))


@pytest.mark.parametrize("size", [1, 2])
def test_integers_stay_exact(size):
    """Also beyond 2**24, where float32 has only every second integer."""
    x, kernel = jnp.array([2**24 + 1, 1, 6]).reshape(1, 3, 1), jnp.ones((size, 1, 1), int)
    y = convolve(x, kernel, strides=(1,), padding=((0, 0),)).ravel()
    assert y.tolist() == [[2**24 + 1, 1, 6], [2**24 + 2, 7]][size - 1]


def test_dtypes_promote():
    x, w = jnp.arange(8, dtype=jnp.uint8).reshape(1, 8, 1), jnp.ones((2, 1, 1), jnp.float32)
    y = convolve(x, w, strides=(1,), padding=((0, 0),))
    np.testing.assert_array_equal(y.ravel(), [1, 3, 5, 7, 9, 11, 13])
    assert y.dtype == jnp.float32


def test_four_spatial_axes_and_an_empty_batch(x64):
    x, w = random((2, 3, 4, 5, 6, 2), (2, 3, 2, 3, 2, 3))
    y = convolve(x, w, strides=(1, 1, 1, 1), padding=((0, 0),) * 4)
    window = x[1, 1:3, 0:3, 2:4, 3:6]
    np.testing.assert_allclose(y[1, 1, 0, 2, 3], np.einsum("abcdi,abcdio->o", window, w), 1e-12)
    none = convolve(x[:0], w, strides=(1, 1, 1, 1), padding=((0, 0),) * 4)
    assert none.shape == (0, 2, 2, 4, 4, 3)


@pytest.mark.parametrize(("window", "dilation"), [(6, 1), (3, 3)])
def test_a_window_that_does_not_fit(window, dilation):
    words = rf"window of \({window},\) with dilation \({dilation},\) does not fit"
    x, w = jnp.ones((2, 5, 3)), jnp.ones((window, 3, 4))
    with pytest.raises(ValueError, match=words):
        convolve(x, w, strides=(1,), padding=((0, 0),), dilation=(dilation,))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_accelerators_get_their_own_form(platform):
    """CPU has one form for all three, the others have those that JAX derives."""
    w, x = spec((3, 3, 8, 16)), spec((64, 64, 64, 8))

    def loss(w, x):
        return (convolve(x, w, strides=(1, 1), padding=((1, 1), (1, 1))) ** 2).sum()

    step = jax.jit(jax.grad(loss, (0, 1)))
    text = jax.export.export(step, platforms=[platform])(w, x).mlir_module()
    forms = re.findall(r"dim_numbers = (\S.*?), window", text)
    assert len(forms) == 3 and len(set(forms)) == (1 if platform == "cpu" else 3), forms
