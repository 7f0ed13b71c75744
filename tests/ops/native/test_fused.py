"""Convolutions with packed weights and what follows them, against plain operations in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops import fused as ops
from jaxnet.ops.convolution_lowering import Form, accelerator
from jaxnet.ops.fused import ACTIVATIONS, Fused
from jaxnet.ops.native import LIBRARY, fused, instructions
from jaxnet.services.jax_versions import enable_x64

pytestmark = pytest.mark.skipif(instructions() is None, reason="needs the kernels in C")

BOUNDS = ((-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0), (-1.0, 0.5))
TOLERANCE = 1e-5  # of the largest result


def assembled(form, kernel, bias, *, tile=None, batch=1, **what_follows):
    """A description and its constants."""
    inputs, features = kernel.shape[-2] * form.groups, kernel.shape[-1]
    how = fused.plan(form, batch, inputs, features, tile=tile)
    pieces = [kernel.ravel(), fused.padded_bias(bias), np.asarray(fused.packed(kernel, how))]
    places, constants = [], np.zeros(0, np.float32)
    for piece in pieces:
        places.append(len(constants))
        constants = np.concatenate([constants, np.pad(piece, (0, -len(piece) % fused.LINE))])
    kernel_at, bias_at, packed_at = places
    described = Fused(
        form, batch, inputs, features, kernel=kernel_at, bias=bias_at, how=how, packed=packed_at
    )
    return described._replace(**what_follows), jnp.asarray(constants)


def exact(described, x, kernel, bias, added):
    """The result in float64."""
    with enable_x64(True):
        x, kernel = (jnp.asarray(a, "float64")[None] for a in (x, kernel))
        y = accelerator(x, kernel, wanted="y", form=described.form)[0] + np.asarray(bias, "float64")
        if added is not None:
            y += np.asarray(added, "float64")
        y = jnp.clip(y, described.least, described.most)
        return np.asarray(ACTIVATIONS.get(described.activation, lambda y: y)(y))


def drawn_form(rng):
    """A form, inputs and features: odd sizes, one pixel, strides, dilation, groups."""
    axes = int(rng.integers(1, 4))
    kind = rng.choice(["dense", "dense", "each", "grouped", "pointwise", "three by three"])
    if kind == "three by three":
        axes = 2
    size = {1: 40, 2: 15, 3: 6}[axes]
    space = tuple(int(n) for n in rng.integers(1, size, axes))
    window = tuple(int(n) for n in rng.integers(1, 6, axes))
    strides = tuple(int(n) for n in rng.integers(1, 4, axes))
    dilation = tuple(int(n) for n in rng.integers(1, 3, axes))
    if kind == "pointwise":
        window = strides = dilation = (1,) * axes
    if kind == "three by three":
        window, strides, dilation = (3, 3), (1, 1), (1, 1)
    padding = []
    for length, taps, apart in zip(space, window, dilation, strict=True):
        span = (taps - 1) * apart + 1
        low, high = int(rng.integers(0, 3)), int(rng.integers(0, 3))
        padding.append((low, max(high, span - length - low)))
    if kind == "pointwise":
        padding = [(0, 0)] * axes
    groups = int(rng.choice([2, 3, 16])) if kind == "grouped" else 1
    inputs, features = (int(n) * groups for n in rng.integers(1, 40, 2))
    if kind == "each":
        groups = inputs = features = int(rng.choice([16, 32, 48, 5, 33]))
    form = Form(strides, tuple(padding), dilation, (1,) * axes, groups, space, window)
    return form, inputs, features


def check(seed):
    rng = np.random.default_rng(seed)
    form, inputs, features = drawn_form(rng)
    batch = int(rng.choice([1, 1, 2, 5, 33]))
    if math.prod(form.inputs) * batch > 3000:
        batch = 1
    x = rng.normal(size=(batch, *form.inputs, inputs)).astype("float32")
    kernel = rng.normal(size=(*form.window, inputs // form.groups, features)).astype("float32")
    kernel /= np.float32(math.sqrt(math.prod(kernel.shape[:-1])))
    bias = rng.normal(size=features).astype("float32")
    least, most = BOUNDS[rng.integers(len(BOUNDS))]
    activation = str(rng.choice(["", *ACTIVATIONS]))
    follows = {"least": least, "most": most, "activation": activation}
    described, constants = assembled(form, kernel, bias, batch=batch, **follows)
    added = None
    if rng.integers(2):
        added = rng.normal(size=(batch, *form.outputs, features)).astype("float32")
    want = exact(described, x, kernel, bias, added)
    got = np.asarray(jax.jit(ops.apply, static_argnums=0)(described, x, constants, added))
    assert got.shape == want.shape
    error = abs(got - want).max() / max(1e-3, abs(want).max())
    assert error < TOLERANCE, (seed, form, inputs, features, batch, described, error)


@pytest.mark.parametrize("seed", range(24))
def test_random_calls_agree(seed):
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_more_random_calls_agree(seed):
    check(seed)


@pytest.mark.parametrize("tile", [0, 2, 4])
@pytest.mark.parametrize("activation", ["", "gelu"])
def test_tiles_with_huge_numbers_and_zeros_agree(tile, activation):
    rng = np.random.default_rng(0)
    form = Form((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1, (13, 14), (3, 3))
    x = rng.normal(size=(2, 13, 14, 16)).astype("float32")
    x[0, 4, 5] *= 1e12
    x[0, 8:] = 0
    x[1] = 0
    x[1, 3, 3] = 1
    kernel = rng.normal(size=(3, 3, 16, 40)).astype("float32")
    bias = rng.normal(size=40).astype("float32")
    added = rng.normal(size=(2, 13, 14, 40)).astype("float32")
    described, constants = assembled(form, kernel, bias, batch=2, tile=tile, activation=activation)
    want = exact(described, x, kernel, bias, added)
    got = np.asarray(ops.apply(described, x, constants, added))
    seen = np.abs(x).max(-1)  # each result may be off by a part of what its window sees
    for image in range(2):
        for row in range(13):
            for column in range(14):
                window = seen[image, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                limit = 1e-5 * max(10, 100 * window.max())
                assert abs(got - want)[image, row, column].max() < limit, (image, row, column)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_wild_numbers_are_those_of_jax(activation):
    numbers = np.array(
        [
            np.nan,
            np.inf,
            -np.inf,
            3e38,
            -3e38,
            1e10,
            -1e10,
            90,
            -90,
            20,
            -20,
            6,
            -6,
            1e-30,
            -1e-30,
            0.0,
        ],
        np.float32,
    )
    x = np.tile(numbers[:, None], (1, 3))
    form = Form((1,), ((0, 0),), (1,), (1,), 1, (16,), (1,))
    kernel = np.eye(3, dtype=np.float32)[None]
    described, constants = assembled(form, kernel, np.zeros(3, np.float32), activation=activation)
    # a product with zeros would make NaN of infinities, so they are added
    finite = np.where(np.isfinite(x), x, 0)
    added = np.where(np.isfinite(x), 0, x)
    got = np.asarray(ops.apply(described, finite[None], constants, added[None]))[0, :, 0]
    want = np.asarray(ACTIVATIONS[activation](numbers))
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("bound", [(0.0, np.inf), (0.0, 6.0), (-np.inf, 1.0)])
def test_bounds_keep_nan(bound):
    form = Form((1,), ((0, 0),), (1,), (1,), 1, (3,), (1,))
    least, most = bound
    described, constants = assembled(
        form, np.ones((1, 1, 1), np.float32), np.zeros(1, np.float32), least=least, most=most
    )
    x = jnp.array([np.nan, -7.0, 7.0]).reshape(1, 3, 1)
    got = np.asarray(ops.apply(described, x, constants)).ravel()
    np.testing.assert_array_equal(got, np.clip([np.nan, -7.0, 7.0], least, most))


def test_derivatives_and_maps_are_those_of_the_parts():
    rng = np.random.default_rng(0)
    form = Form((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1), 1, (6, 5), (3, 3))
    kernel = rng.normal(size=(3, 3, 4, 8)).astype("float32")
    bias = rng.normal(size=8).astype("float32")
    described, constants = assembled(form, kernel, bias, activation="silu")
    x = rng.normal(size=(1, 6, 5, 4)).astype("float32")

    def of_parts(x):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.silu(y + bias)

    def together(x):
        return ops.apply(described, x, constants)

    want = jax.grad(lambda x: jnp.sin(of_parts(x)).sum())(x)
    got = jax.grad(lambda x: jnp.sin(together(x)).sum())(x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    several = np.stack([x, 2 * x])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(together))(several), jax.vmap(of_parts)(several), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("places", [(10_000, 16, 0), (0, 10_000, 0), (-1, 0, 0)])
def test_places_outside_of_the_constants_are_refused(places):
    form = Form((1,), ((0, 0),), (1,), (1,), 1, (3,), (1,))
    how = fused.plan(form, 1, 2, 2)
    options = {"how": how, "least": -np.inf, "most": np.inf, "activation": "", "places": places}
    with pytest.raises(Exception, match="has_constants"):
        jax.block_until_ready(fused.run(jnp.ones((1, 3, 2)), jnp.ones(64), None, **options))


@pytest.mark.parametrize(("tap", "tile", "is_far"), [(1e4, 2, True), (20, 4, True), (20, 2, False)])
def test_far_taps(tap, tile, is_far):
    kernel = np.ones((3, 3, 8, 8), np.float32)
    kernel[1, 1] = tap
    assert fused.has_far_taps(kernel, tile) == is_far


def test_taps_are_as_far_apart_as_in_c():
    """The constants of winograd_far.h, which decides for weights that are not packed."""
    text = (LIBRARY.parent / "winograd_far.h").read_text("utf-8")
    for constant in (
        "RUN = 128",
        "5.4e-7 + 1.2e-7 * sqrt",
        "1e-10 / (leak * leak)",
        "MOST_W = 1e20",
    ):
        assert constant in text
