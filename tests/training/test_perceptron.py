"""Rules of single neurons, written out: mistakes, Novikoff's bound, XOR, cycles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.training import delta_rule, mistake_bound, perceptron_rule, train_perceptron
from tests.helpers import KEY, close

CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
XOR = np.array([0, 1, 1, 0], np.float32)


def separable(seed, n=60, inputs=3, margin=0.05):
    """Points on both sides of a random hyperplane, and the hyperplane."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=inputs)
    b = rng.uniform(-0.4, 0.4)
    w /= np.linalg.norm(w)
    x = rng.uniform(-1, 1, (20 * n, inputs))
    z = (x @ w + b) / np.hypot(1, b)
    far = np.flatnonzero(np.abs(z) > margin)[:n]
    x = x[far].astype(np.float32)
    y = (z[far] > 0).astype(np.float32)
    return x, y, {"kernel": w[:, None], "bias": np.array([b])}


def online(x, y, rate=1.0, passes=1000):
    """The rule in plain Python: weights, bias, mistakes per pass."""
    w = np.zeros(x.shape[1], np.float32)
    b = np.float32(0)
    counts = []
    for _ in range(passes):
        mistakes = 0
        for x_i, y_i in zip(x, y, strict=True):
            o = 1.0 if w @ x_i + b > 0 else 0.0
            if o != y_i:
                w = w + rate * (y_i - o) * x_i
                b = b + rate * (y_i - o)
                mistakes += 1
        counts.append(mistakes)
        if mistakes == 0:
            break
    return w, b, counts


# The perceptron's rule.


