import jax
import numpy as np

import jaxnet as jn
from experiments import inside


def test_importance_is_one_number_per_pixel():
    gradient = np.array([-3.0, 2.0]).reshape(1, 1, 1, 2) * np.ones((1, 4, 5, 1))
    np.testing.assert_allclose(inside.importance("saliency", gradient, (4, 5)), 3)
    np.testing.assert_allclose(inside.importance("integrated gradients", gradient, (4, 5)), -1)
    coarse = inside.importance("class activation map", np.ones((1, 2, 3)), (4, 6))
    np.testing.assert_allclose(coarse, np.ones((1, 4, 6)))


SUMS = jn.serial(lambda x: x.sum((1, 3)))  # the class is the brightest column
X = np.random.default_rng(0).uniform(0.1, 0.2, (7, 3, 4, 1))
LABELS = np.arange(7) % 4
X[np.arange(7), :, LABELS] += 0.5


def test_the_pixels_that_count_are_removed_first():
    shares = [0, 1 / 12, 2 / 12, 3 / 12, 1]
    best = inside.deletion(SUMS, {}, {}, X, LABELS, X[..., 0], shares, 0)
    # The three pixels of the bright column go first, the brightest of them before the others.
    left = [np.sort(X[np.arange(7), :, LABELS, 0], 1)[:, : 3 - k].sum(1) for k in range(3)]
    sums = X.sum((1, 3))
    sums[np.arange(7), LABELS] = 0
    np.testing.assert_allclose(best[:3], [np.mean(part > sums.max(1)) for part in left])
    assert best[0] == 1 and best[3] == 0
    worst = inside.deletion(SUMS, {}, {}, X, LABELS, -X[..., 0], shares, 0)
    np.testing.assert_array_equal(worst[:4], 1)
    assert worst[-1] == best[-1] == 2 / 7  # all black: class 0, which is right for 2 of 7


def test_removed_pixels_have_a_value_in_all_chunks(monkeypatch):
    ranks, shares = np.random.default_rng(1).normal(size=X.shape[:3]), [0.3, 0.6]
    monkeypatch.setattr(inside, "CHUNK", 3)
    found = inside.deletion(SUMS, {}, {}, X, LABELS, ranks, shares, np.full(1, 0.4))
    order = np.argsort(-ranks.reshape(7, -1), 1)
    for share, accuracy in zip(shares, found, strict=True):
        x = X.reshape(7, -1).copy()
        np.put_along_axis(x, order[:, : round(share * 12)], 0.4, 1)
        right = x.reshape(7, 3, 4).sum(1).argmax(1) == LABELS
        np.testing.assert_allclose(accuracy, right.mean())


def test_of_equal_pixels_the_upper_left_go_first_and_shares_are_rounded():
    first = jn.serial(lambda x: x.reshape(len(x), -1))  # the class is the first pixel that is left
    x, shares = np.ones((1, 2, 5, 1)), [0.2, 0.26, 0.34, 0.44]
    found = inside.deletion(first, {}, {}, x, np.array([3]), 0 * x[..., 0], shares, 0)
    assert found.tolist() == [0, 1, 1, 0]  # 2, 2.6, 3.4 and 4.4 pixels


def test_two_means_see_a_triangle():
    """Positive kernels of ones: (1 1 1) * (1 1 1) = (1 2 3 2 1), along each axis."""
    conv = [jn.conv(2, 3, kernel_init=jn.initializers.ones, use_bias=False) for _ in "ab"]
    net, x = jn.serial(*conv), np.ones((2, 9, 11, 1), np.float32)
    params, state = net.init(jax.random.key(0), x)
    fields = jn.inspect.receptive_fields(net, x)
    found = inside.effective_field(net, params, state, x, "conv_1", fields)
    side = np.array([1, 2, 3, 2, 1]) / 3
    np.testing.assert_allclose(found, np.pad(np.outer(side, side), [(2, 2), (3, 3)]), atol=1e-6)
    figure = inside.draw_fields(np.zeros((9, 11, 1)), fields, {"conv_1": found})
    left, right = figure.axes
    assert [p.get_label() for p in left.patches] == ["conv_1, 5×5"]
    assert right.get_title() == "conv_1" and right.patches[0].get_xy() == (2.5, 1.5)
    np.testing.assert_array_equal(right.images[0].get_array(), found)


def test_the_inner_quarter():
    fields = jn.inspect.receptive_fields(
        jn.serial(jn.conv(1, 8, padding=4)), jn.spec((1, 20, 20, 1))
    )
    field = np.zeros((20, 20))
    (top, left), size = fields.starts["conv"], fields.fields["conv"]
    assert size == (8, 8)
    field[top : top + 8, left : left + 8] = 1
    field[top + 2 : top + 6, left + 2 : left + 6] = 5
    assert inside.inner(field, fields, "conv") == (80 / 128, 16 / 64)
