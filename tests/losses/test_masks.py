import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import losses
from tests.helpers import jit_apply, refuses
from tests.losses.common import close, slopes

RNG = np.random.default_rng(7)


@pytest.mark.slow
def test_masked_positions_do_not_reach_the_gradient():
    """Not even NaN, and labels that are no classes."""
    z = jnp.array(RNG.normal(size=(2, 3, 5))).at[0, 2].set(jnp.nan).at[1].set(jnp.inf)
    labels = jnp.array([[1, 2, -1], [99, 99, 99]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    values, grad = slopes(losses.masked(), z, (labels, mask))
    each = optax.softmax_cross_entropy_with_integer_labels(z[0, :2], labels[0, :2])
    close(values, [each.mean(), 0], 1e-6)
    assert (grad[0, 2] == 0).all()
    assert (grad[1] == 0).all()
    assert (grad[0, :2] != 0).all()


def test_outputs_at_an_ignored_label_do_not_reach_the_gradient():
    z = jnp.array([[1.0, 2, 3], [jnp.nan] * 3, [jnp.inf] * 3])
    labels = jnp.array([1, -1, -1])
    loss = losses.weighted(class_weights=[0.5, 2.0, 1.0], ignore_label=-1)
    grad = jax.jit(jax.grad(lambda z: loss(z, labels)[0].sum()))(z)
    assert (grad[0] != 0).all()
    assert (grad[1:] == 0).all()


@pytest.mark.slow
def test_an_image_without_labeled_pixels_has_loss_zero():
    each = optax.softmax_cross_entropy_with_integer_labels
    void = jnp.full((2, 3, 4), -1).at[1, 0, 0].set(2)
    for weights in (None, jnp.ones(3)):
        loss = losses.ignore_label(each, label=-1, class_weights=weights)
        values, grads = slopes(loss, jnp.ones((2, 3, 4, 3)), void)
        close(values, [0, math.log(3)], 1e-6)
        assert (grads[0] == 0).all()
        assert jnp.isfinite(grads).all()
        assert (grads[1] != 0).sum() == 3


def test_labels_that_are_no_classes_reach_the_weighted_mean_as_nan():
    """Also where the loss is a metric, whose values are finite: weights[-1] would be the last."""
    weighted = losses.ignore_label(jn.metrics.accuracy, label=9, class_weights=np.ones(3))
    values = jax.jit(weighted)(jnp.ones((3, 2, 3)), jnp.array([[0, -1], [0, 3], [0, 9]]))
    assert np.isnan(values).tolist() == [True, True, False]


@pytest.mark.slow
def test_narrow_labels_are_compared_with_any_label():
    loss = losses.ignore_label(losses.cross_entropy, label=300)
    close(loss(jnp.zeros((1, 2, 4)), jnp.zeros((1, 2), jnp.uint8)), [math.log(4)], 1e-6)


@pytest.mark.slow
def test_known_labels_that_do_not_count_may_be_no_classes():
    z = RNG.normal(size=(2, 2, 3)).astype(np.float32)
    labels = np.array([[2, -1], [1, 0]])
    loss = losses.masked(optax.softmax_cross_entropy_with_integer_labels)
    log_p = np.asarray(jax.nn.log_softmax(z))
    means = [-log_p[0, 0, 2], -(log_p[1, 0, 1] + log_p[1, 1, 0]) / 2]
    close(loss(z, (labels, labels >= 0)), means, 1e-6)
    found = jax.jit(lambda mask: loss(z, (np.maximum(labels, 0), mask)))(labels >= 0)
    close(found, means, 1e-6)  # one of the two known


@pytest.mark.slow
def test_masked_means_of_half_precision_do_not_overflow():
    values = jnp.full((1, 200), 1000, jnp.float16)
    mask = jnp.arange(200)[None] < 150
    assert losses.masked(lambda z, y: z)(values, (values, mask)) == 1000
    each = losses.ignore_label(lambda z, y: z[..., 0], label=9)
    assert each(jnp.full((1, 200, 2), 1000, jnp.float16), jnp.zeros((1, 200), int)) == 1000


@pytest.mark.slow
def test_ignore_label_as_a_metric_of_an_objective():
    """In the first example one pixel in three is correct, in the second both."""
    z = jax.nn.one_hot(jnp.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]), 2)
    y = jnp.array([[0, 1, 1, 9], [9, 1, 1, 9], [9, 9, 9, 9]])
    share = losses.ignore_label(jn.metrics.accuracy, label=9)
    loss = losses.ignore_label(optax.softmax_cross_entropy_with_integer_labels, label=9)
    objective = jn.supervised(lambda x: x, loss, metrics={"accuracy": share})
    params, state = objective.init(jax.random.key(0), (z, y))
    (values, metrics), _ = jit_apply(objective, params, state, (z, y), train=True)
    close(metrics["accuracy"], [1 / 3, 1, 0], 1e-6)
    close(values, loss(z, y), 1e-6)
    seen = jn.evaluate(objective, params, state, (z, y), batch_size=2)  # padded with one example
    close(seen["accuracy"], 4 / 9, 1e-6)


