import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet import losses

RNG = np.random.default_rng(7)
LOGITS = RNG.normal(size=(5, 4)) * 2
LABELS = np.array([0, 3, 1, 1, 2])
PROBABILITIES = RNG.uniform(0.02, 0.98, size=(5, 4))
BITS = RNG.integers(0, 2, size=(5, 4)).astype(float)

# every loss that compares entry with entry, and every loss of scores with labels
SAME = {
    "half_squared_error": losses.half_squared_error,
    "huber": losses.huber(),
    "binary_cross_entropy": losses.binary_cross_entropy,
    "binary_cross_entropy_with_logits": losses.binary_cross_entropy_with_logits,
    "sigmoid_focal_loss": losses.sigmoid_focal_loss(),
    "hinge": losses.hinge,
    "perceptron": losses.perceptron,
    "binary_dice": losses.binary_dice(),
}
LABELLED = {
    "categorical_cross_entropy": losses.categorical_cross_entropy,
    "smoothed_cross_entropy": losses.smoothed_cross_entropy(0.1),
    "focal": losses.focal_loss(),
    "multiclass_hinge": losses.multiclass_hinge,
    "multiclass_perceptron": losses.multiclass_perceptron,
    "dice": losses.dice(),
}
OTHER = {"ignore_label", "kl_sparsity", "masked", "masked_mean", "ctc"}
same = pytest.mark.parametrize("loss", SAME.values(), ids=SAME)
labelled = pytest.mark.parametrize("loss", LABELLED.values(), ids=LABELLED)


def close(a, b, tolerance=1e-10):
    np.testing.assert_allclose(a, b, tolerance, tolerance)


@partial(jax.jit, static_argnums=0)
def slopes(loss, outputs, targets):
    """Values and the gradient of their sum, in one program."""

    def total(outputs):
        values = loss(outputs, targets)
        return values.sum(), values

    grads, values = jax.grad(total, has_aux=True)(outputs)
    return values, grads


def test_every_loss_is_in_these_tables():
    functions = {n for n, f in vars(losses).items() if inspect.isfunction(f) and n[0] != "_"}
    assert functions == SAME.keys() | LABELLED.keys() | OTHER


# Laws: one value an example, strict shapes, dtypes, finite everywhere, jit.


@same
def test_shapes_are_never_broadcast(loss):
    with pytest.raises(ValueError, match=r"one shape, got \(4, 1\) and \(4,\).*outputs\[..., 0\]"):
        loss(jnp.ones((4, 1)), jnp.ones(4))


@labelled
def test_labels_must_belong_to_the_scores(loss):
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(4, 1\)"):
        loss(jnp.ones((4, 3)), jnp.ones((4, 1), int))
    with pytest.raises(TypeError, match="integer labels, got float32"):
        loss(jnp.ones((4, 3)), jnp.ones(4))


@same
def test_values_have_the_batch_first(loss):
    values = loss(jnp.full((5, 2, 3), 0.5), jnp.ones((5, 2, 3)))
    summed = loss is losses.half_squared_error or loss is SAME["binary_dice"]
    assert values.shape == ((5,) if summed else (5, 2, 3))


@labelled
def test_values_of_labels_have_the_batch_first(loss):
    values = loss(jnp.full((5, 2, 3), 1 / 3), jnp.ones((5, 2), int))
    assert values.shape == ((5,) if loss is LABELLED["dice"] else (5, 2))


@pytest.mark.parametrize("loss, targets", [(f, jnp.array([1, 0, 1])) for f in SAME.values()])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_are_wide_and_jit_is_eager(loss, targets, dtype):
    z = jnp.array([0.25, 0.5, 0.75], dtype)
    eager = loss(z, targets)
    assert eager.dtype == jnp.float32
    close(eager, jax.jit(loss)(z, targets), 1e-6)
    close(eager, loss(z.astype(jnp.float32), targets), 1e-6)


@labelled
def test_labelled_losses_are_wide_and_jit_is_eager(loss):
    z = jnp.array([[0.25, 0.5, 0.125], [0.5, 0.25, 0.25]], jnp.bfloat16)
    eager = loss(z, jnp.array([1, 2], jnp.uint8))
    assert eager.dtype == jnp.float32
    close(eager, jax.jit(loss)(z, jnp.array([1, 2])), 1e-6)
    close(eager, loss(z.astype(jnp.float32), jnp.array([1, 2])), 1e-6)


