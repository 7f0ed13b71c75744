"""Experiments of the lectures: small runs, and their parts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import backpropagation as bp
from experiments import compressed_sensing as cs
from experiments import dbn, features, greedy, hmm, inside, invariance, perceptron, rbm, universal
from experiments.invariance import change, rotation, scale, shear
from experiments.optimizers import RULES
from tests.helpers import close


@pytest.mark.long
def test_learns_reports_and_draws(tmp_path):
    from PIL import Image

    config = perceptron.Config(points=16, passes=20, seeds=1, pairs=2, output=tmp_path)
    results = perceptron.run(config)
    assert 1 <= results.mistakes <= results.bound < 1000
    assert results.xor == {
        "no map": False, "polynomial": True, "RBF": True, "random Fourier": True
    }  # fmt: skip
    assert results.pairs.all()
    assert (results.pair_accuracies > 0.95).all()
    assert 0.8 < results.digits["no map"][0] < 0.97 < results.digits["random Fourier"][0] < 0.995
    with Image.open(tmp_path / "line.gif") as film:
        assert film.n_frames == results.mistakes + 1


def test_points_lie_on_both_sides_of_the_line_and_off_it():
    x, y, line = perceptron.line_data(200)
    z = (x @ line["kernel"] + line["bias"])[:, 0]
    assert ((z > 0) == y).all()
    assert np.abs(z).min() > 0.07
    assert 0.2 < y.mean() < 0.8


def test_clouds_are_xor():
    x, y = perceptron.xor_data(400)
    right, up = (x > 0).T
    assert ((right != up) == y).mean() > 0.99
    assert y.mean() == 0.5


@pytest.mark.slow
def test_the_error_falls_with_units_and_is_drawn(tmp_path):
    config = universal.Config(widths=(2, 30), seeds=2, steps=300, points=60, output=tmp_path)
    results = universal.run(config)
    assert results.errors.shape == results.largest.shape == (2, 2)
    few, many = results.errors
    assert 0.3 < few.min() < 1.3
    assert 0.005 < many.max() < 0.5 * few.min()
    assert (results.largest > results.errors).all()


def test_the_function_is_continuous_and_has_two_kinks():
    x = np.linspace(-1, 1, 20_001)
    y = universal.function(x)
    slopes = np.diff(y) / np.diff(x)
    assert np.abs(np.diff(y)).max() < 0.003
    jumps = np.flatnonzero(np.abs(np.diff(slopes)) > 0.5)
    np.testing.assert_allclose(x[jumps + 1], [-0.5, 0.3], atol=2e-4)


@pytest.mark.slow
def test_units_rise_in_different_places():
    params, _ = universal.net(100).init(jax.random.key(0), jn.spec((2, 1)))
    places = -params["dense"]["bias"] / params["dense"]["kernel"][0]
    assert 0.3 < (np.abs(places) < 1).mean() < 0.7
    assert np.ptp(np.asarray(places)[np.abs(places) < 1]) > 1.6


@pytest.mark.slow
def test_the_small_example_becomes_likelier_and_ais_says_so():
    curve, estimates = rbm.exact_example(jax.random.key(0), 12, "PCD")
    assert curve.shape == (13,)
    assert estimates.shape == (12, 3)
    assert -8.4 < curve[0] < -8.2
    assert curve[0] + 0.5 < curve[-1] < -6.4
    epochs, likelihood, error = estimates.T
    assert epochs.tolist() == list(range(1, 13))
    off = np.abs(likelihood - curve[1:]) / error
    assert off.max() < 3.5
    assert off.mean() > 0.2  # not closer than they may be


def test_temperatures_are_those_of_the_paper():
    betas = rbm.temperatures(14_500)
    assert len(betas) == 14_501
    np.testing.assert_allclose(betas[[0, 500, 4500, -1]], [0, 0.5, 0.9, 1])
    assert (np.diff(betas) > 0).all()
    assert (np.diff(rbm.temperatures(5)) > 0).all()


def test_pixels_are_drawn_by_their_grey_value():
    x = np.tile(np.array([0.0, 0.3, 1.0], np.float32), (5000, 1))
    drawn = np.asarray(rbm.binarize(jax.random.key(0), x))
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(0), [0, 0.3, 1], atol=0.03)


@pytest.mark.slow
def test_fine_tuning_starts_from_the_given_params():
    (x, y), test = jn.data.digits()
    train = (x[:300].reshape(-1, 64), y[:300])
    test = (test[0].reshape(-1, 64), test[1])
    dead = {"dense": {"kernel": jnp.zeros((64, 30)), "bias": jnp.full(30, -9.0, jnp.float32)}}
    chance = dbn.fine_tune(0, jn.models.mlp([30, 10]), dead, train, test, 60)
    assert 0 < chance < 0.2  # dead units stay dead, whatever is above them


@pytest.mark.slow
def test_vowels_become_state_0_and_nothing_else_changes():
    x = hmm.lines("babe " * 50, 250)
    logits = np.full((2, 27), -9.0)
    logits[0, [1, 26]] = logits[1, [0, 4]] = 0  # state 1 emits the vowels
    start = np.array([0.3, 0.7])
    transition = np.array([[0.1, 0.2], [0.3, 0.4]])
    params = {"start": start, "transition": transition, "emission": {"logits": logits}}
    ordered = hmm.vowels_first(params, x)
    assert ordered["start"].tolist() == [0.7, 0.3]
    assert ordered["transition"].tolist() == [[0.4, 0.3], [0.2, 0.1]]
    np.testing.assert_array_equal(ordered["emission"]["logits"], logits[::-1])
    share = hmm.by_symbol(ordered, x)[:, 0]
    assert share[[0, 4]].min() > 0.9
    assert share[[1, 26]].max() < 0.1
    np.testing.assert_allclose(hmm.by_symbol(params, x), hmm.by_symbol(ordered, x)[:, ::-1], 1e-4)


def test_text_becomes_numbers():
    assert hmm.lines("ab z" * 200, 500).shape == (2, 250)
    assert hmm.lines("ab z" * 200, 500)[0, :4].tolist() == [0, 1, 26, 25]


def test_share_of_letters_in_the_state_of_their_kind():
    vowel = np.array([c in "aeiou" for c in hmm.SYMBOLS], float)
    assert hmm.right(vowel) == 1
    vowel[[0, 24, 26]] = 0, 1, 1  # a wrong; y and the space are not counted
    assert hmm.right(vowel) == 24 / 25
    assert hmm.right(vowel, np.arange(27) + 1) == 1 - 1 / (378 - 25 - 27)


@pytest.mark.long
def test_the_smallest_and_the_largest_change_are_measured_with_and_without_augmentation(
    few_examples, tmp_path
):
    sizes = {"steps": 3, "epochs": 1, "batch_size": 32, "seeds": 2}
    config = invariance.Config(**sizes, data_dir=few_examples(500, 100), output=tmp_path)
    results = invariance.run(config)
    assert [name.split(",")[0] for name in results.accuracies] == ["rotation", "shear", "scale"]
    for panel in results.accuracies.values():
        assert list(panel) == ["without", "with"]
        for accuracies in panel.values():
            assert accuracies.shape == (2, 3)
            assert (accuracies >= 0).all()
            assert 0.15 < accuracies[:, 1].mean() < 0.95  # upright
        upright, quarter = panel["without"][:, 1], panel["without"][:, 0]
        assert (quarter < upright).all()
    middles = [panel["without"][:, 1] for panel in results.accuracies.values()]
    np.testing.assert_array_equal(middles[0], middles[1])  # the identity in every panel
    np.testing.assert_array_equal(middles[0], middles[2])


@pytest.mark.slow
def test_changes_are_those_of_the_axes():
    """An ink spot to the right of the middle, and one above it."""
    x = np.zeros((1, 29, 29, 2), np.float32)
    x[0, 14, 22, 0] = x[0, 6, 14, 1] = 1

    def places(matrix):
        y = np.asarray(change(x, matrix))[0]
        return [tuple(np.argwhere(y[..., i] == y[..., i].max())[0] - 14) for i in (0, 1)]

    assert places(np.eye(2)) == [(0, 8), (-8, 0)]
    assert places(rotation(90)) == [(8, 0), (0, 8)]  # clockwise: right goes down, up goes right
    assert places(shear(45)) == [(0, 8), (-8, -8)]
    assert places(scale(-1.0)) == [(0, 4), (-4, 0)]
    assert places(scale(0.5)) == [(0, 11), (-11, 0)]  # 8 times the root of 2


@pytest.mark.slow
def test_all_images_are_changed():
    x = np.random.default_rng(0).uniform(size=(501, 5, 6, 1)).astype(np.float32)
    np.testing.assert_allclose(change(x, np.eye(2)), x, atol=1e-6)


def test_theory_at_known_points():
    """Weak threshold at half as many measurements: 0.385 of them [Donoho and Tanner 2009]."""
    shares = np.array([0.0, 0.5 * 0.3848, 1.0])
    np.testing.assert_allclose(cs.theory(shares), [0, 0.5, 1], atol=1e-3)
    assert (np.diff(cs.theory(np.linspace(0, 1, 50))) > 0).all()


def test_half_way():
    recovered = np.array([[0, 0.25, 0.75, 1], [0, 0, 0, 0.4], [0.6, 1, 1, 1]])
    np.testing.assert_allclose(cs.half_way(recovered, np.array([1, 3, 5, 7])), [4, np.nan, np.nan])


@pytest.mark.slow
def test_phase_plot_is_black_and_white_on_the_two_sides_of_theory():
    recovered, sparse, counts = cs.phase(cs.Config(unknowns=60, cells=4, trials=5, steps=150))
    assert sparse.tolist() == [12, 24, 36, 48]
    assert counts.tolist() == [15, 30, 45, 60]
    needed = cs.theory(sparse / 60)[:, None]
    measured = counts / 60
    assert (recovered[measured > needed + 0.2] > 0.7).all()
    assert (recovered[measured < needed - 0.2] < 0.3).all()
    assert 0.2 < recovered.mean() < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", [1, 3])
def test_entries_of_a_projection_have_three_values_and_variance_1_over_features(sparsity):
    kernel = np.asarray(cs.signs(sparsity)(jax.random.key(0), (400, 50)))
    size = np.sqrt(sparsity / 50)
    expected = [-size, size] if sparsity == 1 else [-size, 0, size]
    np.testing.assert_allclose(np.unique(kernel), expected, rtol=1e-6)
    assert abs((kernel == 0).mean() - (1 - 1 / sparsity)) < 0.02
    assert abs(kernel.mean()) < 4 * (1 / 50 / kernel.size) ** 0.5  # 4 standard errors
    np.testing.assert_allclose(50 * kernel.var(), 1, rtol=0.05)


@pytest.mark.slow
def test_a_digit_is_recovered():
    """A small image with an eighth of the pixels inked."""
    image = np.zeros((2, 10, 10), np.float32)
    image[0, 2:9, 5] = image[1, 3, 2:8] = 0.8
    image[0, 5, 2:5] = image[1, 4:8, 6] = 0.3
    found = cs.reconstruct(cs.Config(steps=150, fractions=(0.1, 0.5)), image.reshape(2, 100))
    assert found.shape == (2, 3, 2, 100)
    errors = np.linalg.norm(found - image.reshape(2, 100), axis=-1)
    assert (errors[0, 1] > 0.1).all()  # from 10 numbers
    assert (errors[1, 0] > 0.5).all()
    assert (errors[1, 1:] < 1e-4).all()


@pytest.mark.slow
def test_every_optimizer_of_the_record_falls_on_a_parabola():
    for name, rule in RULES.items():
        optimizer = rule.make(learning_rate=0.1)
        w = jnp.ones(3)
        memory = optimizer.init(w)
        for _ in range(5):
            updates, memory = optimizer.update(w, memory, w)  # the gradient of w²/2 is w
            w = w + updates
        assert -1 < w.min() < 0.99, name


@pytest.mark.long
def test_methods_are_compared_on_few_and_all_labels(few_examples, monkeypatch, tmp_path):
    monkeypatch.setattr(greedy, "VALIDATION", 300)
    monkeypatch.setattr(greedy, "EPOCHS", {10: 30, greedy.ALL: 2})
    results = greedy.run(
        greedy.Config(
            labels=(10, greedy.ALL),
            methods=("none", "k-means", "random data vectors"),
            features=(20,),
            unlabeled=400,
            seeds=2,
            data_dir=few_examples(1500, 300),
            output=tmp_path,
        )
    )
    for found in results.accuracies.values():
        assert {n: a.shape for n, a in found.items()} == {10: (2,), greedy.ALL: (2,)}
        assert all(0.2 < a.mean() < 0.9 for a in found.values())
    assert results.accuracies["k-means"][10].std() > 0  # each seed has its own labels


@pytest.mark.long
def test_a_tiny_run(few_examples, tmp_path):
    results = features.run(
        features.Config(
            features=36,
            train_size=250,
            test_size=200,
            epochs=100,
            seeds=1,
            centers=(10, 50),
            data_dir=few_examples(300, 300),
            output=tmp_path,
        )
    )
    assert [name.split(",")[0] for name in results.accuracies] == [
        "pixels", "random weights", "PCA whitening", "random digits", "k-means", "k-means",
        "sparse coding", "sparse coding", "sparse coding",
    ]  # fmt: skip
    for accuracies in results.accuracies.values():
        assert accuracies.shape == (1,)
        assert 0.3 < accuracies[0] < 0.95
    for accuracies in results.rbf.values():
        assert accuracies.shape == (2, 1)
        assert 0.5 < accuracies[0, 0] < accuracies[1, 0] < 0.99


ACTIVATIONS = {
    "sigmoid": (bp.sigmoid, bp.sigmoid_slope),
    "tanh": (jnp.tanh, lambda z: 1 - jnp.tanh(z) ** 2),
    "relu": (jax.nn.relu, lambda z: (z > 0) * 1.0),
}


def both(hidden, f, slope, dtype):
    """Cost and gradient by hand, and those of the library's perceptron."""
    r = np.random.default_rng(0)
    x = jnp.asarray(r.normal(size=(5, 2, 3)), dtype)
    y = jnp.asarray(r.random((5, 4)), dtype)
    net = bp.make_net(hidden, 4, f)
    params, _ = net.init(jax.random.key(0), x)
    params = jax.tree.map(lambda w: w + jnp.asarray(0.1 * r.normal(size=w.shape), dtype), params)
    objective = bp.make_objective(net, 0.3)

    @jax.jit
    def compare(params):
        exact = jax.value_and_grad(lambda p: objective.apply(p, {}, (x, y))[0][0].mean())
        return bp.backpropagate(params["mlp"], x, y, f, slope, 0.3), exact(params)

    return compare(params)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hidden"), [
    ("sigmoid", ()), ("sigmoid", (7, 6)), ("tanh", (9, 8, 7, 6)), ("relu", (5,) * 12),
])  # fmt: skip
def test_equals_jax_grad_in_float64(hidden, name, x64):
    (cost, gradients), (value, exact) = both(hidden, *ACTIVATIONS[name], jnp.float64)
    assert float(cost) == pytest.approx(float(value), abs=1e-12)
    close(gradients, exact["mlp"], 1e-7, 1e-12)
    assert max(float(abs(g).max()) for g in jax.tree.leaves(gradients)) > 0.1


