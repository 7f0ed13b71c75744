"""Optimizers of optax through the trainer: their updates written out in NumPy, for ten steps.

The problem is least squares on a linear layer, whose gradient is written out too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import draw
from tests.training.conftest import KEY, same, started

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3))
Y = RNG.normal(size=(12, 2))
RATE = 0.05
LINEAR = jn.dense(2, use_bias=False)


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
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    mean = m / (1 - 0.9**n)
    spread = np.sqrt(v / (1 - 0.999**n))
    return -RATE * mean / (spread + 1e-8), (m, v)


RULES = {"gradient descent": (optax.sgd(RATE), descent), "adam": (optax.adam(RATE), adam)}


@pytest.mark.parametrize(("name", "batch"), [*[(name, 3) for name in RULES], ("adam", 12)])
def test_ten_steps_are_the_update_written_out(name, batch, x64):
    optimizer, rule = RULES[name]
    trainer, train_state = started(LINEAR, (jnp.asarray(X), Y), loss, optimizer)
    w = first = np.array(train_state.params["kernel"])
    memory = np.zeros((3, 2))
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
    trainer, train_state = started(LINEAR, (jnp.asarray(X), Y), loss, optimizer)

    def cost(w):
        return ((X @ w - Y) ** 2).sum() / 24

    w = np.array(train_state.params["kernel"])
    rate = 8.0
    halvings = 0
    for _ in range(10):
        train_state, metrics = trainer.step(train_state, (X, Y))
        np.testing.assert_allclose(metrics["loss"], cost(w), 1e-10)
        g = gradient(w, X, Y)
        slope = (g**2).sum()
        while cost(w - rate * g) > cost(w) - 0.1 * rate * slope:
            rate /= 2
            halvings += 1
        w = w - rate * g
        np.testing.assert_allclose(train_state.params["kernel"], w, 1e-8, 1e-10)
    assert 2 <= halvings < 10


@pytest.mark.slow
def test_line_searches_run_in_fit(x64):
    """Inside the loop of many steps; what fills up the short last batch is hidden from the search.

    Seven examples in batches of four: the second batch is three, and the first example again.
    """
    data = jnp.asarray(X[:7]), jnp.asarray(Y[:7])
    optimizer = optax.chain(optax.sgd(8.0), optax.scale_by_backtracking_linesearch(15))
    trainer, train_state = started(jn.dense(2), data, loss, optimizer)
    *_, last = jn.fit(trainer, train_state, data, epochs=4, batch_size=4, shuffle=False)
    trainer = jn.trainer(trainer.objective, optimizer)
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

    def measured(train_state):
        params, state = train_state.params, train_state.state
        return jn.evaluate(trainer.objective, params, state, data)["loss"]

    start = measured(train_state)
    with jax.debug_key_reuse(False):  # the key is used twice on purpose
        for _ in range(20):
            train_state, _ = trainer.step(train_state, data)
    assert 0.05 * start < measured(train_state) < 0.7 * start


# Complex params: optax expects the direction of ascent, which is the conjugate of JAX's gradient.

A = (RNG.normal(size=(12, 3)) + 1j * RNG.normal(size=(12, 3))).astype(np.complex64)
B = (A @ np.array([1 - 1j, 2j, -0.5])).astype(np.complex64)


def zeros(key, shape, dtype):
    return jnp.zeros(shape, jnp.float32)


def complex_zeros(key, shape, dtype):
    return jnp.zeros(shape, jnp.complex64)


def fitting(parts):
    """The fit |A w - B|² of complex w, or of its two parts."""

    def forward(m, batch):
        a, b = batch
        if parts:
            w = m.param("a", zeros, (3,)) + 1j * m.param("b", zeros, (3,))
        else:
            w = m.param("w", complex_zeros, (3,))
        v = m.param("v", zeros, (1,))
        errors = jnp.abs(a @ w - b) ** 2 + (v - 1) ** 2
        return errors.mean(), {}

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
    optimizer = sam if clip > 1 else optax.chain(optax.clip(clip), sam)
    objective = jn.supervised(LINEAR, loss)
    trainer = jn.trainer(objective, optimizer)
    train_state = trainer.init(KEY, (X, Y))
    w = np.array(train_state.params["kernel"])
    for _ in range(2):
        train_state, _ = trainer.step(train_state, (X, Y))
    up = np.clip(gradient(w, X, Y), -clip, clip)
    w -= 0.1 * np.clip(gradient(w + 0.01 * up, X, Y), -clip, clip)
    np.testing.assert_allclose(train_state.params["kernel"], w, rtol=1e-4)


def test_an_optimizer_with_params_of_its_own_is_told():
    trainer = jn.trainer(jn.supervised(LINEAR, loss), optax.lookahead(optax.sgd(0.1), 5, 0.5))
    with pytest.raises(TypeError, match=r"lookahead needs params of its own; .* jn.ema\(\)"):
        trainer.step(trainer.init(KEY, (X, Y)), (X, Y))


BY_PATH = np.ones((4, 3), np.float32), np.zeros((4, 2), np.float32)
NET = jn.serial(jn.dense(5, name="old"), jnp.tanh, jn.dense(2, name="head"))
OBJECTIVE = jn.supervised(NET, optax.squared_error)


def trained(optimizer, steps=3):
    trainer = jn.trainer(OBJECTIVE, optimizer)
    before = jax.device_get(trainer.init(KEY, BY_PATH).params)
    train_state = trainer.init(KEY, BY_PATH)
    for _ in range(steps):
        train_state, _ = trainer.step(train_state, BY_PATH)
    return before, jax.device_get(train_state.params), train_state


@pytest.mark.slow
def test_frozen_params_keep_their_bits():
    """`optax.adamw` alone moves them by its decay."""
    frozen = {"old/*": optax.set_to_zero(), "*": optax.adamw(0.1, weight_decay=0.1)}
    before, after, _ = trained(jn.by_path(frozen))
    jax.tree.map(np.testing.assert_array_equal, after["old"], before["old"])
    assert not np.array_equal(after["head"]["kernel"], before["head"]["kernel"])
    before, after, _ = trained(optax.chain(optax.adamw(0.1, weight_decay=0.1)))
    assert not np.array_equal(after["old"]["kernel"], before["old"]["kernel"])


@pytest.mark.slow
def test_each_array_gets_its_own_optimizer():
    rates = {"*/bias": optax.sgd(0.0), "head/*": optax.sgd(0.5), "*": optax.sgd(0.25)}
    before, after, _ = trained(jn.by_path(rates), steps=1)

    def mean_loss(params):
        (values, _), _ = OBJECTIVE.apply(params, {}, BY_PATH)
        return values.mean()

    grads = jax.grad(mean_loss)(before)
    for name, rate in (("head", 0.5), ("old", 0.25)):
        np.testing.assert_array_equal(after[name]["bias"], before[name]["bias"])
        moved = (before[name]["kernel"] - after[name]["kernel"]) / rate
        np.testing.assert_allclose(moved, grads[name]["kernel"], 1e-4, 1e-6)


@pytest.mark.slow
def test_in_fit_and_sweep():
    def make(rate):
        return jn.by_path({"old/*": optax.set_to_zero(), "*": optax.sgd(rate)})

    options = {"epochs": 2, "progress": False}
    found = jn.sweep(OBJECTIVE, make, BY_PATH, seeds=2, grid={"rate": [0.1, 0.2]}, **options)
    slow, fast = found.train["loss"][:, 0, -1]
    assert slow > fast
    trainer = jn.trainer(OBJECTIVE, make(0.1))
    *_, epoch = jn.fit(trainer, trainer.init(KEY, BY_PATH), BY_PATH, **options)
    np.testing.assert_allclose(epoch.train["loss"], slow, 1e-5)


@pytest.mark.slow
def test_a_run_is_saved_and_resumed(tmp_path):
    """Its state has no names with a "/", which no file of weights could hold."""

    def make():
        return jn.trainer(OBJECTIVE, jn.by_path({"old/*": optax.sgd(0.1), "*": optax.adam(0.1)}))

    start = make().init(KEY, BY_PATH)
    with jn.Checkpoints(tmp_path) as checkpoints:
        *_, last = jn.fit(make(), start, BY_PATH, epochs=1, progress=False)
        checkpoints.save(last)
    found, _ = jn.Checkpoints(tmp_path).newest(start)
    jax.tree.map(np.testing.assert_array_equal, found, last.train_state)


@pytest.mark.parametrize(("optimizers", "error", "words"), [
    ({}, TypeError, "must be a dict from patterns"),
    (optax.sgd(0.1), TypeError, "must be a dict from patterns"),
    ({"*": optax.sgd}, TypeError, r"optimizer of '\*' must be an optax optimizer"),
    ({"(a": optax.sgd(1.0)}, ValueError, "optimizers must hold patterns like"),
    ({"old/*": optax.sgd(1.0)}, ValueError, r"no pattern fits head/bias; add .*\"\*\""),
    ({"new/*": optax.sgd(1.0), "*": optax.sgd(1.0)}, ValueError, r"no array needs .*'new/\*'"),
])  # fmt: skip
def test_messages(optimizers, error, words):
    x, _ = BY_PATH
    params, _ = NET.init(KEY, x)
    with pytest.raises(error, match=f"^by_path: .*{words}"):
        jn.by_path(optimizers).init(params)


DATA = jnp.asarray(draw(12, 3), jnp.float32), jnp.ones((12, 2))


def run(decay, steps):
    optimizer = optax.chain(optax.adam(0.1), jn.ema(decay))
    trainer, train_state = started(jn.dense(2), DATA, optax.squared_error, optimizer)
    seen = []
    for _ in range(steps):
        train_state, _ = trainer.step(train_state, DATA)
        seen.append(jax.device_get(train_state.params["kernel"]))
    return train_state, seen


@pytest.mark.fast_cases("0.999", "0.5")
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_is_the_average_by_hand(decay):
    """Weights of at most (1 + t) / (10 + t); the params themselves train as without it."""
    train_state, seen = run(decay, 6)
    wanted = seen[0]
    for t, now in enumerate(seen[1:], start=1):
        rate = min(decay, (1 + t) / (10 + t))
        wanted = rate * wanted + (1 - rate) * now
    found = optax.tree.get(train_state.opt_state, "ema")
    np.testing.assert_allclose(found["kernel"], wanted, 1e-5)
    plain, other = started(jn.dense(2), DATA, optax.squared_error, optax.adam(0.1))
    for _ in range(6):
        other, _ = plain.step(other, DATA)
    np.testing.assert_allclose(seen[-1], other.params["kernel"], 1e-6)
    if decay == 0:
        np.testing.assert_allclose(found["kernel"], seen[-1], 1e-6)
    else:
        assert np.abs(found["kernel"] - seen[-1]).max() > 1e-3


def test_is_saved_with_the_train_state(tmp_path):
    train_state, _ = run(0.9, 2)
    jn.save(tmp_path / "a", train_state)
    again, _ = jn.load(tmp_path / "a", like=train_state)
    jax.tree.map(np.testing.assert_array_equal, again.opt_state, train_state.opt_state)


def test_messages_of_averages():
    with pytest.raises(ValueError, match="ema: decay must be in"):
        jn.ema(1.0)
    with pytest.raises(ValueError, match="ema: needs the params"):
        jn.ema().update({"w": jnp.ones(2)}, jn.ema().init({"w": jnp.ones(2)}))


@pytest.mark.parametrize(
    "parts",
    [
        (jn.ema(), optax.sgd(0.1)),
        (optax.clip(1.0), jn.ema(), optax.sgd(0.1)),
        (optax.sgd(0.1), optax.chain(jn.ema(), optax.scale(2.0))),
    ],
    ids=["first", "in between", "before another chain's end"],
)
def test_must_be_last(parts):
    """Before the optimizer it would average other numbers."""
    trainer, train_state = started(jn.dense(2), DATA, optax.squared_error, optax.chain(*parts))
    with pytest.raises(ValueError, match=r"ema: .* got the gradients .*; write optax.chain\(opt"):
        trainer.step(train_state, DATA)


def test_may_be_last_inside_of_multi_steps():
    steps = optax.MultiSteps(optax.chain(optax.sgd(0.1), jn.ema()), 4).gradient_transformation()
    trainer, train_state = started(jn.dense(2), DATA, optax.squared_error, steps)
    trainer.step(train_state, DATA)


def test_an_average_of_16_bits_is_kept_in_float32():
    """0.001 of a change of 2 ** -7 is far below the digits of bfloat16."""
    optimizer = optax.chain(optax.sgd(1.0), jn.ema(0.999))
    params = {"w": jnp.ones((), jnp.bfloat16)}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    grads = {"w": jnp.full((), -(2.0**-7), jnp.bfloat16)}
    wanted, now = 0.0, 1.0
    for step in range(40):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        now += 2.0**-7
        rate = min(0.999, (1 + step) / (10 + step)) if step else 0
        wanted = rate * wanted + (1 - rate) * now
    found = optax.tree.get(state, "ema")["w"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
