"""Own loops with optax and without: groups, averages, second derivatives, evolution, sampling."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree, mlp

KEYS_MAY_REPEAT = True  # both programs draw with one key
KEY = jax.random.key(15)
NET = jn.serial(jn.dense(5), jnp.tanh, jn.dense(2))
X = jnp.asarray(draw(6, 3), jnp.float32)
Y = jnp.asarray(draw(6, 2, seed=1), jnp.float32)
PARAMS, _ = NET.init(KEY, X)


def net(params, x):
    return NET.apply(params, {}, x)[0]


def loss_of(f, x=X, y=Y):
    return lambda params: jnp.mean((f(params, x) - y) ** 2)


def trained(f, optimizer, steps=3):
    """Params after steps of an optimizer, in one compiled program."""

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss_of(f))(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    def run(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]

    return jax.jit(run)(PARAMS)


def by_layer(params):
    return {name: jax.tree.map(lambda _, n=name: n, part) for name, part in params.items()}


def is_kernel(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


OPTIMIZERS = {
    "groups": lambda: optax.multi_transform(
        {"dense": optax.adam(1e-2), "dense_1": optax.sgd(0.1)}, by_layer
    ),
    "frozen": lambda: optax.multi_transform(
        {"dense": optax.set_to_zero(), "dense_1": optax.sgd(0.1)}, by_layer
    ),
    "decay of kernels alone": lambda: optax.adamw(1e-2, weight_decay=0.1, mask=is_kernel),
    "sums of steps": lambda: optax.MultiSteps(optax.adam(1e-2), 2),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
    "average": lambda: optax.chain(optax.sgd(0.1), optax.ema(0.9)),
    "layer by layer": lambda: optax.lamb(1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.fast_cases("frozen")
def test_an_optimizer_of_optax(name):
    optimizer = OPTIMIZERS[name]()
    found = trained(net, optimizer)
    close(found, trained(mlp, optimizer), 1e-5)
    still = jax.tree.map(np.array_equal, found["dense"], PARAMS["dense"])
    assert all(jax.tree.leaves(still)) == (name == "frozen")


class Averaged(NamedTuple):
    """A state of a loop of one's own, which holds the net, too."""

    net: jn.Layer
    params: dict
    average: dict
    opt_state: optax.OptState


@pytest.mark.slow
def test_an_average_of_params_in_a_state_that_holds_the_net():
    optimizer = optax.sgd(0.1)

    @jax.jit
    def step(state):
        def loss(params):
            return jnp.mean((state.net.apply(params, {}, X)[0] - Y) ** 2)

        updates, opt_state = optimizer.update(jax.grad(loss)(state.params), state.opt_state)
        params = optax.apply_updates(state.params, updates)
        average = jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, state.average, params)
        return Averaged(state.net, params, average, opt_state)

    state = Averaged(NET, PARAMS, PARAMS, optimizer.init(PARAMS))
    params = average = PARAMS
    for _ in range(3):
        state = step(state)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss_of(mlp))(params))
        average = optax.incremental_update(params, average, 0.1)
    assert state.net is NET
    close((state.params, state.average), (params, average), 1e-5)


def test_lookahead_has_slow_and_fast_params():
    optimizer = optax.lookahead(optax.sgd(0.1), sync_period=2, slow_step_size=0.5)

    def run(f):
        both = optax.LookaheadParams.init_synced(PARAMS)
        state = optimizer.init(both)
        for _ in range(2):
            slopes = jax.grad(loss_of(f))(both.fast)
            updates, state = optimizer.update(slopes, state, both)
            both = optax.apply_updates(both, updates)
        return both.slow

    fast = PARAMS
    for _ in range(2):
        fast = jax.tree.map(lambda p, g: p - 0.1 * g, fast, jax.grad(loss_of(mlp))(fast))
    slow = jax.tree.map(lambda p, q: (p + q) / 2, PARAMS, fast)
    close(jax.jit(lambda: run(net))(), slow, 1e-5)


@pytest.mark.slow
def test_sharpness_aware_minimization_takes_two_gradients():
    def step(f):
        def run(params):
            slopes = jax.grad(loss_of(f))(params)
            size = optax.tree.norm(slopes)
            above = jax.tree.map(lambda p, g: p + 0.05 * g / size, params, slopes)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss_of(f))(above))

        return run

    agree(step(net), step(mlp), PARAMS, bound=1e-4)


@pytest.mark.slow
def test_lbfgs_searches_along_a_line():
    def run(f):
        optimizer, loss = optax.lbfgs(memory_size=3), loss_of(f)
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(carry, _):
            params, state = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = optimizer.update(
                grad, state, params, value=value, grad=grad, value_fn=loss
            )
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), length=4)[1]

    found, wanted = jax.jit(lambda: (run(net), run(mlp)))()
    close(found, wanted, 1e-3)
    assert found[-1] < 0.6 * found[0]


@pytest.mark.slow
def test_gauss_newton_solves_for_a_step():
    flat, rebuild = jax.flatten_util.ravel_pytree(PARAMS)

    def step(f):
        def residual(flat):
            return (f(rebuild(flat), X) - Y).ravel()

        slopes = jax.jacrev(residual)(flat)
        matrix = slopes.T @ slopes + 0.5 * jnp.eye(len(flat))
        return flat - jnp.linalg.solve(matrix, slopes.T @ residual(flat))

    found, wanted = jax.jit(lambda: (step(net), step(mlp)))()
    close(found, wanted, 1e-4)


