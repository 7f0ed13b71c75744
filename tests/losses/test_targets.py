"""Losses raise for known targets that they would misread, and give NaN while tracing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses
from jaxnet.losses.targets import checked

optaxs = optax.softmax_cross_entropy_with_integer_labels


@pytest.mark.parametrize(
    "loss, right, wrong",
    [
        (optaxs, [0, 2], [0, 3]),
        (optax.losses.multiclass_hinge_loss, [0, 2], [0, -1]),
        (optax.sigmoid_binary_cross_entropy, np.ones((2, 3)), np.full((2, 3), 255)),
        (optax.softmax_cross_entropy, np.eye(3)[:2], np.ones((2, 3))),
        (optax.hinge_loss, -np.ones((2, 3)), np.zeros((2, 3))),
    ],
)
def test_known_targets_are_checked(loss, right, wrong):
    outputs = jnp.arange(6.0).reshape(2, 3)
    values = loss(outputs, jnp.asarray(right))
    for kind in (np.asarray, jnp.asarray):
        np.testing.assert_array_equal(checked(loss)(outputs, kind(right)), values)
        with pytest.raises(ValueError, match="targets must"):
            checked(loss)(outputs, kind(wrong))
    jax.eval_shape(checked(loss), outputs, jnp.asarray(wrong))  # no values, no error


@pytest.mark.parametrize("options", [{"axis": 0}, {"where": np.ones((2, 1)) * [1, 1, 0] > 0}])
def test_a_loss_over_another_axis_or_some_classes_is_not_checked(options):
    loss = checked(functools.partial(optax.softmax_cross_entropy, **options))
    np.testing.assert_allclose(loss(jnp.zeros((2, 3)), jnp.full((2, 3), 0.5)), np.log(2), 1e-6)


def test_weighted_gives_nan_for_an_unknown_label():
    """Where labels are traced; -1 was the last class."""
    loss = losses.weighted(optaxs, ignore_label=7)
    totals, _ = jax.jit(loss)(jnp.zeros((3, 3)), jnp.array([-1, 7, 2]))
    assert np.isnan(totals).tolist() == [True, False, False]


def test_a_mask_that_is_added_to_scores():
    """0 and -inf would be read the other way round."""
    mask = jnp.array([[0.0, -jnp.inf]])
    with pytest.raises(ValueError, match="booleans or 0 and 1, got -inf.*mask == 0"):
        losses.masked()(jnp.zeros((1, 2, 3)), (jnp.zeros((1, 2), int), mask))
