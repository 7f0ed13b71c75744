"""Derivatives of nets by their inputs, nets whose weights a net computes, steps inside a loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnet as jn
from tests.helpers import close

KEY = jax.random.key(5)
X = jnp.linspace(-1, 1, 7)[:, None]
NET = jn.serial(jn.dense(8), jnp.tanh, jn.dense(1))


def tanh_net(params, x):
    hidden = jnp.tanh(x @ params["dense"]["kernel"] + params["dense"]["bias"])
    return hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]


def test_physics_asks_for_the_second_derivative_of_the_net():
    """The residual of u'' + u = 0 as a loss, as in a physics-informed net."""
    params, _ = NET.init(KEY, X)

    def residual(u, params):
        second = jax.vmap(jax.grad(jax.grad(lambda x: u(params, x[None, None])[0, 0])))
        return jnp.mean((second(X[:, 0]) + u(params, X)[:, 0]) ** 2)

    ours = partial(residual, lambda params, x: NET.apply(params, {}, x)[0])
    theirs = partial(residual, tanh_net)
    found, wanted = (jax.value_and_grad(loss)(params) for loss in (ours, theirs))
    close(found, wanted, 1e-4)


def test_an_energy_model_returns_its_force():
    def force(m, x):
        energy = jn.serial(jn.dense(8), jnp.tanh, jn.dense(1), name="energy")
        return jax.grad(lambda x: m(energy, x).sum())(x)

    net = jn.compose(force)
    params, state = net.init(KEY, X)
    wanted = jax.grad(lambda x: tanh_net(params["energy"], x).sum())(X)
    close(net.apply(params, state, X)[0], wanted)


def test_a_hypernetwork_computes_the_weights_of_another_net():
    small = jn.dense(2)
    shapes, _ = jax.eval_shape(small.init, KEY, X)
    leaves, structure = jax.tree.flatten(shapes)
    sizes = [leaf.size for leaf in leaves]

    def forward(m, x, code):
        flat = m(jn.dense(sum(sizes), name="hyper"), code[None])[0]
        parts = jnp.split(flat, np.cumsum(sizes)[:-1])
        shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        y, _ = small.apply(jax.tree.unflatten(structure, shaped), {}, x)
        return y

    net = jn.compose(forward)
    code = jnp.ones(3)
    params, state = net.init(KEY, (X, code))
    flat = code @ params["hyper"]["kernel"] + params["hyper"]["bias"]
    bias, kernel = flat[:2], flat[2:].reshape(1, 2)
    close(net.apply(params, state, (X, code))[0], X @ kernel + bias)


def test_meta_learning_differentiates_through_a_step():
    params, _ = NET.init(KEY, X)
    y = jnp.sin(3 * X)

    def after_a_step(u, params):
        def loss(params):
            return jnp.mean((u(params, X[:4]) - y[:4]) ** 2)

        moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
        return jnp.mean((u(moved, X[4:]) - y[4:]) ** 2)

    ours = partial(after_a_step, lambda params, x: NET.apply(params, {}, x)[0])
    close(*(jax.grad(f)(params) for f in (ours, partial(after_a_step, tanh_net))), 1e-4)


def test_a_population_is_a_vmap_over_params():
    keys = jax.random.split(KEY, 3)
    population = jax.vmap(lambda key: NET.init(key, X)[0])(keys)
    found = jax.vmap(lambda params: NET.apply(params, {}, X)[0])(population)
    each = [tanh_net(jax.tree.map(lambda a, i=i: a[i], population), X) for i in range(3)]
    close(found, jnp.stack(each))


def test_an_own_loop_with_optax():
    params, state = NET.init(KEY, X)
    optimizer = optax.adam(1e-2)
    y = jnp.sin(3 * X)

    @jax.jit
    def step(params, opt_state):
        def loss(params):
            return jnp.mean((NET.apply(params, state, X)[0] - y) ** 2)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    opt_state, losses = optimizer.init(params), []
    for _ in range(50):
        params, opt_state, value = step(params, opt_state)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]


def test_per_example_gradients():
    params, _ = NET.init(KEY, X)

    def loss(params, x):
        return NET.apply(params, {}, x[None])[0].sum()

    each = jax.vmap(jax.grad(loss), (None, 0))(params, X)
    whole = jax.grad(lambda params: tanh_net(params, X).sum())(params)
    close(jax.tree.map(lambda a: a.sum(0), each), whole, 1e-5)


def test_a_hessian_by_the_params():
    net = jn.dense(1)
    params, _ = net.init(KEY, X)

    def loss(kernel):
        return jnp.sum(jnp.sin(net.apply({**params, "kernel": kernel}, {}, X)[0]))

    def by_hand(kernel):
        return jnp.sum(jnp.sin(X @ kernel + params["bias"]))

    close(jax.hessian(loss)(params["kernel"]), jax.hessian(by_hand)(params["kernel"]), 1e-5)
