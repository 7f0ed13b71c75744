"""Weights of resampling: sums, ends, and the kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.ops.resample import average, cubic, interpolation, nearest, triangle, weighted, windows

SIZES = [(7, 3), (3, 7), (1, 4), (6, 1)]


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_every_output_is_a_mean(inputs, outputs):
    """Rows sum to 1, so a constant stays one."""
    scale = outputs / inputs
    tables = [average(inputs, outputs)]
    for kernel in (triangle, cubic(-0.75)):
        for antialias in (False, True):
            options = {"align_corners": False, "antialias": antialias}
            tables.append(interpolation(inputs, outputs, scale, kernel, **options))
    for weights in tables:
        assert weights.shape == (outputs, inputs)
        np.testing.assert_allclose(weights.sum(1), 1, 1e-12)


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_windows_cover_the_input_in_order(inputs, outputs):
    found = windows(inputs, outputs)
    assert found[0][0] == 0 and found[-1][1] == inputs
    assert all(first < end for first, end in found)
    assert all(b[0] <= a[1] for a, b in zip(found, found[1:], strict=False))


def test_corners_stay_where_they_are():
    """Three entries spread over five: the outermost ones coincide, those in between are halfway."""
    for kernel in (triangle, cubic(-0.5)):
        weights = interpolation(4, 7, 7 / 4, kernel, align_corners=True, antialias=False)
        found = weights @ np.array([0.0, 10, 20, 30])
        np.testing.assert_allclose(found[[0, 2, 4, 6]], [0, 10, 20, 30], atol=1e-9)
        np.testing.assert_allclose(found[3], 15)
    weights = interpolation(3, 5, 5 / 3, triangle, align_corners=True, antialias=False)
    np.testing.assert_allclose(weights @ np.array([0.0, 10, 40]), [0, 5, 10, 25, 40])


def test_a_stretched_kernel_sees_all_entries_between():
    """Six entries to two: places 1 and 4, weights 1, 2, 3, 2, 1 of 9, cut at the ends."""
    weights = interpolation(6, 2, 1 / 3, triangle, align_corners=False, antialias=True)
    first = np.array([2, 3, 2, 1, 0, 0]) / 8
    np.testing.assert_allclose(weights, [first, first[::-1]], atol=1e-12)


def test_cubic_kernels_by_hand():
    """Keys: (a + 2) d³ - (a + 3) d² + 1 up to 1, a (d³ - 5 d² + 8 d - 4) up to 2."""
    distance = np.array([0, 0.5, -0.5, 1, 1.5, -1.5, 2, 3])
    wanted = [1, 0.5625, 0.5625, 0, -0.0625, -0.0625, 0, 0]
    np.testing.assert_allclose(cubic(-0.5)(distance), wanted)


def test_places_that_are_whole_numbers_up_to_rounding():
    # 3 / 0.6 is 5.000000000000001 or 4.999999999999999 depending on how it is written
    assert nearest(10, 6, 0.6, centers=False).tolist() == [0, 1, 3, 5, 6, 8]
    assert nearest(10, 11, 1.1, centers=False)[-1] == 9


@pytest.mark.fast_cases("True-triangle", "True-kernel")
@pytest.mark.parametrize("kernel", [triangle, cubic(-0.75)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_upsampling_by_a_whole_factor_costs_a_few_products_per_output(kernel, align_corners):
    options = {"align_corners": align_corners, "antialias": False}
    weights = interpolation(20, 60, 3.0, kernel, **options)
    x = jax.random.normal(jax.random.key(0), (2, 5, 20, 3))

    def up(x):
        return weighted(x, 2, weights)

    np.testing.assert_allclose(up(x), np.einsum("oi,nkif->nkof", weights, x), atol=1e-5)
    gradient = jax.grad(lambda x: jnp.square(up(x)).sum())
    back = np.einsum("oi,nkof->nkif", weights, 2 * up(x))
    np.testing.assert_allclose(gradient(x), back, atol=1e-5)
    # A product with all weights takes 2 * 20 for each output, and again for the gradient.
    for function, most in ((up, 10), (gradient, 20)):
        cost = jax.jit(function).lower(x).compile().cost_analysis()
        assert cost["flops"] <= most * up(x).size


def test_upsampling_by_a_large_factor_is_one_product(inputs=14, outputs=224):
    """A program with a term for each place between two inputs would be long, and slower."""
    options = {"align_corners": False, "antialias": False}
    weights = interpolation(inputs, outputs, outputs / inputs, triangle, **options)
    x = jax.random.normal(jax.random.key(0), (2, inputs, 3))
    np.testing.assert_allclose(weighted(x, 1, weights), weights @ np.asarray(x), atol=1e-5)
    assert len(jax.make_jaxpr(lambda x: weighted(x, 1, weights))(x).eqns) < 5