ignore = partial(losses.ignore_label, label=9)
IGNORE = ignore(class_weights=jnp.ones(4))
Z = jnp.ones((2, 3, 4))
Y = jnp.zeros((2, 3), int)


MESSAGES = [
    (lambda: ignore(losses.dice)(Z, Y), r"one value per label \(2, 3\), got"),
    (lambda: ignore(lambda *_: None)(Z, Y), "per label .* got NoneType"),
    (lambda: IGNORE(Z, jnp.zeros((2, 3))), "ignore_label: targets must hold integers"),
    (lambda: losses.weighted(class_weights=jnp.ones(4))(Z, Z.astype(int)),
     r"targets \(batch, ...\), got"),
    (lambda: IGNORE(Z[..., :3], Y), "weights must hold one weight per class, 3, got 4"),
    (lambda: IGNORE(Z[:, 0], Y[:, 0]), r"cancel .* one position per example,.* weighted\("),
    (lambda: losses.masked(optax.squared_error)(Z, (Z, Y + 1)),
     r"one value per entry of the mask \(2, 3\), got \(2, 3, 4"),
    (lambda: losses.ignore_label(label=None), "ignore_label: label must be an integer, got N"),
    (lambda: ignore(label=2.5), "label must be an integer, got 2.5"),
    (lambda: ignore(None), r"loss must be a function of \(outputs, targets\)"),
    (lambda: ignore(class_weights=[[1.0]]), "weights must have shape"),
    (lambda: ignore(class_weights=[1, -1]), "finite and at least 0"),
    (lambda: ignore(class_weights=[1, math.nan]), "must be finite"),
    (lambda: losses.masked(5), r"masked: loss must be a function of \(outputs, targets\)"),
    (lambda: losses.masked()(Z, Y), r"masked: targets must be \(labels, mask\), got"),
    (lambda: losses.masked()(Z, (Y, np.full((2, 3), 0.5))), "masked: mask must .* got 0.5"),
    (lambda: losses.masked()(Z, (Y, np.ones((3, 2)))), r"masked: .* mask \(batch, steps\),"),
]  # fmt: skip
test_messages = refuses(MESSAGES, (ValueError, TypeError))


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (losses.cross_entropy, jax.nn.softmax(jnp.ones((2, 3, 4)))),
        (optax.softmax_cross_entropy, jax.nn.softmax(jnp.ones((2, 3, 4)))),
        (optax.hinge_loss, jnp.array([[1, -1, 1], [-1, 1, 1]])),
    ],
)
def test_targets_may_be_those_that_the_loss_accepts(loss, targets):
    outputs = jnp.zeros(targets.shape)
    mask = jnp.array([[1, 1, 0], [1, 0, 0]])
    found = losses.masked(loss)(outputs, (targets, mask))
    close(found, loss(outputs, targets).reshape(2, 3, -1)[:, 0].mean(-1), 1e-6)
    assert losses.masked(loss)(outputs, (targets, 0 * mask)).tolist() == [0, 0]  # none counts
