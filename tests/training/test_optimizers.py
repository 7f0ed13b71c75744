"""Optimizers of optax through the trainer: each its update written out in NumPy, for ten steps.

The problem is least squares on a linear layer, whose gradient is written out too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 2))
RATE = 0.05


def loss(h, y):
    return jn.losses.half_squared_error(h, y)


def gradient(w, x, y):
    """Of the mean of ½‖x w - y‖² over the examples."""
    return x.T @ (x @ w - y) / len(x)


# Each is `(gradient at w, memory, number of the step from 1) -> (change of w, memory)`.


def descent(g, memory, n):
    return -RATE * g(0), memory


def momentum(g, memory, n):
    """Δw(n+1) = η δ y + α Δw(n): minus the gradient is δ y."""
    change = RATE * -g(0) + 0.9 * memory
    return change, change


def nesterov(g, memory, n):
    """The gradient is taken where the momentum is about to lead. [Sutskever et al. 2013]

    optax keeps w + α Δw as its weights; `compare` undoes that.
    """
    change = RATE * -g(0.9 * memory) + 0.9 * memory
    return change, change


def adagrad(g, memory, n):
    memory = memory + g(0) ** 2
    return -RATE * g(0) / np.sqrt(memory + 1e-7), memory


def rmsprop(g, memory, n):
    memory = 0.9 * memory + 0.1 * g(0) ** 2
    return -RATE * g(0) / np.sqrt(memory + 1e-8), memory


def adam(g, memory, n):
    m, v = memory if n > 1 else (0, 0)
    m, v = 0.9 * m + 0.1 * g(0), 0.999 * v + 0.001 * g(0) ** 2
    return -RATE * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8), (m, v)


RULES = {
    "gradient descent": (optax.sgd(RATE), descent),
    "momentum": (optax.sgd(RATE, momentum=0.9), momentum),
    "nesterov": (optax.sgd(RATE, momentum=0.9, nesterov=True), nesterov),
    "adagrad": (optax.adagrad(RATE, initial_accumulator_value=0.0), adagrad),
    "rmsprop": (optax.rmsprop(RATE), rmsprop),
    "adam": (optax.adam(RATE), adam),
}


@pytest.mark.parametrize("batch", [12, 3], ids=["all examples", "stochastic"])
@pytest.mark.parametrize("name", RULES)
def test_ten_steps_are_the_update_written_out(name, batch, x64):
    optimizer, rule = RULES[name]
    net = jn.dense(2, use_bias=False)
    trainer = jn.trainer(jn.supervised(net, loss), optimizer)
    train_state = trainer.init(KEY, (jnp.asarray(X), Y))
    w, memory = np.array(train_state.params["kernel"]), np.zeros((3, 2))
    first = w
    for n in range(1, 11):
        rows = np.arange(batch * n, batch * n + batch) % 12  # other examples each step, in turn
        x, y = X[rows], Y[rows]
        train_state, metrics = trainer.step(train_state, (x, y))
        change, memory = rule(lambda ahead, w=w, x=x, y=y: gradient(w + ahead, x, y), memory, n)
        w = w + change
        ahead = 0.9 * memory if name == "nesterov" else 0
        np.testing.assert_allclose(train_state.params["kernel"], w + ahead, 1e-10, 1e-12)
    assert 0.1 < np.abs(w - first).max() < 3
    assert int(train_state.step) == 10


# Line search: optimizers that ask for the value and the function.


def digits():
    (x, y), _ = jn.data.digits()
    return x[:400].reshape(400, 64).astype(np.float64), y[:400]


@pytest.mark.slow
def test_a_backtracking_step_is_the_one_written_out(x64):
    """Armijo's rule: halved until the loss falls by a tenth of what the slope promises."""
    search = optax.scale_by_backtracking_linesearch(
        20, slope_rtol=0.1, decrease_factor=0.5, increase_factor=1.0, max_learning_rate=1.0
    )
    optimizer = optax.chain(optax.sgd(8.0), search)
    net = jn.dense(2, use_bias=False)
    trainer = jn.trainer(jn.supervised(net, loss), optimizer)
    train_state = trainer.init(KEY, (jnp.asarray(X), Y))
    w, rate, halvings = np.array(train_state.params["kernel"]), 1.0, 0
    cost = lambda w: ((X @ w - Y) ** 2).sum() / 24  # noqa: E731
    for _ in range(10):
        train_state, metrics = trainer.step(train_state, (X, Y))
        np.testing.assert_allclose(metrics["loss"], cost(w), 1e-10)
        g = gradient(w, X, Y)
        while cost(w - rate * 8 * g) > cost(w) - 0.1 * rate * 8 * (g**2).sum():
            rate, halvings = rate / 2, halvings + 1
        w = w - rate * 8 * g
        np.testing.assert_allclose(train_state.params["kernel"], w, 1e-8, 1e-10)
    assert 2 <= halvings < 10


@pytest.mark.slow
def test_lbfgs_finds_scikit_learns_softmax_regression(x64):
    """Zoom line search through the trainer, with a penalty; compiled once; biases unpenalized."""
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the reference")
    x, y = digits()
    theirs = linear.LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x, y)
    net, optimizer = jn.dense(10), optax.lbfgs()
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    penalty = jn.penalties.l2(0.5 / len(x))  # theirs is C Σ loss + ½ ΣW²
    trainer = jn.trainer(jn.supervised(net, cross_entropy, penalty=penalty), optimizer)
    train_state = trainer.init(KEY, (jnp.asarray(x), y))
    losses = []
    for _ in range(150):
        train_state, metrics = trainer.step(train_state, (x, y))
        losses.append(float(metrics["loss"]))
    assert len(trainer.watcher.traces["step"]) == 1
    assert (np.diff(losses) < 1e-9).all()
    np.testing.assert_allclose(train_state.params["kernel"].T, theirs.coef_, atol=2e-4)
    # 30 steps do what gradient descent does not in 150
    assert losses[30] - losses[-1] < 0.01 * (losses[0] - losses[-1])


