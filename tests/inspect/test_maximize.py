"""Activation maximization, where the best image is known."""

import jax
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import maximize_activation
from jaxnet.inspect.maximize import blur_matrix

SHAPE = (6, 5, 2)
PLAIN = {"jitter": 0, "blur": 0.0, "learning_rate": 0.1, "steps": 40}
LINEAR = jn.serial(jn.flatten(), jn.dense(4))
SUM = jn.serial(jn.conv(1, 1, use_bias=False, kernel_init=jn.initializers.ones))


def best(net, units, path=None, key=1, **options):
    """The largest kernel, of a unit first, and the images that are found for the units."""
    params, state = net.init(jax.random.key(0), jn.spec((1, *SHAPE)))
    given = PLAIN | options | {"key": jax.random.key(key), "shape": SHAPE}
    found = maximize_activation(net, params, state, path, units, **given)
    kernel = np.asarray(jax.tree.leaves(params)[-1])
    weights = kernel.T.reshape(4, *SHAPE) if net is LINEAR else kernel[0, 0].T
    return weights, np.asarray(found)


@pytest.mark.slow
def test_a_linear_unit_wants_1_where_its_weight_is_positive_and_0_elsewhere():
    kernel, found = best(LINEAR, [2, 0])
    np.testing.assert_array_equal(found, kernel[[2, 0]] > 0)


@pytest.mark.slow
def test_decay_finds_the_balance():
    """max w x - decay (x - 0.5)²: x = 0.5 + w / (2 decay)."""
    kernel, found = best(LINEAR, [1], decay=2.0, steps=500, learning_rate=0.02)
    wanted = np.clip(0.5 + kernel[1] / 4, 0, 1)
    np.testing.assert_allclose(found[0], wanted, atol=2e-3)


@pytest.mark.slow
def test_a_map_is_the_mean_of_its_places_and_a_place_one_of_them():
    net = jn.serial(jn.conv(3, 1, use_bias=False), jn.global_avg_pool())
    kernel, (whole, place) = best(net, [1, (2, 3, 1)], "conv")
    wanted = np.broadcast_to(kernel[1] > 0, SHAPE)
    np.testing.assert_array_equal(whole, wanted)
    np.testing.assert_array_equal(place[2, 3], wanted[2, 3])
    rest = np.delete(place.reshape(-1, 2), 2 * 5 + 3, 0)
    assert 0.3 < rest.mean() < 0.7  # as it began
    assert (rest > 0).all()
    assert (rest < 1).all()


@pytest.mark.slow
def test_decay_is_weighed_against_the_mean_over_places():
    """max mean(w x) - decay sum (x - 0.5)²: x = 0.5 + w / (2 decay places)."""
    net = jn.serial(jn.conv(3, 1, use_bias=False))
    kernel, (found,) = best(net, [1], decay=0.1, steps=500, learning_rate=0.02)
    wanted = np.clip(0.5 + kernel[1] / (2 * 0.1 * 30), 0, 1)
    np.testing.assert_allclose(found, np.broadcast_to(wanted, SHAPE), atol=2e-3)


@pytest.mark.slow
def test_moves_reach_as_far_as_said_in_each_direction():
    _, (found,) = best(SUM, [(3, 2, 0)], jitter=1, steps=150)
    wanted = np.zeros(SHAPE[:2], bool)
    wanted[2:5, 1:4] = True
    np.testing.assert_array_equal((found > 0.9).all(-1), wanted)


@pytest.mark.slow
def test_blur_is_a_mean_over_neighbors():
    rows = blur_matrix(9, 1.3)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(rows[4, 5] / rows[4, 4], np.exp(-1 / 2 / 1.3**2), rtol=1e-5)
    _, (sharp,) = best(LINEAR, [0], blur=0.0)
    kernel, (soft,) = best(LINEAR, [0], blur=1.5)
    rows = blur_matrix(6, 1.5)
    columns = blur_matrix(5, 1.5)  # what is seen is rows @ z @ columns.T
    z = np.einsum("hi,hwc,wj->ijc", rows, kernel[0], columns) > 0
    wanted = np.einsum("hi,ijc,wj->hwc", rows, z, columns)
    np.testing.assert_allclose(soft, wanted, rtol=1e-5, atol=1e-5)
    assert roughness(soft) < 0.5 * roughness(sharp)
    assert soft.min() >= 0
    assert soft.max() <= 1


def roughness(x):
    return np.abs(np.diff(x, axis=1)).mean()


@pytest.mark.slow
def test_the_background_the_key_and_the_first_step():
    """Adam's first step is the rate, along the sign of w x - decay (x - background)²."""

    def run(key, background, learning_rate=0.0, **options):
        options |= {"background": background, "learning_rate": learning_rate}
        _, (found,) = best(LINEAR, [0], key=key, steps=1, **options)
        return found

    bright = run(1, 0.7)
    gray = run(1, 0.5)
    assert abs(bright.mean() - 0.7) < 0.04
    assert 0.07 < gray.std() < 0.13
    np.testing.assert_allclose(bright - gray, 0.2, atol=0.1)
    assert (gray != run(2, 0.5)).all()
    kernel, _ = best(LINEAR, [0])
    slope = kernel[0] - 2 * 1.5 * (bright - 0.7)
    moved = np.clip(bright + 0.25 * np.sign(slope), 0, 1)
    found = run(1, 0.7, learning_rate=0.25, decay=1.5)
    np.testing.assert_allclose(found, moved, atol=1e-4)


@pytest.mark.parametrize("change, error, words", [
    ({"path": "conv"}, ValueError, "serial has no layer 'conv'; layers inside: flatten, dense"),
    ({"path": 3}, TypeError, "path must be the name of a layer inside, got int"),
    ({"units": [4]}, ValueError, r"unit 4 is out of range for serial/dense.*\(4,\)"),
    ({"units": 3}, TypeError, "units must be a list of at least one unit, got 3"),
    ({"units": [(0, None)]}, TypeError, "a unit must be a number or a tuple of them"),
    ({"shape": (6, 5)}, TypeError, r"shape must be \(height, width, channels\)"),
    ({"background": 2}, ValueError, r"background must be in \[0, 1\], got 2"),
    ({"decay": -1}, ValueError, "decay must be in"),
    ({"jitter": -1}, ValueError, "jitter must be at least 0"),
    ({"blur": np.nan}, ValueError, "blur must be in"),
], ids=str)  # fmt: skip
def test_refusals(change, error, words):
    params, state = LINEAR.init(jax.random.key(0), jn.spec((1, *SHAPE)))
    given = {"path": "dense", "units": [0], "key": jax.random.key(0), "shape": SHAPE} | change
    with pytest.raises(error, match=words):
        maximize_activation(LINEAR, params, state, **given)
