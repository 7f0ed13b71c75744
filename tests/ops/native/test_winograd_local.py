"""An output of a convolution depends on its window alone, also where Winograd's tiles compute it.

What an output does not see changes it by at most 1e-5 of the largest output before the change.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.convolution import convolve
from jaxnet.ops.native import instructions
from tests.ops.native.test_conv import OPERANDS, arrays, exact, form_of
from tests.ops.native.test_winograd import computed

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

PROMISE = 1e-5
SIZES = (1e1, 3e1, 1e2, 1e4, 1e6, 1e10, 1e19, 1e30, 1e38, np.inf, -np.inf, np.nan)
FORMS = {
    "same": form_of((14, 11), (3, 3), low=1, high=1),
    "valid": form_of((15, 12), (3, 3)),
    "full": form_of((8, 9), (3, 3), low=2, high=2),
    "before": form_of((9, 13), (3, 3), low=2, high=0),
}


def unseen(wanted, form, given, changed):
    """Which results of the given arrays do not depend on what changed, by a change of numbers."""
    rng = np.random.default_rng(1)
    other = {
        n: np.where(changed.get(n, False), rng.normal(size=a.shape), a) for n, a in given.items()
    }
    return exact(wanted, form, **given) == exact(wanted, form, **other)


def leak(wanted, form, given, wild, tile):
    """The largest change of what does not see the wild numbers, by the largest result before.

    Args:
      wild: The arrays with wild numbers, by name.
    """
    changed = {name: ~((a == given[name]) & np.isfinite(a)) for name, a in wild.items()}
    blind = unseen(wanted, form, given, changed)
    before = np.float64(computed(wanted, form, given, tile))
    direct = np.isfinite(np.float64(computed(wanted, form, given | wild, 0)))
    after = np.float64(computed(wanted, form, given | wild, tile))
    change = np.abs(after - before)[blind & direct]
    if given[OPERANDS[wanted][0]].dtype != np.float32:  # results are rounded once
        eps = float(jnp.finfo(given[OPERANDS[wanted][0]].dtype).eps)
        change = change - eps * np.abs(before)[blind & direct]
    return np.max(change, initial=0) / np.abs(before).max()


def places(shape):
    """One pixel each, and what lies at a border."""
    rows, columns = shape
    one = np.zeros(shape, bool)
    for row in range(min(rows, 7)):
        for column in range(min(columns, 7)):
            here = one.copy()
            here[-1 - row if row > 3 else row, -1 - column if column > 3 else column] = True
            yield here
    half = one.copy()
    half[rows // 2 :] = True
    corner = ~one
    corner[1:, 1:] = False
    middle = ~one
    middle[2:5, 3:6] = False  # all but a window
    yield from (half, half[::-1], corner, corner[::-1, ::-1], middle)
    yield np.broadcast_to(np.arange(columns) < columns // 2, shape)


def cases(array, sizes, each):
    """Copies of an array (nets, batch, rows, columns, features) with wild numbers."""
    number = 0
    for where in places(array.shape[2:4]):
        for size in sizes:
            number += 1
            if number % each:
                continue
            changed = array.copy()
            features = slice(None) if number % 2 else number % array.shape[-1]
            some = changed[0, 0][where]
            signs = np.where(some < 0, -1, 1).astype(array.dtype)
            with np.errstate(over="ignore"):
                wild = (np.float32(size) * signs[..., features]).astype(array.dtype)
            some[..., features] = wild
            changed[0, 0][where] = some
            yield changed


@pytest.mark.fast_cases(
    "same-y-x-4-float32", "full-x-y-4-float32", "same-w-x-2-float32", "before-w-y-4-float32"
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("wanted, name", [("y", "x"), ("x", "y"), ("w", "x"), ("w", "y")])
@pytest.mark.parametrize("form", FORMS)
def test_wild_pixels_do_not_leak(form, wanted, name, tile, dtype):
    for inputs, features in [(8, 9), (33, 16)]:
        given = arrays(FORMS[form], 1, 2, inputs, features, dtype=dtype)
        for changed in cases(given[name], SIZES, each=7):
            assert leak(wanted, FORMS[form], given, {name: changed}, tile) <= PROMISE


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("wanted", ["y", "x"])
@pytest.mark.parametrize("form", ["same", "full"])
def test_wild_weights_do_not_leak(form, wanted, tile):
    """At the border results see a part of the kernel, and each feature sees its own."""
    given = arrays(FORMS[form], 1, 1, 8, 9)
    for size, tap, feature in itertools.product(SIZES, np.ndindex(3, 3), (slice(None), 4)):
        kernel = given["w"].copy()
        kernel[0, *tap, :, feature] = size
        assert leak(wanted, FORMS[form], given, {"w": kernel}, tile) <= PROMISE


@pytest.mark.parametrize("wanted", OPERANDS)
def test_a_block_of_tiny_numbers_beside_larger_ones(wanted):
    """Squares of such numbers are 0 in float32, but not their ratio."""
    given = arrays(FORMS["same"], 1, 1, 8, 9)
    for name, size in itertools.product("xy", (1e-20, 1e-25)):
        if name == wanted:
            continue
        tiny = given | {name: given[name] * np.float32(size)}
        for changed in cases(tiny[name], (1e-15, 1e-19, 1), each=3):
            assert leak(wanted, FORMS["same"], tiny, {name: changed}, 4) <= PROMISE


@pytest.mark.parametrize("tile", [2, 4])
def test_a_masked_kernel_sees_no_more_than_its_taps(tile):
    """A pixel that only weights of 0 meet changes nothing, as in an autoregressive net."""
    form = FORMS["same"]
    given = arrays(form, 1, 1, 8, 9)
    given["w"][0, 1, 1:] = given["w"][0, 2:] = 0
    before = computed("y", form, given, tile)
    wild = given["x"].copy()
    wild[0, 0, 5:] = 1e9
    after = computed("y", form, given | {"x": wild}, tile)
    assert (after[0, 0, :5] == before[0, 0, :5]).all()
    assert not (after[0, 0, 6:] == before[0, 0, 6:]).any()


KERNELS = {
    "3x3": dict(),
    "strides": dict(strides=(2, 2)),
    "dilation": dict(dilation=(2, 2)),
    "groups": dict(groups=4),
    "depthwise": dict(groups=16),
    "zeros between": dict(input_dilation=(2, 2)),
}


@pytest.mark.parametrize("size", [-9999, 1e10, 1e37, np.inf, np.nan])
@pytest.mark.parametrize("options", KERNELS)
def test_pictures_with_no_data_below_a_row(options, size):
    """Rows that do not see it are what they were, and so is a loss over them with its gradient."""
    some = dict(strides=(1, 1), padding=((1, 1), (1, 1))) | KERNELS[options]
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(4, 32, 32, 16)).astype(np.float32)
    picture = clean.copy()
    picture[:, 18:] = size
    kernel = rng.normal(size=(3, 3, 16 // some.get("groups", 1), 16)).astype(np.float32)
    rows = {"strides": 8, "dilation": 15, "zeros between": 34}.get(options, 17)

    @jax.jit
    def seen(x, kernel):
        return convolve(x, kernel, **some)[:, :rows]

    def loss(x, kernel):
        return jnp.square(seen(x, kernel)).mean()

    before, after = seen(clean, kernel), seen(picture, kernel)
    np.testing.assert_allclose(after, before, rtol=0, atol=PROMISE * np.abs(before).max())
    expected, by_x = jax.value_and_grad(loss)(clean, kernel)
    found, slope = jax.value_and_grad(loss)(picture, kernel)
    assert abs(found - expected) <= PROMISE * expected
    far = PROMISE * np.abs(by_x).max()
    np.testing.assert_allclose(slope, by_x, rtol=0, atol=far)
    if np.isfinite(size):
        by_kernel = jax.grad(loss, 1)
        expected = by_kernel(clean, kernel)
        far = PROMISE * np.abs(expected).max()
        np.testing.assert_allclose(by_kernel(picture, kernel), expected, rtol=0, atol=far)


@pytest.mark.parametrize("wanted", OPERANDS)
@pytest.mark.parametrize("size", [1e19, 1e30, 1e37, 3e37])
def test_pictures_of_large_numbers(size, wanted):
    """What direct convolution finds is found, and nothing else becomes infinite."""
    form = FORMS["same"]
    given = arrays(form, 1, 2, 8, 9)
    large = given | {
        n: given[n] * np.float32(s) for n, s in zip("xwy", (size, 0.03, 0.03), strict=True)
    }
    if wanted == "x":
        large |= {"y": given["y"] * np.float32(size)}
    for tile in (2, 4):
        expected = computed(wanted, form, large, 0)
        found = computed(wanted, form, large, tile)
        assert np.isfinite(found).all() == np.isfinite(expected).all()
        finite = np.isfinite(expected)
        far = PROMISE * np.abs(expected[finite]).max()
        np.testing.assert_allclose(found[finite], expected[finite], rtol=0, atol=far)


def drawn(kind, given, rng):
    """Numbers of a kind for x and y; the kernel stays normal."""
    make = {
        "normal": lambda a: a,
        "relu": lambda a: np.maximum(a, 0),
        "uniform": lambda a: rng.uniform(size=a.shape).astype(a.dtype),
        "shared": lambda a: 0.3 * a + a[..., :1],
    }
    return given | {name: make[kind](given[name]) for name in "xy"}


@pytest.mark.fast_cases("normal-16", "relu-64")
@pytest.mark.parametrize("inputs", [8, 16, 64, 256, 512, 1024, 2048])
@pytest.mark.parametrize("kind", ["normal", "relu", "uniform", "shared"])
def test_usual_numbers_are_near_float64(kind, inputs):
    form = form_of((16, 16) if inputs < 256 else (8, 8), (3, 3), low=1, high=1)
    given = drawn(kind, arrays(form, 1, 2, inputs, 16), np.random.default_rng(1))
    for wanted in OPERANDS:
        expected = exact(wanted, form, **given)
        for tile in (0, 2, 4):
            error = np.abs(computed(wanted, form, given, tile) - expected).max()
            assert error <= PROMISE * np.abs(expected).max()


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("wanted", OPERANDS)
def test_in_16_bits_a_result_is_one_rounding_from_the_direct_one(wanted, tile):
    form = FORMS["same"]
    given = arrays(form, 1, 2, 33, 16, dtype="bfloat16")
    lifted = {name: np.float32(a) for name, a in given.items()}
    direct = computed(wanted, form, lifted, 0)
    found = np.float32(computed(wanted, form, given, tile))
    most = 2.0**-8 * np.abs(direct) + PROMISE * np.abs(direct).max()
    assert (np.abs(found - direct) <= most).all()