@pytest.mark.slow
def test_line_searches_run_in_fit(x64):
    """Inside the loop of many steps; what fills up the short last batch is hidden from the search.

    Seven examples in batches of four: the second batch is three, and the first example again.
    """
    data = jnp.asarray(X[:7]), jnp.asarray(Y[:7])
    optimizer = optax.chain(optax.sgd(8.0), optax.scale_by_backtracking_linesearch(15))
    net = jn.dense(2)
    trainer = jn.trainer(jn.supervised(net, loss), optimizer)
    train_state = trainer.init(KEY, data)
    *_, last = jn.fit(trainer, train_state, data, epochs=4, batch_size=4, shuffle=False)
    trainer = jn.trainer(jn.supervised(net, loss), optimizer)
    with pytest.warns(UserWarning, match="compiled again"):  # for three examples
        for _ in range(4):
            train_state, _ = trainer.step(train_state, (X[:4], Y[:4]))
            train_state, _ = trainer.step(train_state, (X[4:7], Y[4:7]))
    close = lambda a, b: np.testing.assert_allclose(a, b, 1e-9)  # noqa: E731
    jax.tree.map(close, last.train_state.params, train_state.params)


@pytest.mark.slow
def test_a_line_search_through_dropout():
    """The function is the one whose gradient was taken: the same units are dropped."""
    data = X.astype(np.float32), Y.astype(np.float32)
    optimizer = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))
    net = jn.serial(jn.dense(40), jnp.tanh, jn.dropout(0.2), jn.dense(2))
    trainer = jn.trainer(jn.supervised(net, loss), optimizer)
    train_state = trainer.init(jax.random.key(4), data)
    now = lambda: (train_state.params, train_state.state)  # noqa: E731
    start = jn.evaluate(trainer.objective, *now(), data)["loss"]
    with jax.debug_key_reuse(False):  # the key is used twice on purpose
        for _ in range(20):
            train_state, _ = trainer.step(train_state, data)
    assert 0.05 * start < jn.evaluate(trainer.objective, *now(), data)["loss"] < 0.7 * start


# What the user's loop does.


@pytest.mark.slow
def test_early_stopping_is_a_statement_in_the_loop():
    """Labels are noise for half of the digits: the held-out loss turns, and the loop ends there."""
    x, y = digits()
    x, y = x.astype(np.float32), y.astype(np.int32)
    train, test = (x[:60], y[:60]), (x[200:], y[200:])
    train[1][::2] = np.random.default_rng(0).integers(0, 10, 30)
    net, optimizer = jn.models.mlp([64, 10]), optax.adam(1e-2)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    trainer = jn.trainer(jn.supervised(net, cross_entropy), optimizer)
    train_state = trainer.init(KEY, train)

    best, epochs = None, []
    for epoch in jn.fit(trainer, train_state, train, epochs=200, evaluate=test, progress=False):
        epochs.append(epoch)
        if best is None or epoch.evaluation["loss"] < best.evaluation["loss"]:
            best = epoch
        elif epoch.number - best.number >= 5:  # patience
            break

    losses = [epoch.evaluation["loss"] for epoch in epochs]
    assert 3 < best.number < len(epochs) - 4 and len(epochs) == best.number + 5 < 100
    assert best.evaluation["loss"] == min(losses) < epochs[-1].evaluation["loss"]
    assert epochs[-1].train["loss"] < best.train["loss"]  # it would have gone on learning noise
    again = jn.evaluate(
        trainer.objective, best.train_state.params, best.train_state.state, test
    )  # what was kept is still the best
    assert again["loss"] == pytest.approx(best.evaluation["loss"], rel=1e-5)


@pytest.mark.slow
def test_l1_by_a_proximal_step_gives_exact_zeros_and_by_gradients_none():
    """On digits: pixels that are blank in all images, and more, get no weight at all."""
    x, y = digits()
    data = x.astype(np.float32), y.astype(np.int32)
    net, kernels = jn.dense(10, kernel_init=jn.initializers.normal(0.1)), {}
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    ways = {
        "gradient": (optax.sgd(0.2), jn.penalties.l1(0.01)),
        "proximal": (optax.chain(optax.sgd(0.2), jn.penalties.proximal_l1(0.01, 0.2)), None),
    }
    for way, (optimizer, penalty) in ways.items():
        trainer = jn.trainer(jn.supervised(net, cross_entropy, penalty=penalty), optimizer)
        train_state = trainer.init(KEY, data)
        for epoch in jn.fit(trainer, train_state, data, epochs=200, batch_size=400, progress=False):
            train_state = epoch.train_state
        kernels[way] = np.asarray(train_state.params["kernel"])
        assert 0.3 < epoch.train["loss"] < 1.8
        assert (np.asarray(train_state.params["bias"]) != 0).all()  # never on biases
    blank = (data[0] == 0).all(0)
    assert blank.sum() >= 3 and (kernels["proximal"][blank] == 0).all()
    assert 0.4 < (kernels["proximal"] == 0).mean() < 0.95
    # by gradients only what the sign's slope of 0 leaves at 0: nothing, here
    assert (kernels["gradient"] == 0).mean() < 0.01
