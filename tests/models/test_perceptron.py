"""Single neurons: the rules written out, Novikoff's bound, XOR, and maps that undo it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet import models
from tests.helpers import KEY, close, refuses

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
XOR = np.array([0, 1, 1, 0], np.float32)


def separable(seed, n=60, inputs=3, margin=0.05):
    """Points on both sides of a random hyperplane, and the hyperplane."""
    rng = np.random.default_rng(seed)
    w, b = rng.normal(size=inputs), rng.uniform(-0.4, 0.4)
    w /= np.linalg.norm(w)
    x = rng.uniform(-1, 1, (20 * n, inputs))
    z = (x @ w + b) / np.hypot(1, b)
    near = np.flatnonzero(np.abs(z) > margin)[:n]
    x, y = x[near].astype(np.float32), (z[near] > 0).astype(np.float32)
    return x, y, {"kernel": w[:, None], "bias": np.array([b])}


def online(x, y, rate=1.0, passes=1000):
    """The rule in plain Python: weights, bias, mistakes per pass."""
    w, b, counts = np.zeros(x.shape[1], np.float32), np.float32(0), []
    for _ in range(passes):
        counts.append(0)
        for x_i, y_i in zip(x, y, strict=True):
            o = 1.0 if w @ x_i + b > 0 else 0.0
            if o != y_i:
                w, b = w + rate * (y_i - o) * x_i, b + rate * (y_i - o)
                counts[-1] += 1
        if counts[-1] == 0:
            break
    return w, b, counts


# The units.


def test_a_perceptron_fires_above_0_alone():
    params = {"kernel": jnp.array([[1.0, 0.0], [2.0, 0.0]]), "bias": jnp.array([-2.0, 0.0])}
    x = jnp.array([[2.0, 0.0], [2.0, 0.1], [0.0, 0.9], [0.0, 1.1]])
    y, _ = models.perceptron(2).apply(params, {}, x)
    assert y[:, 0].tolist() == [0, 1, 0, 1]  # z = 0, 0.2, -0.2, 0.2
    assert y[:, 1].tolist() == [0, 0, 0, 0]  # z = 0 is not above


@pytest.mark.parametrize("layer", [models.perceptron, models.adaline])
def test_units_begin_at_0(layer):
    params, _ = layer(4).init(KEY, jn.spec((2, 3)))
    close(params, {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}, 0)
    drawn, _ = layer(4, kernel_init=jn.initializers.normal(1.0)).init(KEY, jn.spec((2, 3)))
    assert (drawn["kernel"] != 0).all()


def test_gradients_teach_a_threshold_nothing():
    params = {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.array([0.3])}
    grads = jax.grad(lambda p: models.perceptron().apply(p, {}, CORNERS)[0].sum())(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


# The perceptron's rule.


def test_a_batch_adds_up_and_units_are_apart():
    params = {"kernel": jnp.array([[1.0, -1.0], [0.0, 0.0]]), "bias": jnp.zeros(2)}
    x = jnp.array([[1.0, 5.0], [2.0, 7.0], [-3.0, 1.0]])  # outputs 1 0, 1 0, 0 1
    y = jnp.array([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    tree, (state, metrics) = models.perceptron_rule(params, {}, (x, y))
    # o - y of unit 0: 1, 1, 0; of unit 1: -1, 0, 0
    assert tree["kernel"].tolist() == [[3.0, -1.0], [12.0, -5.0]]
    assert tree["bias"].tolist() == [2.0, -1.0]
    assert state == {} and float(metrics["loss"]) == 0.5  # 3 of 6


def test_the_rule_is_the_gradient_of_its_criterion():
    """jn.losses.perceptron on the scores, summed; both where z = 0 too."""
    x, y, _ = separable(1)

    def criterion(params):
        scores, _ = jn.dense(1).apply(params, {}, x)
        return jn.losses.perceptron(scores, y[:, None]).sum()

    for scale in (0.0, 1.0):
        params = {"kernel": scale * jnp.array([[1.0], [-2.0], [0.5]]), "bias": jnp.zeros(1)}
        tree, _ = models.perceptron_rule(params, {}, (x, y[:, None]))
        close(tree, jax.grad(criterion)(params))
        assert np.abs(tree["kernel"]).max() > 1


# Training to the end.


def test_training_is_the_loop_in_plain_python():
    x, y, _ = separable(7)
    run = models.train_perceptron(x, y, learning_rate=0.25)
    w, b, counts = online(x, y, 0.25)
    assert run.converged and not run.cycles
    assert run.mistakes.tolist() == counts and len(counts) > 2
    np.testing.assert_allclose(run.params["kernel"][:, 0], w, 1e-5, 1e-6)
    np.testing.assert_allclose(run.params["bias"], [b], 1e-5)


@pytest.mark.parametrize("margin", [0.05, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_mistakes_stay_below_novikoffs_bound(seed, margin):
    x, y, hidden = separable(seed, margin=margin)
    assert len(x) == 60 and 0 < y.sum() < 60
    run = models.train_perceptron(x, y)
    assert run.converged
    z = x @ run.params["kernel"] + run.params["bias"]
    assert ((z[:, 0] > 0) == (y > 0)).all()
    bound = models.mistake_bound(x, y, hidden)
    assert 1 <= run.mistakes.sum() <= bound < 4 / margin**2  # R² <= 3 + 1, γ > margin


def test_the_bound_is_reached():
    """Orthogonal examples, R = 1 and margins 1 / sqrt(2): two mistakes at most, and made."""
    x = np.eye(3)[:2]  # with the constant 1: R² = 2
    params = {"kernel": np.array([[1.0], [-1.0], [0.0]]), "bias": np.array([0.0])}
    assert models.mistake_bound(x, [1, 0], params) == pytest.approx(2 * 2 / 1)
    assert models.mistake_bound(2 * x, [1, 0], params) == pytest.approx(5 * 2 / 4)
    longer = jax.tree.map(lambda w: 7 * w, params)  # the length of the weights does not matter
    assert models.mistake_bound(x, [1, 0], longer) == pytest.approx(4)
    # one example, seen once: one mistake, and the bound is 1
    alone = {"kernel": np.array([[3.0]]), "bias": np.array([1.0])}  # along (x, 1)
    assert models.mistake_bound([[3.0]], [1], alone) == pytest.approx(1)
    assert models.train_perceptron([[3.0]], [1]).mistakes.sum() == 1


def test_several_units_are_as_many_perceptrons():
    x, y, _ = separable(0)
    other = (x[:, 0] > 0.1).astype(np.float32)
    both = models.train_perceptron(x, np.stack([y, other], 1))
    one, two = models.train_perceptron(x, y), models.train_perceptron(x, other)
    np.testing.assert_allclose(both.params["kernel"][:, :1], one.params["kernel"], 1e-5, 1e-6)
    np.testing.assert_allclose(both.params["kernel"][:, 1:], two.params["kernel"], 1e-5, 1e-6)
    assert both.mistakes.sum() == one.mistakes.sum() + two.mistakes.sum()
    params = jax.tree.map(lambda *w: np.concatenate(w, -1), one.params, two.params)
    each = models.mistake_bound(x, y, one.params) + models.mistake_bound(x, other, two.params)
    assert models.mistake_bound(x, np.stack([y, other], 1), params) == pytest.approx(each)


def test_training_goes_on_from_params():
    x, y, _ = separable(7)
    first = models.train_perceptron(x, y, passes=2)
    rest = models.train_perceptron(x, y, params=first.params)
    whole = models.train_perceptron(x, y)
    assert not first.converged and rest.converged
    assert np.concatenate([first.mistakes, rest.mistakes]).tolist() == whole.mistakes.tolist()
    jax.tree.map(np.testing.assert_array_equal, rest.params, whole.params)
    whole_numbers = {"kernel": np.zeros((3, 1), int), "bias": np.zeros(1, int)}
    halves = models.train_perceptron(x, y, learning_rate=0.5, params=whole_numbers)
    assert halves.mistakes.tolist() == whole.mistakes.tolist()


def test_convergence_is_reported():
    run = models.train_perceptron(CORNERS, CORNERS.max(1))
    assert run.mistakes.tolist() == [1, 2, 1, 0]
    assert str(run) == "converged: pass 4 made no mistake, 4 before it"


def test_xor_does_not_converge_and_says_so():
    """Whole numbers are exact in float32: the weights return, which proves the cycle."""
    run = models.train_perceptron(CORNERS, XOR)
    assert not run.converged and run.cycles
    assert 1 < len(run.mistakes) < 30 and (run.mistakes > 0).all()
    _, _, counts = online(CORNERS, XOR, passes=50)
    assert counts[: len(run.mistakes)] == run.mistakes.tolist() and min(counts) > 0
    words = "did not converge", "no hyperplane separates", "repeat in a cycle", "polynomial(2)"
    assert all(part in str(run) for part in words)


def test_too_few_passes_are_no_proof():
    x, y, _ = separable(7)
    run = models.train_perceptron(x, y, passes=2)
    assert not run.converged and not run.cycles
    assert "or more passes are needed" in str(run) and "in pass 2" in str(run)


def test_a_cycle_of_any_length_is_found():
    """Random labels on whole numbers: the weights stay bounded, so they come back."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.integers(-2, 3, (12, 2)).astype(np.float32), rng.integers(0, 2, 12)
        y[:2], x[1] = [0, 1], x[0]  # one point in both classes
        run = models.train_perceptron(x, y, passes=5000)
        assert run.cycles and not run.converged and len(run.mistakes) < 5000


