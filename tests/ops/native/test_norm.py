"""Standardizing and largest entries in C, against NumPy in float64 and the forms in JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import jaxnet as jn
from jaxnet.ops.native import call, instructions, norm, pool
from jaxnet.ops.normalization import normalized, standardized
from tests.helpers import compiled, near

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

CASES = {
    "layer norm": ((9, 61, 37), (-1,)),
    "group norm": ((2, 3, 5, 4, 6), (1, 2, 4)),
    "groups of vectors": ((2, 7, 3, 32), (1, 3)),
    "instance norm": ((3, 4, 5, 19), (1, 2)),
    "all features": ((3, 5, 1, 37), (1, 3)),
}


def exact(x, scale, bias, given, axes, centered):
    """The values and the three gradients, in float64."""
    x, scale, bias, given = (np.asarray(a, np.float64) for a in (x, scale, bias, given))
    unit = x - centered * x.mean(axes, keepdims=True)
    root = 1 / np.sqrt(np.square(unit).mean(axes, keepdims=True) + 1e-3)
    unit, slope = unit * root, given * scale
    along = (unit * slope).mean(axes, keepdims=True)
    by_x = root * (slope - centered * slope.mean(axes, keepdims=True) - unit * along)
    others = tuple(range(x.ndim - scale.ndim))
    return unit * scale + bias, (by_x, (unit * given).sum(others), given.sum(others))


def operands(case, dtype=np.float32):
    shape, axes = CASES[case]
    if axes == (-1,):
        examples, *rest = shape
        shape = 10 * examples, *rest
    groups = len(axes) > 1 and axes[-1] == len(shape) - 1
    last = shape[-2:] if groups else shape[-1:]
    rng = np.random.default_rng(0)
    drawn = [rng.normal(3, 2, sizes).astype(np.float32) for sizes in (shape, last, last, shape)]
    return [jnp.asarray(a, dtype if a.shape == shape else None) for a in drawn], axes


@pytest.mark.fast_cases(
    "all features-float32-False",
    "all features-bfloat16-True",
    "layer norm-float32-False",
    "groups of vectors-float32-True",
)
@pytest.mark.parametrize(("dtype", "centered"), [
    (jnp.float32, True), (jnp.float32, False), (jnp.bfloat16, True),
])  # fmt: skip
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, dtype, centered):
    (*given, slope), axes = operands(case, dtype)

    def values(x, scale, bias):
        return standardized(x, scale, bias, axes, 1e-3, centered)

    def both(slope, *given):
        y, pull = jax.vjp(values, *given)
        return y, pull(slope)

    program = compiled(both, slope, *given)
    assert program.as_text().count('custom_call_target="jaxnet_norm"') == 2
    found = program(slope, *given)
    most = 1e-5 if dtype == jnp.float32 else 2**-8
    for a in jax.tree.leaves(found):
        assert a.dtype == (dtype if a.shape == slope.shape else jnp.float32)
    near(found, exact(*given, slope, axes, centered), most, 0)


@pytest.mark.parametrize("size", [1e-30, 1e15, 1e19, 1e25, 1e30])
@pytest.mark.parametrize("case", ["layer norm", "group norm"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_numbers_whose_squares_are_no_floats(case, dtype, size):
    (x, *given, slope), axes = operands(case, dtype)
    x = (x * size).astype(dtype)

    @jax.jit
    def both(slope, *given):
        y, pull = jax.vjp(lambda *a: standardized(*a, axes, 1e-3), *given)
        return y, pull(slope)

    y, gradients = both(slope, x, *given)
    wanted, right = exact(x, *given, slope, axes, True)
    for one, other in zip((y, *gradients), (wanted, *right), strict=True):
        one = np.asarray(one, np.float64) / np.abs(other).max()
        near(one, other / np.abs(other).max(), 2**-8 if dtype == jnp.bfloat16 else 1e-5, 0)


@pytest.mark.parametrize("size", [1e-30, 1e15, 1e19, 1e25, 1e30])
def test_batches_whose_squares_are_no_floats(size):
    rng = np.random.default_rng(0)
    shapes = (2048, 32), (32,), (32,), (2048, 32)
    x, scale, bias, slope = (jnp.asarray(rng.normal(size=n), jnp.float32) for n in shapes)
    x *= size

    @jax.jit
    def both(slope, *given):
        (y, mean, _), pull = jax.vjp(lambda *a: normalized(*a, 1e-3), *given)
        return y, mean, pull((slope, jnp.zeros(32), jnp.zeros(32)))

    y, mean, (by_x, by_scale, by_bias) = both(slope, x, scale, bias)
    np.testing.assert_allclose(mean, np.asarray(x, np.float64).mean(0), rtol=0, atol=1e-6 * size)
    of_features = x.T[..., None], scale[:, None], bias[:, None], slope.T[..., None]
    for f, (a, by_one, by_another, given) in enumerate(zip(*of_features, strict=True)):
        wanted, right = exact(a, by_one, by_another, given, (0,), True)
        np.testing.assert_allclose(y[:, f], wanted[:, 0], rtol=0, atol=1e-5)
        most = np.abs(right[0]).max()
        np.testing.assert_allclose(by_x[:, f] / most, right[0][:, 0] / most, rtol=0, atol=1e-4)
        np.testing.assert_allclose(by_scale[f], right[1][0], rtol=0, atol=1e-3)
        np.testing.assert_allclose(by_bias[f], right[2][0], rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_moments_of_a_batch_are_sums_in_c(monkeypatch, dtype):
    """Values and gradients of batch norm are those of the form in JAX, in float32."""
    rng = np.random.default_rng(0)
    shape = (9, 33, 67, 19)
    given = [rng.normal(size=size) for size in (shape, 19, 19, shape, 19, 19)]
    given = [jnp.asarray(a, dtype if a.ndim > 1 else "float32") for a in given]

    def both(x, scale, bias, *slopes):
        y, pull = jax.vjp(partial(normalized, epsilon=1e-3), x, scale, bias)
        return y, pull(slopes)

    program = compiled(both, *given)
    assert program.as_text().count('custom_call_target="jaxnet_moments"') == 2
    monkeypatch.setattr(call, "on_one_device", lambda context: False)
    jax.clear_caches()
    wide = [a.astype(jnp.float32) for a in given]
    in_jax = compiled(both, *wide)
    assert "jaxnet_moments" not in in_jax.as_text()
    near(program(*given), in_jax(*wide), 1e-5 if dtype == jnp.float32 else 2**-7)


@pytest.mark.slow
def test_equal_numbers_and_what_is_not_a_number():
    x = jnp.full((4, 2, 1, 20), 1e6)
    x = x.at[1, 1, 0, 3].set(jnp.nan).at[2].set(jnp.arange(20.0))
    rows = jnp.full((4, 64), 1e6)
    rows = rows.at[1, 3].set(jnp.nan).at[2].set(jnp.arange(64.0))
    rows = jnp.tile(rows, (64, 1))
    for a, axes in ((x, (1, 3)), (rows, (1,)), (rows.astype(jnp.bfloat16), (1,))):
        ones = jnp.ones(a.shape[2:] or a.shape[1:])
        run = jax.jit(partial(standardized, axes=axes, epsilon=1e-6))
        y = run(a, ones, 0 * ones)
        assert (y[0] == 0).all()
        assert jnp.isnan(y[1]).all()
        assert jnp.isfinite(y[2:4]).all()


@pytest.mark.slow
def test_second_derivatives_agree_with_numbers():
    x = jnp.linspace(-1, 2, 2 * 3 * 16).reshape(2, 3, 2, 8) ** 3
    scale = jnp.linspace(1, 2, 16).reshape(2, 8)
    bias = jnp.linspace(-1, 1, 16).reshape(2, 8)
    check_grads(lambda *a: standardized(*a, (1, 3), 0.1), (x, scale, bias), 2, rtol=0.02)


@pytest.mark.parametrize("axes", [(0,), (1,)])
def test_averages_over_the_batch_or_over_few_rows_run_in_jax(axes):
    x, ones, zeros = jnp.arange(64.0).reshape(2, 32), jnp.ones(32), jnp.zeros(32)
    program = compiled(lambda x: standardized(x, ones, zeros, axes, 1e-3), x)
    assert "jaxnet_norm" not in program.as_text()
    wanted, _ = exact(x, ones, zeros, x, axes, True)
    np.testing.assert_allclose(program(x), wanted, rtol=1e-5)


@pytest.mark.parametrize("case", ["layer norm", "group norm"])
def test_other_dtypes_are_not_for_the_library(case):
    (x, scale, *_), axes = operands(case)
    supports = partial(norm.supports, axes=axes, epsilon=1e-6)
    assert supports(x, scale, scale)
    for dtype in (jnp.float16, jnp.int32):
        assert not supports(x.astype(dtype), scale, scale), dtype
    assert not supports(x, scale.astype(jnp.bfloat16), scale)
    assert not supports(x, scale[..., :1], scale)
    assert not supports(x, scale, scale, epsilon=0.0)


POOL_CASES = {
    "overlapping": (2, 3, dict(strides=2, padding="SAME")),
    "line": (1, 3, dict(strides=1, padding=[(2, 0)])),
    "dilated": (2, (2, 3), dict(strides=(1, 2), dilation=2, padding=1)),
    "cropped": (2, 2, dict(strides=1, padding=[(-1, 1), (0, -2)])),
    "apart": (2, 2, dict(strides=3)),
}


def operands_of_pool(case, features=20):
    axes, window, options = POOL_CASES[case]
    shape = (3, 7, 9, features)[-axes - 2 :]
    x = np.random.default_rng(0).integers(-3, 4, shape)
    x = jnp.asarray(x, jnp.float32).at[0, 3, 2].set(jnp.nan)
    return jn.max_pool(window, **options), x


def both(layer, x):
    """The values and the gradient of a weighted sum of them, and the text of their program."""

    def weighted(x):
        y, _ = layer.apply({}, {}, x)
        return (y * jnp.arange(1.0, y.size + 1).reshape(y.shape)).sum(), y

    program = compiled(lambda x: jax.vjp(lambda x: weighted(x)[1], x), x)
    pulled = compiled(jax.grad(weighted, has_aux=True), x)
    return pulled(x), program.as_text() + pulled.as_text()


@pytest.mark.fast_cases("line")
@pytest.mark.parametrize("case", POOL_CASES)
def test_values_and_gradients_of_pool(case, monkeypatch):
    """Equal entries and a NaN included, to the bit: sums of small integers are exact."""
    layer, x = operands_of_pool(case)
    found, text = both(layer, x)
    assert text.count('custom_call_target="jaxnet_max_pool"') >= 2
    monkeypatch.setattr(pool, "supports", lambda *leaves, form: False)
    jax.clear_caches()
    wanted, text = both(layer, x)
    assert "jaxnet_max_pool" not in text
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_windows_of_one_lowest_number_stay_in_the_input():
    pool = jax.jit(lambda x: jn.max_pool(3, strides=2, padding=1).apply({}, {}, x)[0])
    y, pull = jax.vjp(pool, jnp.full((1, 3, 3, 16), -jnp.inf))
    (dx,) = pull(jnp.ones_like(y))
    assert (y == -jnp.inf).all()
    assert float(dx.sum()) == y.size


@pytest.mark.parametrize("change", [
    lambda x: x[..., :15], lambda x: x.astype(int), lambda x: jnp.stack([x, x, x], 1),
], ids=["features", "dtype", "volume"])  # fmt: skip
def test_others_run_in_jax(change):
    layer, x = operands_of_pool("overlapping")
    text = jax.jit(lambda x: jn.max_pool(3, strides=2).apply({}, {}, x)[0]).lower(change(x))
    assert "jaxnet_max_pool" not in text.as_text()
    assert "jaxnet_max_pool" in jax.jit(lambda x: layer.apply({}, {}, x)).lower(x).as_text()


def test_gradients_of_pools_in_bfloat16_are_float32_sums_rounded_once():
    x, given = (np.random.default_rng(0).normal(size=(2, 9, 9, 20)) for _ in range(2))

    def slope(x, given):
        layer = jn.max_pool(3, strides=1, padding=1)
        _, pull = jax.vjp(lambda x: layer.apply({}, {}, x)[0], x)
        return pull(given)[0]

    narrow = [jnp.asarray(a, jnp.bfloat16) for a in (x, given[::-1])]
    assert "jaxnet_max_pool" in jax.jit(slope).lower(*narrow).as_text()
    expected = slope(*(a.astype(jnp.float32) for a in narrow)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(jax.jit(slope)(*narrow), expected)
