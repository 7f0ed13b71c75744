"""Initializers: the variances of jax.nn.initializers, the same under every transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import initializers as ours
from tests.helpers import KEY, refuses

NAMES = ["lecun_normal", "he_normal", "glorot_normal", "glorot_uniform"]
PAIRS = [(getattr(ours, name), getattr(jax.nn.initializers, name)) for name in NAMES]
pairs = pytest.mark.parametrize(("mine", "theirs"), PAIRS, ids=NAMES)


@pairs
@pytest.mark.parametrize("shape", [(300, 500), (3, 5, 60, 100)], ids=["dense", "conv"])
def test_distribution_is_that_of_jax(mine, theirs, shape):
    a = np.asarray(mine()(jax.random.key(0), shape))
    b = np.asarray(theirs()(jax.random.key(1), shape))
    standard_error = a.std() / a.size**0.5
    assert abs(a.mean()) < 4 * standard_error
    np.testing.assert_allclose(a.std(), b.std(), rtol=0.02)
    np.testing.assert_allclose(np.abs(a).max(), np.abs(b).max(), rtol=0.02)
    places = [0.05, 0.25, 0.75, 0.95]
    found, wanted = np.quantile(a, places), np.quantile(b, places)
    np.testing.assert_allclose(found, wanted, atol=0.02 * a.std() * 4)


@pairs
def test_samples_do_not_repeat_across_blocks(mine, theirs):
    size = 3 * 2**14  # three blocks
    draws = np.asarray(mine()(KEY, (size, 1)))
    assert len(np.unique(draws)) > 0.99 * size


@pytest.mark.slow
def test_same_under_jit_vmap_and_eager():
    init = ours.lecun_normal()
    shape = (200, 170)  # three blocks

    def draw(key):
        return init(key, shape)

    eager = draw(KEY)
    np.testing.assert_allclose(jax.jit(draw)(KEY), eager, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(draw)(KEY[None])[0], eager, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda: draw(KEY))(), eager, rtol=1e-6)
    assert jax.eval_shape(draw, KEY).shape == shape


@pytest.mark.slow
def test_dtypes(x64):
    for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
        assert ours.he_normal()(KEY, (3, 4), dtype).dtype == dtype
        assert ours.zeros(KEY, (3,), dtype).dtype == dtype
    samples = np.asarray(ours.normal(1.0)(KEY, (99, 9), jnp.float64))
    assert len(np.unique(samples)) == 99 * 9


def test_axes_of_a_grouped_kernel():
    # fan_in = 5 * 4 of in_axis (0, 1)
    kernel = ours.he_normal(in_axis=(0, 1), out_axis=2)(KEY, (5, 4, 5000))
    np.testing.assert_allclose(kernel.var(), 2 / 20, rtol=0.02)


def test_normal_and_constant():
    samples = ours.normal(0.3)(KEY, (200, 200))
    np.testing.assert_allclose(samples.std(), 0.3, rtol=0.02)
    assert ours.constant(0.25)(KEY, (3,)).tolist() == [0.25] * 3
    assert ours.ones(KEY, (3,)).tolist() == [1, 1, 1]


def test_a_kernel_without_inputs_is_drawn():
    assert ours.lecun_normal()(KEY, (0, 3)).shape == (0, 3)


test_messages = refuses([
    (lambda: ours.variance_scaling(1.0, "fan", "normal"), "mode must be 'fan_in', .* got 'fan'"),
    (lambda: ours.variance_scaling(1.0, "fan_in", "gauss"), "distribution must be .* got 'gauss'"),
    (lambda: ours.dirac()(KEY, (3, 4)), r"\(\*window, inputs, features\), got \(3, 4\)"),
    (lambda: ours.dirac(1), TypeError, "dirac: rest must be a function"),
])  # fmt: skip


@pytest.mark.slow
def test_dirac_passes_inputs_on_and_draws_the_rest():
    x = jax.random.normal(KEY, (2, 5, 4, 3))
    kernel = ours.dirac()(KEY, (3, 3, 3, 7))
    axes = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)
    np.testing.assert_array_equal(y[..., :3], x)
    assert not y[..., 3:].any()

    def draw(key):
        return ours.dirac(ours.he_normal())(key, (3, 3, 3, 7))

    kernel = draw(KEY)
    rest = ours.he_normal()(KEY, (3, 3, 3, 7))
    np.testing.assert_array_equal(kernel[..., :3], ours.dirac()(KEY, (3, 3, 3, 3)))
    np.testing.assert_array_equal(kernel[..., 3:], rest[..., 3:])
    np.testing.assert_allclose(jax.jit(draw)(KEY), kernel, rtol=1e-6)
    assert ours.dirac()(KEY, (3, 2, 2), jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 3, 4, 4), (3, 5, 4, 6, 2)])
def test_dirac_is_that_of_torch(shape, torch):
    axes = [len(shape) - 1, len(shape) - 2, *range(len(shape) - 2)]  # features, inputs, *window
    empty = torch.empty([shape[axis] for axis in axes])
    theirs = torch.nn.init.dirac_(empty).numpy()
    ours_by_window = np.asarray(ours.dirac()(KEY, shape))
    np.testing.assert_array_equal(ours_by_window.transpose(axes), theirs)