@pytest.mark.slow
def test_a_step_of_newton_by_conjugate_gradients():
    """Products with the Hessian are derivatives forwards of the gradient."""

    def step(f):
        slopes = jax.grad(loss_of(f))(PARAMS)

        def product(v):
            curved = jax.jvp(jax.grad(loss_of(f)), (PARAMS,), (v,))[1]
            return jax.tree.map(lambda a, b: a + 2 * b, curved, v)

        direction, _ = jax.scipy.sparse.linalg.cg(product, slopes, maxiter=4)
        return jax.tree.map(jnp.subtract, PARAMS, direction)

    found, wanted = jax.jit(lambda: (step(net), step(mlp)))()
    close(found, wanted, 1e-4)


def test_evolution_needs_no_gradient():
    flat, rebuild = jax.flatten_util.ravel_pytree(PARAMS)

    def step(f, flat, key):
        noise = jax.random.normal(key, (8, len(flat)))
        noise = jnp.concatenate([noise, -noise])
        scores = jax.vmap(lambda e: -loss_of(f)(rebuild(flat + 0.1 * e)))(noise)
        weights = (scores - scores.mean()) / scores.std()
        return flat + 0.1 * weights @ noise / 16, scores.mean()

    def run(f):
        return jax.lax.scan(lambda flat, key: step(f, flat, key), flat, jax.random.split(KEY, 3))

    found, wanted = jax.jit(lambda: (run(net), run(mlp)))()
    close(found, wanted, 1e-4)


@pytest.mark.slow
def test_a_population_trains_with_rates_of_its_own():
    """A population is one `vmap`; the best member takes the place of the worst."""
    rates = jnp.array([0.01, 0.1, 0.3])

    def run(f, init):
        population = jax.vmap(init)(jax.random.split(KEY, 3))

        def member(params, rate):
            for _ in range(2):
                slopes = jax.grad(loss_of(f))(params)
                params = jax.tree.map(lambda p, g: p - rate * g, params, slopes)
            return params, loss_of(f)(params)

        population, losses = jax.vmap(member)(population, rates)
        best, worst = losses.argmin(), losses.argmax()
        return jax.tree.map(lambda p: p.at[worst].set(p[best]), population), losses

    def init(key):
        return NET.init(key, X)[0]

    found, wanted = jax.jit(lambda: (run(net, init), run(mlp, init)))()
    close(found, wanted, 1e-5)


@pytest.mark.slow
def test_langevin_dynamics_draws_params():
    def run(f):
        def turn(params, key):
            noise = optax.tree.random_like(key, params)
            slopes = jax.grad(loss_of(f))(params)
            params = jax.tree.map(lambda p, g, e: p - 0.05 * g + 0.01 * e, params, slopes, noise)
            return params, loss_of(f)(params)

        return jax.lax.scan(turn, PARAMS, jax.random.split(KEY, 3))[1]

    found, wanted = jax.jit(lambda: (run(net), run(mlp)))()
    close(found, wanted, 1e-5)


@pytest.mark.slow
def test_a_whole_run_is_a_scan_that_carries_the_state():
    """Batch norm and dropout in a loop of steps: state in the carry, a key for each step."""
    model = jn.serial(jn.dense(5), jn.batch_norm(), jax.nn.relu, jn.dropout(0.3), jn.dense(2))
    params, state = model.init(KEY, X)
    optimizer = optax.sgd(0.1)

    def step(carry, key):
        params, state, opt_state = carry

        def loss(params):
            y, after = model.apply(params, state, X, key=key, train=True)
            return jnp.mean((y - Y) ** 2), after

        (value, state), slopes = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(slopes, opt_state)
        return (optax.apply_updates(params, updates), state, opt_state), value

    start, keys = (params, state, optimizer.init(params)), jax.random.split(KEY, 3)
    found = jax.jit(lambda: jax.lax.scan(step, start, keys))()

    def by_hand(params, state, key):
        x = X @ params["dense"]["kernel"] + params["dense"]["bias"]
        mean, var = x.mean(0), x.var(0)
        norm = params["batch_norm"]
        x = (x - mean) / jnp.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
        of_batch = {"mean": mean, "var": var}
        after = {n: 0.9 * state["batch_norm"][n] + 0.1 * of_batch[n] for n in of_batch}
        kept, _ = jn.dropout(0.3).apply(
            {}, {}, jnp.ones_like(x), key=jn.child_key(key, "dropout"), train=True
        )
        x = jax.nn.relu(x) * kept
        y = x @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
        return jnp.mean((y - Y) ** 2), {"batch_norm": after}

    losses = []
    for key in keys:
        (value, state), slopes = jax.value_and_grad(by_hand, has_aux=True)(params, state, key)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
        losses.append(value)
    (last, after, _), values = found
    close((last, values), (params, jnp.stack(losses)), 1e-4)
    close(after["batch_norm"]["mean"], state["batch_norm"]["mean"], 1e-4)


def test_gradients_are_clipped_inside_the_net():
    @jax.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.01, 0.01),))
    model = jn.serial(jn.dense(5), jnp.tanh, clipped, jn.dense(2))

    def by_hand(params):
        hidden = clipped(jnp.tanh(X @ params["dense"]["kernel"] + params["dense"]["bias"]))
        return hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]

    agree(lambda params: model.apply(params, {}, X)[0], by_hand, PARAMS)


def test_mixed_precision_by_hand():
    """Params in float32, the computation in bfloat16, and a scaled loss."""

    def slopes(f):
        def loss(params):
            narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
            y = f(narrow, X.astype(jnp.bfloat16))
            assert y.dtype == jnp.bfloat16
            return 8 * jnp.mean((y.astype(jnp.float32) - Y) ** 2)

        return jax.tree.map(lambda g: g / 8, jax.grad(loss)(PARAMS))

    found, wanted = jax.jit(lambda: (slopes(net), slopes(mlp)))()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    close(found, wanted, 0.02)
