"""Activation maximization, where the best image is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import maximize_activation
from jaxnet.inspect.maximize import _blur

SHAPE = (6, 5, 2)
PLAIN = {"jitter": 0, "blur": 0.0, "learning_rate": 0.1, "steps": 40}


def linear():
    net = jn.serial(jn.flatten(), jn.dense(4))
    return net, *net.init(jax.random.key(0), jn.spec((1, *SHAPE)))


@pytest.mark.slow
def test_a_linear_unit_wants_1_where_its_weight_is_positive_and_0_elsewhere():
    net, params, state = linear()
    found = maximize_activation(net, params, state, None, [2, 0], jax.random.key(1), SHAPE, **PLAIN)
    kernel = np.asarray(params["dense"]["kernel"]).T.reshape(4, *SHAPE)
    np.testing.assert_array_equal(found, kernel[[2, 0]] > 0)


@pytest.mark.slow
def test_decay_finds_the_balance():
    """max w x - decay (x - 0.5)²: x = 0.5 + w / (2 decay)."""
    net, params, state = linear()
    found = maximize_activation(
        net, params, state, None, [1], jax.random.key(1), SHAPE, decay=2.0,
        **PLAIN | {"steps": 500, "learning_rate": 0.02},
    )  # fmt: skip
    kernel = np.asarray(params["dense"]["kernel"]).T.reshape(4, *SHAPE)
    np.testing.assert_allclose(found[0], np.clip(0.5 + kernel[1] / 4, 0, 1), atol=2e-3)


@pytest.mark.slow
def test_a_map_is_the_mean_of_its_places_and_a_place_one_of_them():
    net = jn.serial(jn.conv(3, 1, use_bias=False), jn.global_avg_pool())
    params, state = net.init(jax.random.key(0), jn.spec((1, *SHAPE)))
    kernel = np.asarray(params["conv"]["kernel"])[0, 0]  # (inputs, maps)
    key = jax.random.key(1)
    whole, place = maximize_activation(
        net, params, state, "conv", [1, (2, 3, 1)], key, SHAPE, **PLAIN
    )
    wanted = np.broadcast_to(kernel[:, 1] > 0, SHAPE)
    np.testing.assert_array_equal(whole, wanted)
    np.testing.assert_array_equal(place[2, 3], wanted[2, 3])
    rest = np.delete(np.asarray(place).reshape(-1, 2), 2 * 5 + 3, 0)
    assert 0.3 < rest.mean() < 0.7 and (rest > 0).all() and (rest < 1).all()  # as it began


@pytest.mark.slow
def test_decay_is_weighed_against_the_mean_over_places():
    """max mean(w x) - decay sum (x - 0.5)²: x = 0.5 + w / (2 decay places)."""
    net = jn.serial(jn.conv(3, 1, use_bias=False))
    params, state = net.init(jax.random.key(0), jn.spec((1, *SHAPE)))
    kernel = np.asarray(params["conv"]["kernel"])[0, 0]  # (inputs, maps)
    (found,) = maximize_activation(
        net, params, state, None, [1], jax.random.key(1), SHAPE, decay=0.1,
        **PLAIN | {"steps": 500, "learning_rate": 0.02},
    )  # fmt: skip
    wanted = np.clip(0.5 + kernel[:, 1] / (2 * 0.1 * 30), 0, 1)
    np.testing.assert_allclose(found, np.broadcast_to(wanted, SHAPE), atol=2e-3)


def test_moves_reach_as_far_as_said_in_each_direction():
    net = jn.serial(jn.conv(1, 1, use_bias=False, kernel_init=jn.initializers.ones))
    params, state = net.init(jax.random.key(0), jn.spec((1, *SHAPE)))
    (found,) = maximize_activation(
        net, params, state, None, [(3, 2, 0)], jax.random.key(1), SHAPE,
        **PLAIN | {"jitter": 1, "steps": 150},
    )  # fmt: skip
    wanted = np.zeros(SHAPE[:2], bool)
    wanted[2:5, 1:4] = True
    np.testing.assert_array_equal((found > 0.9).all(-1), wanted)


@pytest.mark.slow
def test_moves_make_all_places_alike():
    """A unit of one place gets its image everywhere, once the image moves far enough."""
    net = jn.serial(jn.conv(1, 1, use_bias=False, kernel_init=jn.initializers.ones))
    params, state = net.init(jax.random.key(0), jn.spec((1, *SHAPE)))
    options = PLAIN | {"jitter": 3, "steps": 300}
    found = maximize_activation(
        net, params, state, None, [(2, 3, 0)], jax.random.key(1), SHAPE, **options
    )
    assert float(found.min()) > 0.9


def test_blur_is_a_mean_over_neighbors():
    rows = _blur(9, 1.3)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(rows[4, 5] / rows[4, 4], np.exp(-1 / 2 / 1.3**2), rtol=1e-5)
    net, params, state = linear()
    sharp, soft = (
        maximize_activation(
            net, params, state, None, [0], jax.random.key(1), SHAPE, **PLAIN | {"blur": b}
        )
        for b in (0.0, 1.5)
    )
    kernel = np.asarray(params["dense"]["kernel"])[:, 0].reshape(SHAPE)
    rows, columns = _blur(6, 1.5), _blur(5, 1.5)  # what is seen is rows @ z @ columns.T
    z = np.einsum("hi,hwc,wj->ijc", rows, kernel, columns) > 0
    np.testing.assert_allclose(
        soft[0], np.einsum("hi,ijc,wj->hwc", rows, z, columns), rtol=1e-5, atol=1e-5
    )
    roughness = [float(jnp.abs(jnp.diff(x, axis=1)).mean()) for x in (sharp, soft)]
    assert roughness[1] < 0.5 * roughness[0]
    assert float(soft.min()) >= 0 and float(soft.max()) <= 1


def test_the_background_the_key_and_the_first_step():
    """Adam's first step is the rate, along the sign of w x - decay (x - background)²."""
    net, params, state = linear()

    def run(key, background, **options):
        found = maximize_activation(
            net, params, state, None, [0], jax.random.key(key), SHAPE, background=background,
            **PLAIN | {"steps": 1, "learning_rate": 0.0} | options,
        )  # fmt: skip
        return np.asarray(found[0])

    bright, gray = run(1, 0.7), run(1, 0.5)
    assert abs(bright.mean() - 0.7) < 0.04 and 0.07 < gray.std() < 0.13
    np.testing.assert_allclose(bright - gray, 0.2, atol=0.1)
    assert (gray != run(2, 0.5)).all()
    kernel = np.asarray(params["dense"]["kernel"])[:, 0].reshape(SHAPE)
    slope = kernel - 2 * 1.5 * (bright - 0.7)
    moved = np.clip(bright + 0.25 * np.sign(slope), 0, 1)
    np.testing.assert_allclose(run(1, 0.7, learning_rate=0.25, decay=1.5), moved, atol=1e-4)


