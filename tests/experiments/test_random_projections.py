import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import random_projections
from experiments.random_projections import basis_pursuit, distortion, projection_features
from tests.helpers import jit_apply, refuses


def planted(seed, problems=4, unknowns=256, nonzero=20, measurements=100):
    """Gaussian matrices, and signals with `nonzero` normal entries."""
    r = np.random.default_rng(seed)
    A = r.normal(size=(problems, measurements, unknowns)) / math.sqrt(measurements)
    x = np.zeros((problems, unknowns))
    for row in x:
        row[r.choice(unknowns, nonzero, replace=False)] = r.normal(size=nonzero)
    return A, x, np.einsum("bmn,bn->bm", A, x)


@pytest.fixture(scope="module")
def solve():
    return jax.jit(jax.vmap(basis_pursuit))


@pytest.mark.slow
def test_planted_codes_come_back(solve):
    """20 entries of 256 from 100 measurements, four problems, in float32."""
    A, x, y = planted(0)
    found = solve(A.astype(np.float32), y.astype(np.float32))
    error = np.linalg.norm(found - x, axis=1) / np.linalg.norm(x, axis=1)
    assert found.dtype == jnp.float32
    assert (error > 1e-9).all()
    assert (error < 1e-5).all()  # asked for: 1e-3