def test_one_neuron_by_hand():
    """z = -0.46, a = σ(z) = 0.387, δ = -(1 - a) a (1 - a), and then δ x + λ W."""
    w = np.float32(bp.W)[:, None]
    x = np.float32(bp.X)[None]
    y = np.ones((1, 1), np.float32)
    params = {"output": {"kernel": w, "bias": np.zeros(1, np.float32)}}
    run = jax.jit(bp.backpropagate, static_argnums=(3, 4))
    cost, gradients = jax.device_get(run(params, x, y, bp.sigmoid, bp.sigmoid_slope, 0.5))
    a = 1 / (1 + np.exp(0.46))
    delta = -((1 - a) ** 2) * a
    np.testing.assert_allclose(gradients["output"]["bias"], [delta], rtol=1e-5)
    close(gradients["output"]["kernel"][:, 0], delta * bp.X + 0.5 * bp.W, 1e-5, 0)
    assert float(cost) == pytest.approx((1 - a) ** 2 / 2 + 0.25 * 0.73, rel=1e-5)


def test_the_layers_come_in_their_order_beyond_ten():
    params, _ = jn.models.mlp([3] * 13).init(jax.random.key(0), jn.spec((2, 3)))
    names = bp.in_order(params)
    assert names[1:3] == ["dense_1", "dense_2"]
    assert names[10:] == ["dense_10", "dense_11", "output"]
    assert sorted(names) == sorted(params)
    assert bp.in_order({"output": {}}) == ["output"]


