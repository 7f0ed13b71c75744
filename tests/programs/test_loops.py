"""Loops with shared weights, as a researcher writes them, against plain JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import close
from tests.programs import common

KEY = jax.random.key(7)
X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
CELL = jn.serial(jn.dense(6), jnp.tanh, name="cell")


def cell_by_hand(params, x):
    return jnp.tanh(x @ params["dense"]["kernel"] + params["dense"]["bias"])


def agree(net, by_hand, x=X):
    """Values and gradients by params and input are those of the program in plain JAX."""
    params, state = net.init(KEY, x)
    common.agree(lambda params, x: net.apply(params, state, x)[0], by_hand, params, x)


def test_a_universal_transformer_shares_its_block():
    def forward(m: jn.Scope, x):
        def turn(m, carry, step):
            return m(CELL, carry + step), None

        y, _ = m.scan(turn, x, jnp.arange(4.0))
        return y

    def by_hand(params, x):
        for step in range(4):
            x = cell_by_hand(params["cell"], x + step)
        return x

    agree(jn.compose(forward), by_hand)


def test_the_states_of_all_turns_come_back_in_order():
    def forward(m, x):
        _, states = m.scan(lambda m, c, _: (m(CELL, c), c.mean()), x, length=3)
        return states

    def by_hand(params, x):
        states = []
        for _ in range(3):
            states.append(x.mean())
            x = cell_by_hand(params["cell"], x)
        return jnp.stack(states)

    agree(jn.compose(forward), by_hand)


@pytest.mark.parametrize(
    "options", [{"reverse": True}, {"unroll": 2}, {"reverse": True, "unroll": 3}]
)
def test_a_loop_backwards_or_unrolled(options):
    steps = jnp.arange(1.0, 4.0)

    def forward(m, x):
        y, seen = m.scan(lambda m, c, s: (m(CELL, c * s), c.sum() * s), x, steps, **options)
        return jnp.append(y.ravel(), seen)

    def by_hand(params, x):
        def turn(c, s):
            return cell_by_hand(params["cell"], c * s), c.sum() * s

        y, seen = jax.lax.scan(turn, x, steps, reverse="reverse" in options)
        return jnp.append(y.ravel(), seen)

    agree(jn.compose(forward), by_hand)


def test_loops_nest():
    def forward(m, x):
        def inner(m, carry, _):
            return m(CELL, carry), None

        def outer(m, carry, _):
            carry, _ = m.scan(inner, carry, length=2)
            return carry * 0.5, None

        y, _ = m.scan(outer, x, length=3)
        return y

    def by_hand(params, x):
        for _ in range(3):
            for _ in range(2):
                x = cell_by_hand(params["cell"], x)
            x = x * 0.5
        return x

    agree(jn.compose(forward), by_hand)


def test_recurrent_refinement_adds_a_correction_of_the_input():
    def forward(m, x):
        correct = jn.dense(6, name="correct")

        def turn(m, guess, _):
            return guess + 0.1 * m(correct, jnp.concatenate([guess, x], -1)), None

        y, _ = m.scan(turn, jnp.zeros_like(x), length=5)
        return y

    def by_hand(params, x):
        guess = jnp.zeros_like(x)
        entries = params["correct"]
        for _ in range(5):
            both = jnp.concatenate([guess, x], -1)
            guess = guess + 0.1 * (both @ entries["kernel"] + entries["bias"])
        return guess

    agree(jn.compose(forward), by_hand)


def test_a_deep_equilibrium_runs_a_fixed_number_of_turns():
    def forward(m, x):
        def turn(m, z, _):
            return 0.5 * m(CELL, z) + 0.5 * x, None

        z, _ = m.scan(turn, x, length=12)
        return z

    def by_hand(params, x):
        z = x
        for _ in range(12):
            z = 0.5 * cell_by_hand(params["cell"], z) + 0.5 * x
        return z

    agree(jn.compose(forward), by_hand)


def test_a_loop_of_ones_own_with_layers_that_draw_nothing():
    def forward(m, x):
        y, _ = jax.lax.scan(lambda c, s: (m(CELL, c) * s, None), x, jnp.arange(1.0, 4.0))
        return y

    def by_hand(params, x):
        for s in (1.0, 2.0, 3.0):
            x = cell_by_hand(params["cell"], x) * s
        return x

    agree(jn.compose(forward), by_hand)


def masks_of(net, x=X, **options):
    params, state = net.init(KEY, x)
    (_, masks), _ = net.apply(params, state, x, key=jax.random.key(1), train=True, **options)
    return np.asarray(masks)


def dropped(m, carry, _):
    mask = m(jn.dropout(0.5), jnp.ones(200))
    return m(CELL, carry), mask


@pytest.mark.parametrize("around", [
    lambda net: net,
    jn.remat,
    lambda net: jn.cast(net, jnp.bfloat16),
], ids=["plain", "remat", "cast"])  # fmt: skip
def test_each_turn_drops_others(around):
    net = around(jn.compose(lambda m, x: m.scan(dropped, x, length=4), name="net"))
    masks = masks_of(net)
    assert len(np.unique(masks, axis=0)) == 4
    assert 0.4 < (masks == 0).mean() < 0.6


def test_two_loops_of_one_function_drop_others():
    def forward(m, x):
        first = m.scan(dropped, x, length=2)[1]
        return x, jnp.concatenate([first, m.scan(dropped, x, length=2)[1]])

    assert len(np.unique(masks_of(jn.compose(forward, name="net")), axis=0)) == 4


def test_keys_of_ones_own_in_a_loop_of_ones_own():
    drop = jn.dropout(0.5)

    def forward(m, x):
        def turn(carry, key):
            return carry, m(drop, jnp.ones(200), key=key)

        return jax.lax.scan(turn, x, m.keys("turns", 3))

    net = jn.compose(forward, name="net")
    params, state = net.init(KEY, X)
    _, masks = net.apply(params, state, X, key=KEY, train=True)[0]
    wanted = [
        drop.apply({}, {}, jnp.ones(200), key=key, train=True)[0]
        for key in jax.random.split(jn.child_key(KEY, "key/turns"), 3)
    ]
    np.testing.assert_array_equal(masks, jnp.stack(wanted))


def test_the_same_loop_runs_in_evaluation_without_a_key():
    def forward(m, x):
        keys = m.keys("turns", 3)
        return jax.lax.scan(
            lambda c, key: (m(jn.dropout(0.5), c, key=key), None), x, keys, length=3
        )[0]

    net = jn.compose(forward, name="net")
    params, state = net.init(KEY, X)
    np.testing.assert_array_equal(net.apply(params, state, X)[0], X)


@pytest.mark.parametrize("loop", [
    lambda f, x: jax.vmap(f)(x),
    lambda f, x: jax.lax.map(f, x),
    lambda f, x: jax.lax.scan(lambda c, row: (c, f(row)), 0, x)[1],
    lambda f, x: jax.checkpoint(f)(x),
    lambda f, x: jax.lax.cond(x.sum() > -1e9, f, f, x),
    lambda f, x: jax.jit(f)(x),
    lambda f, x: jax.grad(lambda x: f(x).sum())(x),
], ids=["vmap", "map", "scan", "checkpoint", "cond", "jit", "grad"])  # fmt: skip
def test_a_layer_that_draws_elsewhere_says_the_line_to_write(loop):
    drop = jn.dropout(0.5)
    net = jn.compose(lambda m, x: loop(lambda row: m(drop, row), x), name="net")
    params, state = net.init(KEY, X)
    net.apply(params, state, X)
    with pytest.raises(ValueError, match=r"write m\(dropout, x, key=key\), with key = m.keys\("):
        net.apply(params, state, X, key=KEY, train=True)


def test_running_averages_go_from_turn_to_turn():
    norm = jn.batch_norm()
    net = jn.compose(lambda m, x: m.scan(lambda m, c, _: (m(norm, c) + 1, None), x, length=3)[0])
    params, state = net.init(KEY, X)
    _, after = jax.jit(partial(net.apply, train=True))(params, state, X)
    x, inner = X, state["batch_norm"]
    for _ in range(3):
        y, inner = norm.apply(params["batch_norm"], inner, x, train=True)
        x = y + 1
    close(after["batch_norm"], inner, 1e-5)


def test_a_loop_inside_vmap_is_a_layer_that_gets_a_key():
    """In training the message says what to write, and that is what is written then."""
    drop = jn.dropout(0.5)

    def looped(m, row):
        return m.scan(lambda m, c, _: (m(drop, c), None), row, length=2)[0]

    wrong = jn.compose(lambda m, x: jax.vmap(lambda row: looped(m, row))(x), name="net")
    wrong.apply({}, {}, X)
    with pytest.raises(ValueError, match=r"write m\(loop, x, key=key\), with loop = jn.compose"):
        wrong.apply({}, {}, X, key=KEY, train=True)

    loop = jn.compose(looped, name="loop")

    def forward(m, x):
        return jax.vmap(lambda row, key: m(loop, row, key=key))(x, m.keys("loop", len(x)))

    x = jnp.ones((3, 50))
    y, _ = jn.compose(forward).apply({}, {}, x, key=jax.random.key(3), train=True)
    keys = jax.random.split(jn.child_key(jax.random.key(3), "key/loop"), 3)
    rows = zip(x, list(keys), strict=True)
    close(y, jnp.stack([loop.apply({}, {}, row, key=key, train=True)[0] for row, key in rows]))
    assert len(np.unique(y, axis=0)) == 3


def test_a_value_sown_inside_vmap_says_so():
    def sowing(m, x):
        m.sow("size", jnp.abs(x).sum())
        return x

    net = jn.compose(lambda m, x: jax.vmap(lambda row: m(jn.compose(sowing), row))(x), name="net")
    net.apply({}, {}, X)
    with pytest.raises(ValueError, match=r"m\(sowing, x\), a layer that sows a value, read by"):
        jn.collect(net).apply({}, {}, X)