def test_a_batch_adds_up_and_units_are_apart():
    params = {"kernel": jnp.array([[1.0, -1.0], [0.0, 0.0]]), "bias": jnp.zeros(2)}
    x = jnp.array([[1.0, 5.0], [2.0, 7.0], [-3.0, 1.0]])  # outputs 1 0, 1 0, 0 1
    y = jnp.array([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    tree, (state, metrics) = perceptron_rule(params, {}, (x, y))
    # o - y of unit 0: 1, 1, 0; of unit 1: -1, 0, 0
    assert tree["kernel"].tolist() == [[3.0, -1.0], [12.0, -5.0]]
    assert tree["bias"].tolist() == [2.0, -1.0]
    assert state == {}
    assert float(metrics["loss"]) == 0.5  # 3 of 6


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_the_rule_is_the_gradient_of_its_criterion(scale):
    """jn.losses.perceptron on the scores, summed; both where z = 0 too."""
    x, y, _ = separable(1)

    def criterion(params):
        scores, _ = jn.dense(1).apply(params, {}, x)
        return jn.losses.perceptron(scores, y[:, None]).sum()

    params = {"kernel": scale * jnp.array([[1.0], [-2.0], [0.5]]), "bias": jnp.zeros(1)}
    tree, _ = perceptron_rule(params, {}, (x, y[:, None]))
    close(tree, jax.grad(criterion)(params))
    assert np.abs(tree["kernel"]).max() > 1


# Training to the end.


def test_training_is_the_loop_in_plain_python():
    x, y, _ = separable(7)
    run = train_perceptron(x, y, learning_rate=0.25)
    w, b, counts = online(x, y, 0.25)
    assert run.converged
    assert not run.cycles
    assert run.mistakes.tolist() == counts
    assert len(counts) > 2
    np.testing.assert_allclose(run.params["kernel"][:, 0], w, 1e-5, 1e-6)
    np.testing.assert_allclose(run.params["bias"], [b], 1e-5)


@pytest.mark.parametrize("margin", [0.05, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_mistakes_stay_below_novikoffs_bound(seed, margin):
    x, y, hidden = separable(seed, margin=margin)
    assert len(x) == 60
    assert 0 < y.sum() < 60
    run = train_perceptron(x, y)
    assert run.converged
    z = x @ run.params["kernel"] + run.params["bias"]
    assert ((z[:, 0] > 0) == (y > 0)).all()
    bound = mistake_bound(x, y, hidden)
    assert 1 <= run.mistakes.sum() <= bound < 4 / margin**2  # R² <= 3 + 1, γ > margin


def test_the_bound_is_reached():
    """Orthogonal examples, R = 1 and margins 1 / sqrt(2): two mistakes at most, and made."""
    x = np.eye(3)[:2]  # with the constant 1: R² = 2
    params = {"kernel": np.array([[1.0], [-1.0], [0.0]]), "bias": np.array([0.0])}
    assert mistake_bound(x, [1, 0], params) == pytest.approx(2 * 2 / 1)
    assert mistake_bound(2 * x, [1, 0], params) == pytest.approx(5 * 2 / 4)
    longer = jax.tree.map(lambda w: 7 * w, params)  # the length of the weights does not matter
    assert mistake_bound(x, [1, 0], longer) == pytest.approx(4)


def test_the_bound_of_one_example_is_1():
    params = {"kernel": np.array([[3.0]]), "bias": np.array([1.0])}  # along (x, 1)
    assert mistake_bound([[3.0]], [1], params) == pytest.approx(1)
    assert train_perceptron([[3.0]], [1]).mistakes.sum() == 1


def test_several_units_are_as_many_perceptrons():
    x, y, _ = separable(0)
    other = (x[:, 0] > 0.1).astype(np.float32)
    targets = np.stack([y, other], 1)
    both = train_perceptron(x, targets)
    one = train_perceptron(x, y)
    two = train_perceptron(x, other)
    kernels = both.params["kernel"]
    np.testing.assert_allclose(kernels[:, :1], one.params["kernel"], 1e-5, 1e-6)
    np.testing.assert_allclose(kernels[:, 1:], two.params["kernel"], 1e-5, 1e-6)
    assert both.mistakes.sum() == one.mistakes.sum() + two.mistakes.sum()
    params = jax.tree.map(lambda *w: np.concatenate(w, -1), one.params, two.params)
    each = mistake_bound(x, y, one.params) + mistake_bound(x, other, two.params)
    assert mistake_bound(x, targets, params) == pytest.approx(each)


def test_training_goes_on_from_params():
    x, y, _ = separable(7)
    first = train_perceptron(x, y, max_epochs=2)
    rest = train_perceptron(x, y, params=first.params)
    whole = train_perceptron(x, y)
    assert not first.converged
    assert rest.converged
    assert [*first.mistakes, *rest.mistakes] == whole.mistakes.tolist()
    jax.tree.map(np.testing.assert_array_equal, rest.params, whole.params)


def test_params_of_integers_are_read_as_floats():
    x, y, _ = separable(7)
    integers = {"kernel": np.zeros((3, 1), int), "bias": np.zeros(1, int)}
    halves = train_perceptron(x, y, learning_rate=0.5, params=integers)
    assert halves.mistakes.tolist() == train_perceptron(x, y).mistakes.tolist()


def test_convergence_is_reported():
    run = train_perceptron(CORNERS, CORNERS.max(1))
    assert run.mistakes.tolist() == [1, 2, 1, 0]
    assert str(run) == "converged: pass 4 made no mistake, 4 before it"


def test_xor_does_not_converge_and_says_so():
    """Whole numbers are exact in float32: the weights return, which proves the cycle."""
    run = train_perceptron(CORNERS, XOR)
    assert not run.converged
    assert run.cycles
    assert 1 < len(run.mistakes) < 30
    assert (run.mistakes > 0).all()
    _, _, counts = online(CORNERS, XOR, passes=50)
    assert counts[: len(run.mistakes)] == run.mistakes.tolist()
    assert min(counts) > 0
    report = str(run)
    for words in (
        "did not converge",
        "no hyperplane separates",
        "repeat in a cycle",
        "polynomial(2)",
    ):
        assert words in report


def test_too_few_passes_are_no_proof():
    x, y, _ = separable(7)
    run = train_perceptron(x, y, max_epochs=2)
    assert not run.converged
    assert not run.cycles
    report = str(run)
    assert "or more passes are needed" in report
    assert "in pass 2" in report


def test_a_cycle_of_any_length_is_found():
    """Random labels on whole numbers: the weights stay bounded, so they come back."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.integers(-2, 3, (12, 2)).astype(np.float32)
        y = rng.integers(0, 2, 12)
        y[:2] = 0, 1  # one point in both classes
        x[1] = x[0]
        run = train_perceptron(x, y, max_epochs=5000)
        assert run.cycles
        assert not run.converged
        assert len(run.mistakes) < 5000


# Messages.


def fresh(inputs=2, features=1):
    params, _ = jn.models.perceptron(features).init(KEY, jn.spec((1, inputs)))
    return params


@pytest.mark.parametrize(("x", "y", "options", "words"), [
    (np.ones((0, 2)), [], {}, "expected at least one example"),
    (np.ones(3), [0, 1, 0], {}, r"expected x \(n, inputs\).*got \(3,"),
    ([[np.nan]], [1], {}, "1 of 1 examples contain NaN or Inf"),
    (CORNERS, [0, 1], {}, "same leading dimension, got 0: 4, 1: 2"),
    (CORNERS, 2 * XOR - 1, {}, r"0 or 1, got \[-1.0, 1.0\].*pass y > 0"),
    (CORNERS, XOR, {"learning_rate": 0}, r"must be in \(0, inf\), got 0"),
    (CORNERS, XOR, {"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
    (CORNERS, XOR, {"params": fresh(inputs=3)}, r"perceptron/kernel: expected \(2, 1\)"),
])  # fmt: skip
def test_messages_of_training(x, y, options, words):
    with pytest.raises(ValueError, match=words):
        train_perceptron(x, y, **options)


@pytest.mark.parametrize(("params", "words"), [
    (fresh(), "smallest margin of 0. A linear support vector machine"),
    (fresh(features=2), r"params of perceptron\(1\) on 2 inputs, got kernel \(2, 2\)"),
])  # fmt: skip
def test_messages_of_the_bound(params, words):
    with pytest.raises(ValueError, match=words):
        mistake_bound(CORNERS, XOR, params)


@pytest.mark.parametrize("rule", [perceptron_rule, delta_rule])
def test_targets_have_an_axis_of_units(rule):
    words = rf"{rule.__name__}.*\(4, 1\) and targets \(4,\)\. For one unit, pass y\[:, None\]"
    with pytest.raises(ValueError, match=words):
        rule(fresh(), {}, (CORNERS, XOR))


@pytest.mark.parametrize("rule", [perceptron_rule, delta_rule])
def test_params_in_another_byte_order(rule):
    params = {"kernel": np.array([[1.0], [2.0]], np.float32), "bias": np.array([0.5], np.float32)}
    swapped = jax.tree.map(lambda a: a.astype(">f4"), params)
    x = np.array([[1.0, 3.0], [2.0, -5.0]], np.float32)
    targets = np.array([[0.0], [1.0]], np.float32)
    expected = rule(params, {}, (x, targets))
    jax.tree.map(np.testing.assert_array_equal, rule(swapped, {}, (x, targets)), expected)