@pytest.mark.long
def test_a_run(tmp_path):
    """Sizes and one epoch of a real run: the same losses, the orders of the differences."""
    results = bp.run(bp.Config(epochs=3, learning_rate=3, hidden=(20,), output=tmp_path))
    assert 0 < results.gradients["float32"] < 1e-6
    assert results.gradients["float64"] < 1e-12  # 0 if XLA orders both sums in the same way
    assert results.losses.shape == (2, 3 * (1438 // 16))
    np.testing.assert_allclose(results.losses[0], results.losses[1], rtol=1e-5)
    assert 0.05 < results.losses[0, -1] < 0.4 < results.losses[0, 0]
    assert 0.5 < results.accuracy < 0.95
    for (method, name), slope in results.orders.items():
        expected = {"forward": 1, "central": 2}[method]
        assert slope == pytest.approx(expected, abs=0.01 if name == "float64" else 0.1)


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
    assert best[0] == 1
    assert best[3] == 0
    worst = inside.deletion(SUMS, {}, {}, X, LABELS, -X[..., 0], shares, 0)
    np.testing.assert_array_equal(worst[:4], 1)
    assert worst[-1] == best[-1] == 2 / 7  # all black: class 0, which is right for 2 of 7


def test_removed_pixels_have_a_value_in_all_chunks(monkeypatch):
    ranks = np.random.default_rng(1).normal(size=X.shape[:3])
    shares = [0.3, 0.6]
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
    net = jn.serial(*conv)
    x = np.ones((2, 9, 11, 1), np.float32)
    params, state = net.init(jax.random.key(0), x)
    fields = jn.inspect.receptive_fields(net, x)
    found = inside.effective_field(net, params, state, x, "conv_1", fields)
    side = np.array([1, 2, 3, 2, 1]) / 3
    np.testing.assert_allclose(found, np.pad(np.outer(side, side), [(2, 2), (3, 3)]), atol=1e-6)
    left, right = inside.draw_fields(np.zeros((9, 11, 1)), fields, {"conv_1": found}).axes
    assert [p.get_label() for p in left.patches] == ["conv_1, 5×5"]
    assert right.get_title() == "conv_1"
    assert right.patches[0].get_xy() == (2.5, 1.5)
    np.testing.assert_array_equal(right.images[0].get_array(), found)


def test_the_inner_quarter():
    net = jn.serial(jn.conv(1, 8, padding=4))
    fields = jn.inspect.receptive_fields(net, jn.spec((1, 20, 20, 1)))
    field = np.zeros((20, 20))
    (top, left), size = fields.starts["conv"], fields.fields["conv"]
    assert size == (8, 8)
    field[top : top + 8, left : left + 8] = 1
    field[top + 2 : top + 6, left + 2 : left + 6] = 5
    assert inside.inner(field, fields, "conv") == (80 / 128, 16 / 64)
