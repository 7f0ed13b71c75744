import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.inspect import effective_field, receptive_fields


@pytest.mark.slow
def test_two_means_are_a_triangle():
    """Positive kernels of ones: (1 1 1) * (1 1 1) = (1 2 3 2 1), along each axis."""
    conv = [jn.conv(2, 3, kernel_init=jn.initializers.ones, use_bias=False) for _ in "ab"]
    net = jn.serial(*conv)
    x = jnp.ones((2, 9, 11, 1))
    params, state = net.init(jax.random.key(0), x)
    found = effective_field(net, params, state, x, "conv_1")
    side = np.array([1, 2, 3, 2, 1]) / 3
    needed = np.zeros((9, 11))
    needed[2:7, 3:8] = np.outer(side, side)
    np.testing.assert_allclose(found, needed, atol=1e-6)


@pytest.mark.slow
def test_it_lies_inside_the_theoretical_field():
    net = jn.serial(
        jn.conv(3, 3), jax.nn.relu, jn.max_pool(2), jn.conv(4, 3, name="second"), jax.nn.relu
    )
    x = jax.random.normal(jax.random.key(1), (20, 18, 23, 2))
    params, state = net.init(jax.random.key(0), x)
    fields = receptive_fields(net, x)
    for path in ("conv", "second"):
        found = np.asarray(effective_field(net, params, state, x, path, unit=1))
        rows, columns = np.nonzero(found)
        assert (rows.min(), columns.min()) == fields.starts[path]
        size = (np.ptp(rows) + 1, np.ptp(columns) + 1)
        assert size == fields.fields[path]
        assert found.max() == 1


@pytest.mark.slow
def test_sizes_are_taken_before_means_and_sums():
    """Gradients that cancel over examples and over channels."""
    net = jn.serial(jnp.square, name="squares")
    x = jnp.array([[1.0, -1.0], [-1.0, 1.0]])[:, None, None].repeat(3, 1).repeat(5, 2)
    found = effective_field(net, {}, {}, x, "square")
    assert found[1, 2] == 1 and found.sum() == 1


def test_a_unit_is_one_map():
    sides = jn.serial(
        lambda x: jnp.concatenate([jnp.roll(x, 1, 2), jnp.roll(x, -1, 2)], -1), name="sides"
    )
    for unit, columns in [(0, {1}), (1, {3}), (None, {1, 3})]:
        found = effective_field(sides, {}, {}, jnp.ones((1, 3, 5, 1)), "lambda", unit=unit)
        assert set(np.flatnonzero(found[1])) == columns and not found[0].any()


def test_nothing_moves_a_dead_unit():
    net = jn.serial(lambda x: 0 * x, name="dead")
    found = effective_field(net, {}, {}, jnp.ones((1, 3, 4, 2)), "lambda")
    assert not found.any() and found.shape == (3, 4)


def test_the_largest_is_1():
    small = jn.serial(lambda x: 0.25 * x, name="small")
    found = effective_field(small, {}, {}, jnp.ones((1, 3, 4, 2)), "lambda", unit=1)
    assert found[1, 2] == 1 and found.sum() == 1


def test_message():
    net = jn.serial(jn.global_avg_pool())
    with pytest.raises(ValueError, match=r"serial/global_avg_pool of shape \(1, 2\)"):
        effective_field(net, {}, {}, jnp.ones((1, 3, 4, 2)), "global_avg_pool")


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"x": None}, TypeError, "the input must be an array"),
    ({"x": np.ones((1, 9, 9, 1), int)}, TypeError, "x must hold floats"),
    ({"x": jnp.ones((9, 9, 1))}, ValueError, r"x must have shape \(batch, height, width, channels"),
    ({"path": None}, TypeError, "path must be the name of a layer, got None"),
    ({"unit": 2.5}, TypeError, "unit must be an integer, got 2.5"),
    ({"unit": -1}, ValueError, "unit must be at least 0, got -1"),
], ids=str)  # fmt: skip
def test_arguments_of_another_type(change, error, words):
    given = {"x": jnp.ones((1, 9, 9, 1)), "path": "tanh"} | change
    with pytest.raises(error, match=f"effective_field: {words}"):
        effective_field(jn.serial(jnp.tanh), {}, {}, **given)