def test_messages():
    net, params, state = linear()
    key = jax.random.key(0)
    with pytest.raises(
        ValueError, match="serial has no layer 'conv'; layers inside: flatten, dens"
    ):
        maximize_activation(net, params, state, "conv", [0], key, SHAPE)
    with pytest.raises(ValueError, match=r"unit 4 is out of range for serial/dense.*\(4,\)"):
        maximize_activation(net, params, state, "dense", [4], key, SHAPE)
    with pytest.raises(ValueError, match=r"background must be in \[0, 1\], got 2"):
        maximize_activation(net, params, state, "dense", [0], key, SHAPE, background=2)


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"path": 3}, TypeError, "path must be the name of a layer inside, got int"),
    ({"units": 3}, TypeError, "units must be a list of at least one unit, got 3"),
    ({"units": []}, TypeError, "units must be a list of at least one unit"),
    ({"units": [1.5]}, TypeError, "a unit must be a number or a tuple of them, got 1.5"),
    ({"units": [(0, None)]}, TypeError, "a unit must be a number or a tuple of them"),
    ({"key": 3}, TypeError, "expected a single key"),
    ({"shape": (6, 5)}, TypeError, r"shape must be \(height, width, channels\)"),
    ({"shape": (6, 5, 0)}, ValueError, "channels must be at least 1"),
    ({"steps": 2.5}, TypeError, "steps must be an integer"),
    ({"learning_rate": "a"}, TypeError, "learning_rate must be a number"),
    ({"background": np.nan}, ValueError, r"background must be in \[0, 1\], got nan"),
    ({"decay": -1}, ValueError, "decay must be in"),
    ({"jitter": -1}, ValueError, "jitter must be at least 0"),
    ({"blur": np.nan}, ValueError, "blur must be in"),
], ids=str)  # fmt: skip
def test_arguments_of_another_type(change, error, words):
    net, params, state = linear()
    given = {"path": "dense", "units": [0], "key": jax.random.key(0), "shape": SHAPE} | change
    with pytest.raises(error, match=f"maximize_activation: {words}"):
        maximize_activation(net, params, state, **given)