@pytest.mark.parametrize("name", SAME)
def test_value_and_gradient_are_finite_at_extremes(name):
    ends = [0.0, 1.0] if name == "binary_cross_entropy" else [0.0, 1.0, -300.0, 300.0]
    x, y = (a.reshape(-1, 1) for a in jnp.meshgrid(jnp.array(ends), jnp.array([0.0, 1.0])))
    values, grads = slopes(SAME[name], x, y)
    assert jnp.isfinite(values).all() and (values >= 0).all()
    assert jnp.isfinite(grads).all()


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_value_and_gradient_are_finite_at_extremes(name):
    scores = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-900.0, 900.0, 0.0]]
    scores = jnp.array(scores[:2] if name == "categorical_cross_entropy" else scores)
    for label in range(3):
        values, grads = slopes(LABELLED[name], scores, jnp.full(len(scores), label))
        assert jnp.isfinite(values).all() and (values >= 0).all()
        assert jnp.isfinite(grads).all()


# Values by hand.


def test_half_squared_error_has_gradient_h_minus_y():
    h, y = jnp.array([[3.0, -1.0], [0.5, 2.0]]), jnp.array([[1.0, 1.0], [0.5, 0.0]])
    assert losses.half_squared_error(h, y).tolist() == [4.0, 2.0]  # (4 + 4)/2, (0 + 4)/2
    assert (slopes(losses.half_squared_error, h, y)[1] == h - y).all()
    assert losses.half_squared_error(h[:, 0], y[:, 0]).tolist() == [2.0, 0.0]


def test_binary_cross_entropy_by_hand():
    """-log 0.8 and -log 0.2: the two terms are not swapped and the sign is a loss's."""
    for p, y, value in [(0.8, 1, -math.log(0.8)), (0.8, 0, -math.log(0.2)), (0.3, 0.5, 0.780324)]:
        close(losses.binary_cross_entropy(jnp.array([p]), jnp.array([y])), [value], 1e-6)
    z = jnp.array([1.0])  # σ(1) = 0.731
    close(losses.binary_cross_entropy_with_logits(z, jnp.array([1])), [-math.log(0.7310586)], 1e-6)


def test_binary_cross_entropy_at_zero_and_one():
    """Right: 0. Wrong: the tangent at epsilon, with a gradient that points back."""
    both = jnp.array([0.0, 1.0])
    assert (losses.binary_cross_entropy(both, both) == 0).all()
    wrong = losses.binary_cross_entropy(both, 1 - both)
    eps = float(jnp.finfo(jnp.float32).eps)
    close(wrong, [1 - math.log(eps)] * 2, 1e-6)
    slope = jax.grad(lambda p: losses.binary_cross_entropy(p, 1 - both).sum())(both)
    close(slope, [-1 / eps, 1 / eps], 1e-6)
    # it goes on where a probability left [0, 1] by rounding
    outside = losses.binary_cross_entropy(jnp.array([-1e-6, 1 + 1e-6]), 1 - both)
    assert (outside > wrong).all() and jnp.isfinite(outside).all()


def test_categorical_cross_entropy_by_hand():
    p = jnp.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    eps = float(jnp.finfo(jnp.float32).eps)
    values = losses.categorical_cross_entropy(p, jnp.array([1, 1, 0]))
    close(values, [-math.log(0.2), 0, 1 - math.log(eps)], 1e-6)
    assert jnp.isnan(losses.categorical_cross_entropy(p, jnp.array([3, 0, 0]))[0])


def test_cross_entropies_agree():
    """On probabilities and on logits: optax's and ours are the same function."""
    with jax.enable_x64(True):
        z, labels = jnp.array(LOGITS), jnp.array(LABELS)
        plain = optax.softmax_cross_entropy_with_integer_labels(z, labels)
        close(losses.categorical_cross_entropy(jax.nn.softmax(z), labels), plain)
        close(losses.smoothed_cross_entropy(0.0)(z, labels), plain)
        close(losses.focal_loss(0.0)(z, labels), plain)
        one_hot = optax.smooth_labels(jax.nn.one_hot(labels, 4), 0.3)
        smooth = losses.smoothed_cross_entropy(0.3)(z, labels)
        close(smooth, optax.softmax_cross_entropy(z, one_hot))
        sigmoid = losses.binary_cross_entropy_with_logits(z, jnp.array(BITS))
        close(losses.binary_cross_entropy(jax.nn.sigmoid(z), jnp.array(BITS)), sigmoid)