def fresh(inputs=2, features=1):
    return models.perceptron(features).init(KEY, jn.spec((1, inputs)))[0]


test_messages = refuses([
    (lambda: models.perceptron(0), "perceptron: features must be at least 1, got 0"),
    (lambda: models.adaline(0), "adaline: features must be at least 1, got 0"),
    (lambda: models.train_perceptron(np.ones((0, 2)), []), "expected at least one example"),
    (lambda: models.train_perceptron(np.ones(3), [0, 1, 0]), r"expected x \(n, inputs\).*got \(3,"),
    (lambda: models.train_perceptron([[np.nan]], [1]), "1 of 1 examples contain NaN or Inf"),
    (lambda: models.train_perceptron(CORNERS, [0, 1]), "same leading dimension, got 0: 4, 1: 2"),
    (lambda: models.train_perceptron(CORNERS, 2 * XOR - 1),
     r"0 or 1, got \[-1.0, 1.0\].*pass y > 0"),
    (lambda: models.train_perceptron(CORNERS, XOR, learning_rate=0),
     r"must be in \(0, inf\), got 0"),
    (lambda: models.train_perceptron(CORNERS, XOR, passes=0), "passes must be at least 1, got 0"),
    (lambda: models.train_perceptron(CORNERS, XOR, params=fresh(inputs=3)),
     r"perceptron/kernel: expected \(2, 1\)"),
    (lambda: models.mistake_bound(CORNERS, XOR, fresh()),
     "smallest margin of 0. A linear support vector machine"),
    (lambda: models.mistake_bound(CORNERS, XOR, fresh(features=2)),
     r"params of perceptron\(1\) on 2 inputs, got kernel \(2, 2\)"),
    (lambda: models.perceptron_rule(fresh(), {}, (CORNERS, XOR)),
     r"perceptron_rule.*\(4, 1\) and targets \(4,\)\. For one unit, pass y\[:, None\]"),
    (lambda: models.delta_rule(fresh(), {}, (CORNERS, XOR)),
     r"delta_rule.*\(4, 1\) and targets \(4,\)"),
])  # fmt: skip


@pytest.mark.parametrize("rule", [models.perceptron_rule, models.delta_rule])
def test_params_in_another_byte_order(rule):
    params = {"kernel": np.array([[1.0], [2.0]], np.float32), "bias": np.array([0.5], np.float32)}
    swapped = jax.tree.map(lambda a: a.astype(">f4"), params)
    batch = np.array([[1.0, 3.0], [2.0, -5.0]], np.float32), np.array([[0.0], [1.0]], np.float32)
    jax.tree.map(np.testing.assert_array_equal, rule(swapped, {}, batch), rule(params, {}, batch))
