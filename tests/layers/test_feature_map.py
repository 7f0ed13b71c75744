import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.layers import polynomial, random_fourier, rbf
from tests.helpers import KEY, jit_apply, refuses

X = np.random.default_rng(0).normal(size=(7, 4))


# polynomial


def test_polynomial_slopes_at_0():
    """d(ab)/da = b also where a = 0, and d(a²)/da = 0."""
    slopes = jax.jit(jax.jacobian(lambda x: polynomial(2).apply({}, {}, x)[0][0]))
    jacobian = slopes(jnp.array([[0.0, 3.0]]))
    assert jacobian[:, 0].tolist() == [[1, 0], [0, 1], [0, 0], [3, 0], [0, 6]]  # a b aa ab bb


def test_polynomial_leaves_middle_axes_alone():
    x = jnp.array(X[:6].reshape(2, 3, 4), jnp.float32)
    y, _ = jit_apply(polynomial(2), {}, {}, x)
    flat, _ = jit_apply(polynomial(2), {}, {}, x.reshape(6, 4))
    np.testing.assert_array_equal(y.reshape(6, -1), flat)


# rbf


def test_rbf_far_from_the_origin():
    """Years, say: in float32 the squares of 2020 would leave no digit for a distance of 1."""
    params = {"centers": jnp.array([[2020.0], [2021.0]]), "width": jnp.array(1.0)}
    y, _ = jit_apply(rbf(2), params, {}, jnp.array([[2020.0], [2020.5]]))
    want = [[1, math.exp(-1 / 2)], [math.exp(-1 / 8), math.exp(-1 / 8)]]
    np.testing.assert_allclose(y, want, 1e-6)


def test_rbf_begins_with_its_width_and_normal_centers():
    params, _ = rbf(500, width=3.0).init(KEY, jn.spec((2, 40)))
    assert params["width"] == 3
    assert params["centers"].shape == (500, 40)
    assert 0.98 < params["centers"].std() < 1.02
    assert abs(params["centers"].mean()) < 0.03


# random_fourier


def test_random_fourier_approximates_the_gaussian_kernel(bandwidth=0.7):
    """4 waves' worth of deviation; the error falls with the root of their number."""
    pairwise = pytest.importorskip("sklearn.metrics.pairwise", reason="the reference")
    want = pairwise.rbf_kernel(X, gamma=1 / (2 * bandwidth**2))

    def error(features):
        layer = random_fourier(features, bandwidth)
        params, _ = layer.init(KEY, jn.spec((1, 4)))
        z, _ = jit_apply(layer, params, {}, jnp.array(X, jnp.float32))
        return float(np.abs(z @ z.T - want).mean())

    few, many = error(100), error(10_000)
    assert many < 0.012 < 0.02 < few < 0.12


@pytest.mark.slow
def test_random_fourier_draws_as_it_says():
    params, _ = random_fourier(4000, 0.5).init(KEY, jn.spec((2, 3)))
    assert params["kernel"].shape == (3, 4000)
    assert params["bias"].shape == (4000,)
    assert 1.96 < params["kernel"].std() < 2.04  # 1 / bandwidth
    bias = params["bias"] / math.pi
    assert -1 <= bias.min() < -0.99
    assert 0.99 < bias.max() <= 1
    assert abs(bias.mean()) < 0.04
    assert 0.56 < bias.std() < 0.60  # 1 / sqrt(3)
    assert abs(np.corrcoef(params["kernel"][0], params["bias"])[0, 1]) < 0.06


def test_frozen_waves_stay():
    net = jn.serial(jn.freeze(random_fourier(6)), jn.dense(1))
    params, _ = net.init(KEY, jn.spec((2, 3)))
    x = jnp.array(X[:, :3], jnp.float32)
    grads = jax.jit(jax.grad(lambda p: jit_apply(net, p, {}, x)[0].sum()))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads["random_fourier"]))
    assert (grads["dense"]["kernel"] != 0).all()


test_messages = refuses(
    [
        (lambda: polynomial(0), "polynomial: degree must be at least 1, got 0"),
        (lambda: rbf(0), "rbf: features must be at least 1, got 0"),
        (lambda: rbf(3, width=0.0), r"rbf: width must be in \(0, inf\), got 0.0"),
        (lambda: random_fourier(0), "random_fourier: features must be at least 1, got 0"),
        (
            lambda: random_fourier(3, -1.0),
            r"random_fourier: bandwidth must be in \(0, inf\), got -1.0",
        ),
        (lambda: polynomial(2).init(KEY, jn.spec((3,))), r"polynomial: expected .* got \(3,\)"),
    ]
)


def test_products_of_integers_do_not_wrap():
    y, _ = jit_apply(polynomial(4), {}, {}, np.array([[200]], np.uint8))
    np.testing.assert_array_equal(y, np.float32([[200, 200**2, 200**3, 200**4]]))
