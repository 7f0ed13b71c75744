from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import losses
from tests.helpers import refuses
from tests.losses.common import close, slopes

RNG = np.random.default_rng(7)
LOGITS = RNG.normal(size=(5, 4)) * 2
LABELS = np.array([0, 3, 1, 1, 2])
BITS = RNG.integers(0, 2, size=(5, 4)).astype(float)


def test_focal_is_finite_where_one_minus_p_rounds_to_zero():
    """(1 - p)^0.5 has an infinite slope at p = 1."""
    z = jnp.array([[60.0, 0.0]])
    value, grad = slopes(partial(losses.focal, gamma=0.5), z, jnp.array([0]))
    assert 0 <= value < 1e-20
    assert jnp.isfinite(grad).all()


WEIGHTS = np.array([0.5, 1.0, 3.0, 7.0])


def test_pytorch_divides_weighted_probabilities_by_examples(torch):
    p = RNG.dirichlet([1.0, 2, 3, 4], size=5)
    theirs = torch.nn.functional.cross_entropy(*map(torch.tensor, (LOGITS, p, WEIGHTS)))
    totals, weights = losses.weighted(class_weights=WEIGHTS)(LOGITS, p)
    close(totals.mean(), theirs, 1e-6)
    close(weights, p @ WEIGHTS, 1e-6)


def test_weighted_cross_entropy_in_a_trainer():
    """Batches whose weights differ are averaged by weight, in training and in evaluation."""
    objective = jn.supervised(lambda x: x, losses.weighted(class_weights=[1.0, 3.0]))
    x = jnp.array([[2.0, 0], [0, 1], [1, 1]])
    y = jnp.array([0, 1, 1])
    found = jn.evaluate(objective, {}, {}, (x, y), batch_size=2)
    nll = np.log(1 + np.exp([-2.0, -1, 0]))
    close(found["loss"], (nll * [1, 3, 3]).sum() / 7, 1e-6)


def test_a_logit_far_away():
    far, slope = slopes(losses.sigmoid_cross_entropy, jnp.array([-300.0]), jnp.array([1.0]))
    assert (far, slope) == (300, -1)


def ones(labels):
    return losses.cross_entropy(jnp.ones((3, 3)), np.array(labels))


test_refusals = refuses([
    (lambda: losses.weighted(), "expected class_weights or ignore_label, got neither"),
    (lambda: losses.weighted(class_weights=[1.0, -1.0]),
     "class_weights must be finite and at least 0, got"),
    (lambda: losses.weighted(class_weights=jnp.array([1.0, jnp.nan])),
     "class_weights must be finite and at least 0, got"),
    (lambda: losses.weighted(class_weights=[[1.0]]), r"must have shape \(classes,\), got"),
    (lambda: losses.weighted(class_weights=[1.0, 2.0])(LOGITS, LABELS),
     "class_weights must hold one weight per class, 4, got 2"),
    (lambda: losses.weighted(ignore_label=0.5), TypeError, "weighted: ignore_label must be"),
    (lambda: losses.weighted(lambda z, y: jnp.ones(3), ignore_label=0)(LOGITS, LABELS),
     r"one value per label \(5,\), got \(3,\)"),
    (lambda: losses.weighted(ignore_label=9)(LOGITS, LABELS + 3), r"targets .*\[0, 4\)"),
    (lambda: losses.sigmoid_cross_entropy(LOGITS, BITS, pos_weight=float("nan")),
     "pos_weight must be finite"),
    (lambda: losses.sigmoid_cross_entropy(LOGITS, BITS, pos_weight=[1.0, 2.0]),
     r"pos_weight must be a number or one per label, got \(2,\)"),
    (lambda: ones([1, 2, 3]), "Labels start at 0; if yours are 1 to 3, write labels - 1"),
    (lambda: ones([0, 2, 3]), "For labels up to 3, the last layer needs 4 outputs"),
    (lambda: losses.kl_sparsity(None, rho=0.1), TypeError,
     "kl_sparsity: activations must be a JAX or NumPy array"),
    (lambda: losses.kl_sparsity(jnp.float32(0.5), rho=0.1),
     r"activations must have shape \(batch, ..., units\)"),
])  # fmt: skip


def test_dice_without_labeled_pixels_is_zero():
    value, grad = slopes(losses.dice, jnp.ones((1, 4, 3)), jnp.full((1, 4), -1))
    assert value == 0
    assert (grad == 0).all()


@pytest.mark.slow
def test_dice_leaves_void_pixels_out():
    z = jnp.array(RNG.normal(size=(2, 6, 3))).at[0, 3].set(jnp.nan)
    labels = jnp.array([[0, 1, 2, 255, -1, 1], [2, 2, 1, 0, 255, 3]])
    dice = jax.jit(losses.dice)
    kept = dice(z[0][np.array([0, 1, 2, 5])][None], np.array([[0, 1, 2, 1]]))
    close(dice(z, labels)[0], kept[0], 1e-6)


@pytest.mark.parametrize("end, sign", [(0.0, -1), (1.0, 1)])
def test_kl_sparsity_is_finite_at_dead_and_saturated_units(end, sign):
    a = jnp.full((4, 2), end)
    value, grad = jax.jit(jax.value_and_grad(partial(losses.kl_sparsity, rho=0.05)))(a)
    assert 0.5 < value < 50
    assert jnp.isfinite(grad).all()
    assert (jnp.sign(grad) == sign).all()


def test_classes_may_be_written_in_three_ways():
    z = jnp.array([0.5, -2.0, 0.25, -0.125])
    signs = jnp.array([1, 1, -1, -1])
    assert losses.perceptron(z, signs).tolist() == [0, 2, 0.25, 0]
    for targets in ((signs + 1) // 2, signs > 0, signs.astype(float)):
        assert (losses.perceptron(z, targets) == losses.perceptron(z, signs)).all()


def test_perceptron_gradient_is_the_learning_rule():
    """-(y - o) for a unit that outputs 1 where z > 0 else 0, also at z = 0."""
    z = jnp.array([-2.0, 0.0, 3.0, -2.0, 0.0, 3.0])
    y = jnp.array([0, 0, 0, 1, 1, 1])
    o = (z > 0).astype(int)
    values, grads = slopes(losses.perceptron, z, y)
    assert (grads == -(y - o)).all()
    assert (values == abs(z) * (y != o)).all()


def test_nan_is_not_hidden_by_a_target_that_seems_right():
    nan, inf = jnp.nan, jnp.inf
    z = jnp.array([nan, nan, 1.0, 1.0, -inf])
    y = jnp.array([-1.0, 1.0, nan, 1.0, -1.0])
    values, grads = slopes(losses.perceptron, z, y)
    assert np.isnan(values).tolist() == [True, True, True, False, False]
    assert grads[3:].tolist() == [0, 0]