def test_hinge_by_hand():
    """Right inside the margin, right, wrong; then the same for the other class."""
    z, t = jnp.array([0.5, 2.0, -1.0, -0.5, -2.0, 3.0]), jnp.array([1, 1, 1, -1, -1, -1])
    values, grads = slopes(losses.hinge, z, t)
    assert values.tolist() == [0.5, 0, 2, 0.5, 0, 4]
    assert grads.tolist() == [-1, 0, -1, 1, 0, 1]


@pytest.mark.parametrize("loss", [losses.hinge, losses.perceptron])
def test_classes_may_be_written_in_three_ways(loss):
    z = jnp.array([0.5, -2.0, 0.25, -0.125])
    signs = jnp.array([1, 1, -1, -1])
    want = loss(z, signs)
    assert (loss(z, (signs + 1) // 2) == want).all()
    assert (loss(z, signs > 0) == want).all()
    assert (loss(z, signs.astype(float)) == want).all()


def test_perceptron_gradient_is_the_learning_rule():
    """-(y - o) for a unit that says 1 where z > 0 else 0, at z = 0 too."""
    z = jnp.array([-2.0, 0.0, 3.0, -2.0, 0.0, 3.0])
    y = jnp.array([0, 0, 0, 1, 1, 1])
    o = (z > 0).astype(int)
    values, grads = slopes(losses.perceptron, z, y)
    assert (grads == -(y - o)).all()
    assert (values == abs(z) * (y != o)).all()


def test_multiclass_perceptron_gradient_touches_two_classes_or_none():
    z = jnp.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    values, grads = slopes(losses.multiclass_perceptron, z, jnp.array([0, 1, 2, 0]))
    assert values.tolist() == [2, 0, 0, 0]
    # of equal scores the first wins: a mistake for label 2, none for label 0
    assert grads.tolist() == [[-1, 1, 0], [0, 0, 0], [1, 0, -1], [0, 0, 0]]


def test_multiclass_hinge_by_hand():
    z = jnp.array([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [3.0, 1.0, 0.0]])
    # 1 + 2.5 - 3; 1 + 3 - 1; a margin of 2 costs nothing
    assert losses.multiclass_hinge(z, jnp.array([0, 1, 0])).tolist() == [0.5, 3.0, 0.0]


def test_huber_by_hand():
    x = jnp.array([0.0, 1.0, -2.0, 5.0])
    assert losses.huber(2.0)(x, jnp.zeros(4)).tolist() == [0.0, 0.5, 2.0, 8.0]
    assert slopes(losses.huber(2.0), x, jnp.zeros(4))[1].tolist() == [0.0, 1.0, -2.0, 2.0]


def test_focal_by_hand():
    z = jnp.log(jnp.array([[0.75, 0.25]]))
    close(losses.focal_loss(2.0)(z, jnp.array([0])), [0.0625 * -math.log(0.75)], 1e-6)
    close(losses.focal_loss(1.0)(z, jnp.array([1])), [0.75 * -math.log(0.25)], 1e-6)
    # two classes with logits (z, 0) are one logit z
    z = jnp.array([-3.0, 0.5, 2.0])
    two = losses.focal_loss(1.5)(jnp.stack([z, 0 * z], -1), jnp.array([0, 1, 0]))
    close(losses.sigmoid_focal_loss(1.5)(z, jnp.array([1, 0, 1])), two, 1e-6)
    weighted = losses.sigmoid_focal_loss(1.5, alpha=0.25)(z, jnp.array([1, 0, 1]))
    close(weighted, two * jnp.array([0.25, 0.75, 0.25]), 1e-6)


def test_focal_is_finite_where_one_minus_p_rounds_to_zero():
    """(1 - p)^0.5 has an infinite slope at p = 1."""
    z = jnp.array([[60.0, 0.0]])
    value, grad = slopes(losses.focal_loss(0.5), z, jnp.array([0]))
    assert 0 <= value < 1e-20 and jnp.isfinite(grad).all()


def test_dice_by_hand():
    """2 · 1 / (2 + 1) for the mask with an overlap of 1; smooth on both sides."""
    z = 60 * jnp.array([[1.0, 1.0, -1.0, -1.0]])
    close(losses.binary_dice(1e-6)(z, jnp.array([[1, 0, 0, 0]])), [1 / 3], 1e-5)
    close(losses.binary_dice(2.0)(z, jnp.array([[1, 0, 0, 0]])), [1 - 4 / 5], 1e-5)
    close(losses.binary_dice(1.0)(z, jnp.array([[1, 1, 0, 0]])), [0], 1e-5)
    close(losses.binary_dice(1.0)(z, jnp.array([[0, 0, 1, 1]])), [1 - 1 / 5], 1e-5)


def test_dice_of_empty_masks():
    nothing = jnp.zeros((1, 4), int)
    value, grad = slopes(losses.binary_dice(1.0), jnp.full((1, 4), -300.0), nothing)
    assert value == 0 and (grad == 0).all()
    close(losses.binary_dice(1.0)(jnp.zeros((1, 4)), nothing), [2 / 3], 1e-6)  # 4 halves
    # no pixel is labelled: nothing to learn
    void = jnp.full((1, 4), -1)
    value, grad = slopes(losses.dice(1.0), jnp.ones((1, 4, 3)), void)
    assert value == 0 and (grad == 0).all()


def test_dice_leaves_void_pixels_out():
    z = jnp.array(RNG.normal(size=(2, 6, 3)))
    labels = jnp.array([[0, 1, 2, 255, -1, 1], [2, 2, 1, 0, 255, 3]])
    kept = losses.dice()(z[0][jnp.array([0, 1, 2, 5])][None], jnp.array([[0, 1, 2, 1]]))
    close(losses.dice()(z, labels)[0], kept[0], 1e-6)


def test_dice_is_optaxs_where_all_is_labelled():
    with jax.enable_x64(True):
        z = jnp.array(RNG.normal(size=(2, 5, 4, 3)))
        labels = jnp.array(RNG.integers(0, 3, size=(2, 5, 4)))
        theirs = optax.losses.dice_loss(z, jax.nn.one_hot(labels, 3), smooth=0.35)
        close(losses.dice(0.7)(z, labels), theirs)  # optax halves both sides


# Penalty on activations.


def test_kl_sparsity_is_zero_at_rho_and_grows_on_both_sides():
    at = lambda mean: float(losses.kl_sparsity(0.05)(jnp.full((4, 1), mean)))  # noqa: E731
    assert abs(at(0.05)) < 1e-7
    assert at(0.02) > at(0.04) > 1e-4
    assert at(0.5) > at(0.1) > 1e-3
    # by hand: 0.05 log(0.05/0.2) + 0.95 log(0.95/0.8)
    close(at(0.2), 0.05 * math.log(0.25) + 0.95 * math.log(1.1875), 1e-5)


def test_kl_sparsity_is_of_the_mean_and_sums_over_units():
    """Activations 0 and 0.4 have the mean 0.2; a mean of KLs would be far from 0."""
    one = losses.kl_sparsity(0.2)(jnp.array([[0.0], [0.4]]))
    assert abs(one) < 1e-6
    a = jnp.array(RNG.uniform(size=(6, 3)))
    each = [losses.kl_sparsity(0.1)(a[:, j : j + 1]) for j in range(3)]
    close(losses.kl_sparsity(0.1)(a), sum(each), 1e-5)
    # positions are averaged as the batch is
    close(losses.kl_sparsity(0.1)(a.reshape(2, 3, 3)), sum(each), 1e-5)


@pytest.mark.parametrize("end, sign", [(0.0, -1), (1.0, 1)])
def test_kl_sparsity_is_finite_at_dead_and_saturated_units(end, sign):
    a = jnp.full((4, 2), end)
    value, grad = jax.jit(jax.value_and_grad(losses.kl_sparsity(0.05)))(a)
    assert 0.5 < value < 50
    assert jnp.isfinite(grad).all() and (jnp.sign(grad) == sign).all()


def test_kl_sparsity_with_a_mask():
    a = jnp.array(RNG.uniform(size=(6, 3)))
    mask = jnp.array([1, 1, 0, 1, 0, 1])
    close(losses.kl_sparsity(0.1)(a, mask), losses.kl_sparsity(0.1)(a[mask > 0]), 1e-5)
    with pytest.raises(ValueError, match=r"mask \(6,\), got \(6, 3\)"):
        losses.kl_sparsity(0.1)(a, jnp.ones((6, 3)))


# Masks.


def test_masked_is_the_mean_over_valid_tokens():
    z = jnp.array(RNG.normal(size=(3, 4, 5)))
    labels = jnp.array(RNG.integers(0, 5, size=(3, 4)))
    lengths = jnp.array([4, 1, 0])
    mask = jnp.arange(4) < lengths[:, None]
    each = optax.softmax_cross_entropy_with_integer_labels(z, labels)
    values = losses.masked()(z, (labels, mask))
    close(values, [each[0].mean(), each[1, 0], 0], 1e-6)
    close(losses.masked_mean(each, mask), (each[0].sum() + each[1, 0]) / 5, 1e-6)
    assert losses.masked_mean(each, jnp.zeros((3, 4))) == 0


def test_masked_positions_do_not_reach_the_gradient():
    """Not even NaN and labels that are no classes."""
    z = jnp.array(RNG.normal(size=(2, 3, 5))).at[0, 2].set(jnp.nan).at[1].set(jnp.inf)
    labels = jnp.array([[1, 2, -1], [99, 99, 99]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    values, grad = slopes(losses.masked(), z, (labels, mask))
    each = optax.softmax_cross_entropy_with_integer_labels(z[0, :2], labels[0, :2])
    close(values, [each.mean(), 0], 1e-6)
    assert (grad[0, 2] == 0).all() and (grad[1] == 0).all() and (grad[0, :2] != 0).all()


def test_masked_needs_one_value_a_position():
    with pytest.raises(ValueError, match=r"gives \(2, 3, 5\) and the mask is \(2, 3\)"):
        losses.masked(optax.squared_error)(
            jnp.ones((2, 3, 5)), (jnp.ones((2, 3, 5)), jnp.ones((2, 3)))
        )
    with pytest.raises(ValueError, match="one shape"):
        losses.masked_mean(jnp.ones((2, 1)), jnp.ones(2))


# CTC.


def test_ctc_by_hand():
    """Two steps: "a" comes from aa, a-, -a; "ab" from ab alone; nothing from --."""
    p = jnp.array([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]])
    z = jnp.log(p)

    labels, n = jnp.array([[1, 0], [1, 2], [0, 0]]), jnp.array([1, 2, 0])
    loss = jax.jit(losses.ctc())(jnp.repeat(z, 3, 0), (labels, n))
    want = [0.3 * 0.6 + 0.3 * 0.1 + 0.5 * 0.6, 0.3 * 0.3, 0.5 * 0.1]
    close(jnp.exp(-loss), want, 1e-5)
    # blank last instead of first
    z = z[..., jnp.array([1, 2, 0])]
    last = jax.jit(losses.ctc(blank=2))(z, (jnp.array([[0]]), jnp.array([1])))
    close(jnp.exp(-last), want[:1], 1e-5)


def test_ctc_that_fits_no_alignment():
    """ "aa" needs three steps. The loss is large, and finite."""
    value, grad = slopes(losses.ctc(), jnp.zeros((1, 2, 3)), (jnp.array([[1, 1]]), jnp.array([2])))
    assert 1e4 < value < 1e6 and jnp.isfinite(grad).all()


def test_ctc_padding_does_not_count():
    z = jnp.array(RNG.normal(size=(2, 6, 4)))
    labels, n = jnp.array([[1, 2, 3], [3, 3, 9]]), jnp.array([3, 2])
    lengths = jnp.array([6, 4])
    whole, grad = slopes(lambda z, y: losses.ctc()((z, lengths), y), z, (labels, n))
    cut = jax.jit(losses.ctc())(z[1:, :4], (labels[1:, :2], n[1:]))
    close(whole[1], cut[0], 1e-5)
    assert (grad[1, 4:] == 0).all() and (grad[1, :4] != 0).any()
    with pytest.raises(ValueError, match=r"label_lengths \(batch,\), got"):
        losses.ctc()(z, (labels, n[:1]))


# Places without a label.


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
def test_without_void_is_pytorchs_ignore_index(weights):
    """An image at a time, since PyTorch takes the mean over all pixels of a batch. torch 2.13.0"""
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    z, y = RNG.normal(size=(3, 5, 6, 4)), RNG.integers(0, 4, (3, 5, 6))
    y[0, :4], y[1, 2, 3] = 11, 11
    theirs_in = torch.tensor(z, requires_grad=True)
    value = torch.stack(
        [
            torch.nn.functional.cross_entropy(
                image.reshape(-1, 4), torch.tensor(mask).reshape(-1), ignore_index=11,
                weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
            )
            for image, mask in zip(theirs_in, y, strict=True)
        ]
    )  # fmt: skip
    value.sum().backward()
    with jax.enable_x64(True):
        each = optax.softmax_cross_entropy_with_integer_labels
        loss = losses.ignore_label(each, 11, weights=weights)
        values, grads = slopes(loss, jnp.array(z), jnp.array(y))
        close(values, value.detach().numpy())
        close(grads, theirs_in.grad.numpy())
    assert (np.asarray(grads)[y == 11] == 0).all()


def test_an_example_without_a_label_costs_nothing():
    each = optax.softmax_cross_entropy_with_integer_labels
    void = jnp.full((2, 3, 4), -1).at[1, 0, 0].set(2)
    for weights in (None, jnp.ones(3)):
        loss = losses.ignore_label(each, -1, weights=weights)
        values, grads = slopes(loss, jnp.ones((2, 3, 4, 3)), void)
        close(values, [0, math.log(3)], 1e-6)
        assert (grads[0] == 0).all() and jnp.isfinite(grads).all() and (grads[1] != 0).sum() == 3


def test_without_void_of_a_padded_batch_and_of_a_metric():
    """Two examples count; of the first one pixel in three is right, of the second both."""
    z = jax.nn.one_hot(jnp.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]), 2)
    y = jnp.array([[0, 1, 1, 9], [9, 1, 1, 9], [9, 9, 9, 9]])
    share = losses.ignore_label(jn.metrics.accuracy, 9)
    close(share(z, y), [1 / 3, 1, 0], 1e-6)
    net = jn.serial(lambda x: x)
    loss = losses.ignore_label(optax.softmax_cross_entropy_with_integer_labels, 9)
    objective = jn.supervised(net, loss, metrics={"accuracy": share})
    mask = jnp.array([1.0, 1.0, 0.0])
    value, (_, metrics) = objective({}, {}, (z, y), key=None, train=True, mask=mask)
    close(metrics["accuracy"], 2 / 3, 1e-6)
    close(value, loss(z, y)[:2].mean(), 1e-6)


def test_without_void_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"a value for each of the labels \(2, 3\), got \(2,\)"):
        losses.ignore_label(losses.dice(), 9)(jnp.ones((2, 3, 4)), jnp.zeros((2, 3), int))
    with pytest.raises(TypeError, match="ignore_label: targets must be integer labels"):
        losses.ignore_label(losses.focal_loss(), 9)(jnp.ones((2, 3, 4)), jnp.zeros((2, 3)))


