"""Loops until something holds: equilibria, differential equations, halting, tied layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree, dense, mlp

KEYS_MAY_REPEAT = True  # both programs draw with one key
KEY = jax.random.key(12)
X = jnp.asarray(draw(3, 4), jnp.float32)
FIELD = jn.serial(jn.dense(5), jnp.tanh, jn.dense(4), name="field")
PARAMS, _ = FIELD.init(KEY, X)


def field(params, x):
    return FIELD.apply(params, {}, x)[0]


def fixed_point(f, z):
    def go_on(pair):
        before, z = pair
        return jnp.abs(z - before).max() > 1e-6

    return jax.lax.while_loop(go_on, lambda pair: (pair[1], f(pair[1])), (z + 1, z))[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def equilibrium(f, params, x):
    """z = f(params, x, z), whose gradient is that of the implicit function."""
    return fixed_point(lambda z: f(params, x, z), jnp.zeros_like(x))


def equilibrium_fwd(f, params, x):
    z = equilibrium(f, params, x)
    return z, (params, x, z)


def equilibrium_bwd(f, kept, slope):
    params, x, z = kept
    _, by_z = jax.vjp(lambda z: f(params, x, z), z)
    u = fixed_point(lambda u: slope + by_z(u)[0], slope)
    return jax.vjp(lambda params, x: f(params, x, z), params, x)[1](u)


equilibrium.defvjp(equilibrium_fwd, equilibrium_bwd)


def test_a_deep_equilibrium_has_implicit_gradients():
    """They are those of 40 turns written out, where nothing moves any more."""

    def ours(params, x):
        return equilibrium(lambda params, x, z: 0.3 * field(params, z) + x, params, x)

    def unrolled(params, x):
        z = jnp.zeros_like(x)
        for _ in range(40):
            z = 0.3 * mlp(params, z) + x
        return z

    agree(ours, unrolled, PARAMS, X, bound=1e-4)


def test_a_custom_root_is_an_equilibrium_inside_a_model():
    def solve(matrix_product, b):
        return jax.scipy.sparse.linalg.gmres(matrix_product, b, tol=1e-6)[0]

    def root(f, x):
        return jax.lax.custom_root(
            lambda z: f(z) - z,
            jnp.zeros_like(x),
            lambda g, z: fixed_point(lambda z: z + g(z), z),
            solve,
        )

    net = jn.compose(lambda m, x: root(lambda z: 0.3 * m(FIELD, z) + x, x), name="net")
    params, state = net.init(KEY, X)
    found = jax.jit(lambda params: net.apply(params, state, X)[0])(params)
    z = jnp.zeros_like(X)
    for _ in range(40):
        z = 0.3 * mlp(params["field"], z) + X
    close(found, z, 1e-4)


def runge_kutta(f, x, h):
    a = f(x)
    b = f(x + h / 2 * a)
    c = f(x + h / 2 * b)
    d = f(x + h * c)
    return x + h / 6 * (a + 2 * b + 2 * c + d)


def test_a_neural_ode_by_its_own_solver():
    def ode(m, x):
        def step(i, x):
            return runge_kutta(lambda x: m(FIELD, x), x, 0.25)

        return jax.lax.fori_loop(0, 3, step, x)

    def by_hand(params, x):
        for _ in range(3):
            x = runge_kutta(lambda x: mlp(params["field"], x), x, 0.25)
        return x

    net = jn.compose(ode)
    params, state = net.init(KEY, X)
    agree(lambda params, x: net.apply(params, state, x)[0], by_hand, params, X)


@pytest.mark.slow
def test_a_continuous_flow_carries_the_trace_of_the_jacobian():
    def flow(f, x):
        def both(pair):
            x, _ = pair
            trace = jax.vmap(lambda x: jnp.trace(jax.jacfwd(f)(x)))(x)
            return jax.vmap(f)(x), -trace

        def step(pair, _):
            change = both(pair)
            return jax.tree.map(lambda a, b: a + 0.1 * b, pair, change), None

        return jax.lax.scan(step, (x, jnp.zeros(len(x))), length=2)[0]

    net = jn.compose(lambda m, x: flow(lambda x: m(FIELD, x[None])[0], x), name="flow")
    params, state = net.init(KEY, X)
    agree(
        lambda params: net.apply(params, state, X)[0],
        lambda params: flow(lambda x: mlp(params["field"], x), X),
        params,
    )


@pytest.mark.slow
def test_the_adjoint_solves_backwards():
    """Gradients of an Euler solution by an own backward equation, as in neural ODEs."""

    def solve(params, x):
        return jax.lax.fori_loop(0, 4, lambda _, x: x + 0.1 * field(params, x), x)

    def backward(params, end, slope):
        def step(_, carried):
            x, slope, total = carried
            before = fixed_point(lambda z: x - 0.1 * field(params, z), x)
            _, pull = jax.vjp(lambda params, x: x + 0.1 * field(params, x), params, before)
            of_params, slope = pull(slope)
            return before, slope, jax.tree.map(jnp.add, total, of_params)

        start = end, slope, jax.tree.map(jnp.zeros_like, params)
        return jax.lax.fori_loop(0, 4, step, start)[2]

    end = solve(PARAMS, X)
    found = jax.jit(backward)(PARAMS, end, jnp.ones_like(X))

    def unrolled(params):
        x = X
        for _ in range(4):
            x = x + 0.1 * mlp(params, x)
        return x.sum()

    close(found, jax.grad(unrolled)(PARAMS), 1e-4)


def halting(step, halt, x):
    """Each example goes on until what it halts with sums to 0.9, as in adaptive computation."""

    def go_on(carried):
        return (carried[1] < 0.9).any()

    def turn(carried):
        x, total, count = carried
        p = jax.nn.sigmoid(halt(x))[:, 0]
        goes = total < 0.9
        y = jnp.where(goes[:, None], step(x), x)
        return y, jnp.where(goes, total + p, total), count + goes

    start = x, jnp.zeros(len(x)), jnp.zeros(len(x), jnp.int32)
    return jax.lax.while_loop(go_on, turn, start)


@pytest.mark.slow
def test_a_net_that_halts_by_itself():
    def forward(m, x):
        y, _, count = halting(
            lambda x: jnp.tanh(m(FIELD, x)), lambda x: m(jn.dense(1, name="halt"), x), 3 * x
        )
        return y, count

    def by_hand(params):
        y, _, count = halting(
            lambda x: jnp.tanh(mlp(params["field"], x)), lambda x: dense(params["halt"], x), 3 * X
        )
        return y, count

    net = jn.compose(forward)
    params, state = net.init(KEY, X)
    found, count = jax.jit(lambda params: net.apply(params, state, X)[0])(params)
    wanted, counted = jax.jit(by_hand)(params)
    close(found, wanted)
    np.testing.assert_array_equal(count, counted)
    tangent = jax.tree.map(jnp.ones_like, params)
    ours = jax.jvp(lambda params: net.apply(params, state, X)[0][0], (params,), (tangent,))
    close(ours, jax.jvp(lambda params: by_hand(params)[0], (params,), (tangent,)), 1e-4)


def test_a_net_that_halts_drops_by_keys_of_its_own():
    """In training the message says what to write, and that is what is written then."""
    drop = jn.dropout(0.5)

    def turns(step, x):
        return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, step(*c)), (0, x))[1]

    wrong = jn.compose(lambda m, x: turns(lambda i, x: m(drop, x), x), name="net")
    with pytest.raises(ValueError, match=r"write m\(dropout, x, key=key\), with key = m.keys\("):
        wrong.apply({}, {}, X, key=KEY, train=True)

    def forward(m, x):
        keys = m.keys("dropout", 3)
        return turns(lambda i, x: m(drop, x, key=None if keys is None else keys[i]), x)

    net = jn.compose(forward)
    x, many = jnp.ones((3, 4)), jn.child_key(KEY, "key/dropout")
    y, _ = net.apply({}, {}, x, key=KEY, train=True)
    np.testing.assert_array_equal(net.apply({}, {}, x)[0], x)
    for key in jax.random.split(many, 3):
        x, _ = drop.apply({}, {}, x, key=key, train=True)
    np.testing.assert_array_equal(y, x)


@pytest.mark.slow
def test_a_universal_transformer_drops_others_at_each_turn():
    block = jn.transformer_block(2, 6, dropout_rate=0.3, name="block")

    def forward(m, x):
        x, _ = m.scan(lambda m, x, step: (m(block, x + step), None), x, jnp.arange(3.0))
        return x

    def by_hand(params, x):
        above = jn.child_key(KEY, "scan/")
        for i in range(3):
            key = jn.child_key(jax.random.fold_in(above, i), "block")
            x, _ = block.apply(params["block"], {}, x + i, key=key, train=True)
        return x

    x = jnp.asarray(draw(2, 5, 4), jnp.float32)
    net = jn.compose(forward)
    params, state = net.init(KEY, x)

    def ours(params, x):
        return net.apply(params, state, x, key=KEY, train=True)[0]

    agree(ours, by_hand, params, x, bound=1e-4)


@pytest.mark.slow
def test_an_inner_minimization_gives_the_output():
    """The output is the lowest point of an energy, found by Newton steps inside the model."""
    energy = jn.serial(jn.dense(5), jnp.square, jn.dense(1), jnp.ravel, name="energy")

    def newton(f, x):
        def turn(z, _):
            def total(z):
                return f(z) + 5 * (z - x) @ (z - x)

            return z - jnp.linalg.solve(jax.hessian(total)(z), jax.grad(total)(z)), None

        return jax.lax.scan(turn, x, length=2)[0]

    net = jn.compose(
        lambda m, x: jax.vmap(lambda x: newton(lambda z: m(energy, z[None])[0], x))(x), name="net"
    )
    params, state = net.init(KEY, X)

    def by_hand(params):
        def f(z):
            return mlp(params["energy"], z, jnp.square)[0]

        return jax.vmap(lambda x: newton(f, x))(X)

    agree(lambda params: net.apply(params, state, X)[0], by_hand, params, bound=1e-4)


@pytest.mark.slow
def test_a_linear_state_space_runs_by_an_associative_scan():
    def mix(a, b):
        return a[0] * b[0], b[0] * a[1] + b[1]

    def forward(m, x):  # (batch, time, features)
        decay = jax.nn.sigmoid(m.param("decay", jn.initializers.normal(1.0), (4,)))
        u = m(jn.dense(4), x)
        _, states = jax.lax.associative_scan(mix, (jnp.broadcast_to(decay, u.shape), u), axis=1)
        return states

    def by_hand(params, x):
        h, states = jnp.zeros((2, 4)), []
        for t in range(5):
            h = jax.nn.sigmoid(params["decay"]) * h + dense(params["dense"], x[:, t])
            states.append(h)
        return jnp.stack(states, axis=1)

    x = jnp.asarray(draw(2, 5, 3), jnp.float32)
    net = jn.compose(forward)
    params, state = net.init(KEY, x)
    agree(lambda params, x: net.apply(params, state, x)[0], by_hand, params, x)