def test_too_few_measurements_do_not_bring_it_back(solve):
    A, x, y = planted(0, nonzero=60)
    A, y = A.astype(np.float32), y.astype(np.float32)
    found = np.asarray(solve(A, y))
    assert (np.linalg.norm(found - x, axis=1) / np.linalg.norm(x, axis=1) > 0.1).all()
    np.testing.assert_allclose(np.einsum("bmn,bn->bm", A, found), y, atol=1e-4)
    # and yet its norm is no larger than that of what was planted
    assert (np.abs(found).sum(1) < np.abs(x).sum(1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("positive", [False, True])
def test_equals_linear_programming(positive, x64):
    """Also where the sparse signal is not what has the smallest norm; scipy 1.17.1."""
    optimize = pytest.importorskip("scipy.optimize", reason="needs scipy")
    for nonzero in (3, 9):
        A, x, y = planted(7, 1, unknowns=30, nonzero=nonzero, measurements=12)
        A, x = A[0], np.abs(x[0]) if positive else x[0]
        y = A @ x
        # x = u - v with u and v not negative
        wide = A if positive else np.hstack([A, -A])
        solved = optimize.linprog(np.ones(wide.shape[1]), A_eq=wide, b_eq=y)
        u = solved.x if positive else solved.x[:30] - solved.x[30:]
        found = basis_pursuit(A, y, 20_000, positive=positive)
        np.testing.assert_allclose(found, u, atol=1e-7)
        assert float(jnp.abs(found).sum()) == pytest.approx(solved.fun, rel=1e-7)


@pytest.mark.slow
def test_several_signals_of_one_matrix_and_any_scale():
    A, x, _ = planted(1, problems=6)
    solve = jax.jit(basis_pursuit)
    for scale in (1e-6, 1.0, 1e6):
        signals = (scale * x).reshape(2, 3, 256).astype(np.float32)
        y = signals @ A[0].T.astype(np.float32)
        found = solve(A[0].astype(np.float32), y)
        assert found.shape == (2, 3, 256)
        np.testing.assert_allclose(found, signals, atol=2e-5 * scale)
    alone = solve(A[0].astype(np.float32), y[1, 2])
    np.testing.assert_allclose(alone, found[1, 2], atol=2e-5 * scale)


@pytest.mark.slow
def test_as_many_measurements_as_unknowns_and_nothing_measured():
    A = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_allclose(basis_pursuit(A, A @ x, 3), x, atol=1e-4)
    np.testing.assert_array_equal(basis_pursuit(A[:3], np.zeros(3, np.float32)), np.zeros(5))


def test_distances_are_kept_as_theory_says():
    """‖y‖²/‖x‖² has variance 2/m for dense vectors."""
    features, points = 200, 60
    x = np.random.default_rng(0).normal(size=(points, 800)).astype(np.float32)
    layer = random_projections.random_projection(features)
    params, state = layer.init(jax.random.key(5), x)
    y, _ = jit_apply(layer, params, state, x)
    found = distortion(x, y)
    assert found.shape == (points * (points - 1) // 2,)
    assert 0.8 < found.std() / math.sqrt(2 / features) < 1.2
    assert abs(found.mean()) < 0.02
    largest = abs(found).max()
    assert 0.2 < largest < 0.45
    assert projection_features(points, largest) > features  # the bound asks for more than needed
    variance = float((params["kernel"] ** 2).mean()) * features
    assert abs(variance - 1) < 4 * math.sqrt(2 / params["kernel"].size)


@pytest.mark.slow
def test_projection_is_a_dense_layer():
    layer = random_projections.random_projection(4)
    params, state = layer.init(jax.random.key(0), jn.spec((3, 5)))
    assert params["kernel"].shape == (5, 4)
    assert list(params) == ["kernel"]
    assert state == {}
    dense = jn.dense(4, use_bias=False)
    x = jnp.ones((3, 5))
    y = jit_apply(layer, params, state, x)[0]
    other = jit_apply(dense, params, state, x)[0]
    np.testing.assert_array_equal(y, other)


def test_distortion_by_hand():
    x = np.array([[0.0, 0], [3, 4], [3, 4], [6, 8]])
    np.testing.assert_array_equal(distortion(x, 2 * x), [3, 3, 3, 0, 3, 3])
    broken = distortion(x, np.array([[0.0], [5], [6], [10]]))
    np.testing.assert_allclose(broken, [0, 0.44, 0, np.inf, 0, -0.36], atol=1e-12)
    np.testing.assert_allclose(distortion(np.eye(2), 2 * np.eye(2)), [3])  # of two points


def test_distortion_far_from_the_origin():
    """Differences first: in products of float32 the distances would drown."""
    x = 1e4 + np.array([[0.0, 0], [1, 0], [0, 2]])
    np.testing.assert_allclose(distortion(x, x[:, :1]), [0, -1, -0.8], atol=1e-12)


@pytest.mark.parametrize(("points", "epsilon"), [(2, 0.9), (100, 0.3), (10**6, 0.05)])
def test_projection_features_are_those_of_scikit_learn(points, epsilon):
    sklearn = pytest.importorskip("sklearn.random_projection", reason="needs scikit-learn")
    asked = sklearn.johnson_lindenstrauss_min_dim(points, eps=epsilon)  # sklearn 1.9.1, floored
    assert 0 <= projection_features(points, epsilon) - asked <= 1


def ones(*shapes):
    return [np.ones(shape, np.float32) for shape in shapes]


test_what_does_not_fit_raises = refuses([
    (lambda: basis_pursuit(*ones((5, 3), (5,))), "basis_pursuit: A must .*measurements"),
    (lambda: basis_pursuit(*ones((3, 5), (5,))), "basis_pursuit: y must .*measurements"),
    (lambda: basis_pursuit(*ones((3, 5), ())), "basis_pursuit: y must .*measurements"),
    (lambda: basis_pursuit(*ones((1, 2), (1,)), 0), "steps must be at least 1, got 0"),
    (lambda: distortion(*ones((3, 2), (4, 2))), "distortion: projected must have .* = 3, got"),
    (lambda: distortion(*ones((3,), (3,))), "distortion: x must have shape"),
    (lambda: distortion(*ones((1, 2), (1, 2))), "distortion: .*at least two points"),
    (lambda: projection_features(1, 0.5), "points must be at least 2"),
    (lambda: projection_features(5, 1), "distortion must be in"),
])  # fmt: skip