# Messages of the factories.


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: losses.huber(0), "delta must be above 0, got 0"),
        (lambda: losses.smoothed_cross_entropy(1), r"smoothing must be in \[0, 1\), got 1"),
        (lambda: losses.focal_loss(-1), "gamma must be at least 0, got -1"),
        (lambda: losses.sigmoid_focal_loss(-1), "gamma must be at least 0, got -1"),
        (lambda: losses.dice(0), "smooth must be above 0, got 0"),
        (lambda: losses.binary_dice(0), "smooth must be above 0, got 0"),
        (lambda: losses.kl_sparsity(0), r"rho must be in \(0, 1\), got 0"),
        (lambda: losses.kl_sparsity(1), r"rho must be in \(0, 1\), got 1"),
        (lambda: losses.focal_loss()(jnp.ones((2, 1)), jnp.zeros(2, int)), "two classes or more"),
    ],
)
def test_messages(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Other libraries: values and gradients, in float64.


def torch_pairs():
    """name: our loss, PyTorch's, outputs, targets. # torch 2.13.0"""
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    f = torch.nn.functional

    def focal(z, y, gamma=1.7):
        p = z.softmax(-1).gather(-1, y[:, None])[:, 0]
        return -((1 - p) ** gamma) * p.log()

    def kl(a, _, rho=0.05):
        m = a.mean(0)
        return (rho * (rho / m).log() + (1 - rho) * ((1 - rho) / (1 - m)).log()).sum()

    def half(h, y):
        return 0.5 * f.mse_loss(h, y, reduction="none").sum(1)

    def element(function, **options):
        return lambda h, y: function(h, y, reduction="none", **options)

    return {
        "half_squared_error": (losses.half_squared_error, half, LOGITS, BITS),
        "huber": (losses.huber(0.8), element(f.huber_loss, delta=0.8), LOGITS, BITS),
        "binary_cross_entropy": (
            losses.binary_cross_entropy,
            element(f.binary_cross_entropy),
            PROBABILITIES,
            BITS,
        ),
        "binary_cross_entropy_with_logits": (
            losses.binary_cross_entropy_with_logits,
            element(f.binary_cross_entropy_with_logits),
            LOGITS,
            BITS,
        ),
        "categorical_cross_entropy": (
            losses.categorical_cross_entropy,
            lambda p, y: f.nll_loss(p.log(), y, reduction="none"),
            PROBABILITIES,
            LABELS,
        ),
        "smoothed_cross_entropy": (
            losses.smoothed_cross_entropy(0.2),
            element(f.cross_entropy, label_smoothing=0.2),
            LOGITS,
            LABELS,
        ),
        "focal": (losses.focal_loss(1.7), focal, LOGITS, LABELS),
        "kl_sparsity": (lambda a, _: losses.kl_sparsity(0.05)(a), kl, PROBABILITIES, BITS),
    }


@pytest.mark.parametrize(
    "name",
    [
        "half_squared_error",
        "huber",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "categorical_cross_entropy",
        "smoothed_cross_entropy",
        "focal",
        "kl_sparsity",
    ],
)
def test_values_and_gradients_are_pytorchs(name):
    ours, theirs, outputs, targets = torch_pairs()[name]
    import torch

    theirs_in = torch.tensor(outputs, requires_grad=True)
    value = theirs(theirs_in, torch.tensor(targets))
    value.sum().backward()
    with jax.enable_x64(True):
        x, y = jnp.array(outputs), jnp.array(targets)
        values, grads = slopes(ours, x, y)
        close(values, value.detach().numpy())
        close(grads, theirs_in.grad.numpy())


def test_ctc_is_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")  # torch 2.13.0
    z = RNG.normal(size=(3, 7, 5))
    labels = np.array([[1, 2, 2], [4, 0, 0], [3, 1, 4]])
    lengths, n = np.array([7, 4, 6]), np.array([3, 1, 3])
    theirs = torch.tensor(z, requires_grad=True)
    value = torch.nn.functional.ctc_loss(
        theirs.log_softmax(-1).transpose(0, 1), torch.tensor(labels), torch.tensor(lengths),
        torch.tensor(n), reduction="none",
    )  # fmt: skip
    value.sum().backward()
    with jax.enable_x64(True):
        outputs, targets = (jnp.array(z), jnp.array(lengths)), (jnp.array(labels), jnp.array(n))
        values, grads = slopes(lambda z, y: losses.ctc()((z, outputs[1]), y), outputs[0], targets)
        close(values, value.detach().numpy())
        close(grads, theirs.grad.numpy(), 1e-9)


def test_hinge_and_log_loss_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")
    with jax.enable_x64(True):
        binary = np.where(BITS[:, 0] > 0, 1, -1)
        z, labels = jnp.array(LOGITS), jnp.array(LABELS)
        close(
            losses.hinge(z[:, 0], jnp.array(binary)).mean(),
            sklearn.hinge_loss(binary, LOGITS[:, 0], labels=[-1, 1]),
        )
        close(losses.multiclass_hinge(z, labels).mean(), sklearn.hinge_loss(LABELS, LOGITS))
        p = np.asarray(jax.nn.softmax(z))
        close(
            losses.categorical_cross_entropy(jnp.array(p), labels).mean(),
            sklearn.log_loss(LABELS, p),
        )


def test_losses_take_part_in_training():
    """A perceptron by its criterion learns AND, with no mistake left."""
    x = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = jnp.array([[0], [0], [0], [1]])
    net, optimizer = jn.dense(1, kernel_init=jn.initializers.zeros), optax.sgd(1.0)
    metrics = {"accuracy": jn.metrics.binary_accuracy()}
    step = jn.make_step(jn.supervised(net, jn.losses.perceptron, metrics=metrics), optimizer)
    train_state = jn.init_training(net, optimizer, jax.random.key(0), (x, y))
    for _ in range(60):
        train_state, seen = step(train_state, (x, y))
    assert seen["accuracy"] == 1 and seen["loss"] == 0
