"""Optimizers of optax through the trainer: their updates written out in NumPy, for ten steps.

The problem is least squares on a linear layer, whose gradient is written out too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.training.conftest import same

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 2))
RATE = 0.05


def loss(h, y):
    return jn.losses.half_squared_error(h, y)


def gradient(w, x, y):
    """Of the mean of ½‖x w - y‖² over the examples."""
    return x.T @ (x @ w - y) / len(x)


# Each is `(gradient, memory, number of the step from 1) -> (change of w, memory)`.


def descent(g, memory, n):
    return -RATE * g, memory


def adam(g, memory, n):
    m, v = memory if n > 1 else (0, 0)
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    return -RATE * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + 1e-8), (m, v)


RULES = {
    "gradient descent": (optax.sgd(RATE), descent),
    "adam": (optax.adam(RATE), adam),
}


@pytest.mark.parametrize(("name", "batch"), [*[(name, 3) for name in RULES], ("adam", 12)])
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
        change, memory = rule(gradient(w, x, y), memory, n)
        w = w + change
        np.testing.assert_allclose(train_state.params["kernel"], w, 1e-10, 1e-12)
    assert 0.1 < np.abs(w - first).max() < 3
    assert int(train_state.step) == 10


# Line search: optimizers that ask for the value and the function.


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
    same(last.train_state.params, train_state.params, 1e-9)


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


# Complex params: optax expects the direction of ascent, which is the conjugate of JAX's gradient.

A = (RNG.normal(size=(12, 3)) + 1j * RNG.normal(size=(12, 3))).astype(np.complex64)
B = (A @ np.array([1 - 1j, 2j, -0.5])).astype(np.complex64)


def fitting(parts):
    """The fit |A w - B|² of complex w, or of its two parts."""

    def forward(m, batch):
        a, b = batch
        zeros = lambda dtype: lambda key, shape, _: jnp.zeros(shape, dtype)  # noqa: E731
        if parts:
            real, imag = (m.param(name, zeros(jnp.float32), (3,)) for name in "ab")
            w = real + 1j * imag
        else:
            w = m.param("w", zeros(jnp.complex64), (3,))
        v = m.param("v", zeros(jnp.float32), (1,))
        return (jnp.abs(a @ w - b) ** 2 + (v - 1) ** 2).mean(), {}

    return jn.compose(forward, name="fitting")


@pytest.mark.parametrize(("optimizer", "options", "alike"), [
    (optax.sgd(0.1), {"loss_scale": 1024.0}, True),
    pytest.param(optax.adam(0.1), {}, False, marks=pytest.mark.slow),
    (optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.2, momentum=0.8)), {}, True),
    (jn.by_path({"v": optax.adam(0.1), "*": optax.sgd(0.1)}), {}, True),
    pytest.param(optax.sgd(0.1), {"accumulate": 3}, True, marks=pytest.mark.slow),
    pytest.param(optax.lbfgs(), {}, True, marks=pytest.mark.long),
], ids=["scaled", "adam", "clipped", "by path", "accumulated", "lbfgs"])  # fmt: skip
def test_complex_params_train_as_their_two_parts(optimizer, options, alike, tmp_path):
    losses = []
    for parts in (False, True):
        trainer = jn.trainer(fitting(parts), optimizer, **options)
        train_state = trainer.init(KEY, (A, B))
        found = []
        for step in range(150):
            if step == 3:  # as if it went on after an interruption
                jn.save(tmp_path / "run", train_state)
                train_state, _ = jn.load(tmp_path / "run", like=train_state)
            train_state, metrics = trainer.step(train_state, (A, B))
            found.append(float(metrics["loss"]))
        losses.append(found)
    assert 0 <= losses[0][-1] < 1e-3 < losses[0][0]
    if alike:
        np.testing.assert_allclose(*losses, rtol=1e-2, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("clip", [10.0, 0.2])
def test_optimizers_get_the_arguments_that_they_take(clip):
    """`sam` takes no value of the loss: one step goes up, and the next one from there down."""
    sam = optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01))
    objective = jn.supervised(jn.dense(2, use_bias=False), loss)
    trainer = jn.trainer(objective, sam if clip > 1 else optax.chain(optax.clip(clip), sam))
    train_state = trainer.init(KEY, (X, Y))
    w = np.array(train_state.params["kernel"])
    for _ in range(2):
        train_state, _ = trainer.step(train_state, (X, Y))
    up = np.clip(gradient(w, X, Y), -clip, clip)
    w -= 0.1 * np.clip(gradient(w + 0.01 * up, X, Y), -clip, clip)
    np.testing.assert_allclose(train_state.params["kernel"], w, rtol=1e-4)
    trainer = jn.trainer(objective, optax.lookahead(optax.sgd(0.1), 5, 0.5))
    with pytest.raises(TypeError, match=r"lookahead needs params of its own; .* jn.ema\(\)"):
        trainer.step(trainer.init(KEY, (X, Y)), (X, Y))
