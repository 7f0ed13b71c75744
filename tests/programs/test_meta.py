"""Learning to learn: steps inside a loss, weights from a net, learned optimizers, few examples."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree, dense, mlp

KEY = jax.random.key(14)
NET = jn.serial(jn.dense(5), jnp.tanh, jn.dense(1))
X = jnp.asarray(draw(2, 6, 1), jnp.float32)  # of two tasks
Y = jnp.sin(3 * X)
PARAMS, _ = NET.init(KEY, X[0])


def net(params, x):
    return NET.apply(params, {}, x)[0]


def error(f, params, x, y):
    return jnp.mean((f(params, x) - y) ** 2)


def adapted(f, params, x, y, steps=2, of_slopes=lambda slopes: slopes):
    """Params after steps on the examples of one task."""
    for _ in range(steps):
        slopes = of_slopes(jax.grad(error, 1)(f, params, x, y))
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
    return params


def maml(f, params, **options):
    """The error of each task on its last examples, after steps on its first."""

    def task(x, y):
        return error(f, adapted(f, params, x[:3], y[:3], **options), x[3:], y[3:])

    return jax.vmap(task)(X, Y).mean()


@pytest.mark.slow
def test_maml_differentiates_through_inner_loops_of_many_tasks():
    agree(lambda params: maml(net, params), lambda params: maml(mlp, params), PARAMS, bound=1e-4)


@pytest.mark.slow
def test_the_first_order_form_stops_gradients():
    of_slopes = jax.lax.stop_gradient
    found = jax.jit(jax.grad(lambda params: maml(net, params, of_slopes=of_slopes)))(PARAMS)

    def by_hand(params):
        def task(x, y):
            return jax.grad(error, 1)(mlp, adapted(mlp, params, x[:3], y[:3]), x[3:], y[3:])

        return jax.tree.map(lambda g: g.mean(0), jax.vmap(task)(X, Y))

    close(found, by_hand(PARAMS), 1e-5)


@pytest.mark.slow
def test_reptile_moves_towards_the_params_of_each_task():
    def step(f, params):
        after = jax.vmap(lambda x, y: adapted(f, params, x, y, steps=3))(X, Y)
        return jax.tree.map(lambda p, q: p + 0.5 * (q - p).mean(0), params, after)

    agree(lambda params: step(net, params), lambda params: step(mlp, params), PARAMS, bound=1e-4)


@pytest.mark.slow
def test_rates_of_each_param_are_learned():
    rates = jax.tree.map(lambda p: jnp.full(p.shape, 0.1), PARAMS)

    def after(f, params, rates):
        slopes = jax.grad(error, 1)(f, params, X[0], Y[0])
        moved = jax.tree.map(lambda p, r, g: p - r * g, params, rates, slopes)
        return error(f, moved, X[1], Y[1])

    agree(
        lambda *given: after(net, *given),
        lambda *given: after(mlp, *given),
        PARAMS,
        rates,
        bound=1e-4,
    )


@pytest.mark.slow
def test_a_learned_optimizer_is_a_net_on_each_coordinate():
    optimizer = jn.serial(jn.dense(4), jnp.tanh, jn.dense(1, use_bias=False))
    flat, rebuild = ravel_pytree(PARAMS)
    weights, _ = optimizer.init(KEY, jnp.zeros((len(flat), 2)))

    def unrolled(update, f):
        def turn(carry, _):
            flat, momentum = carry
            slope = jax.grad(lambda flat: error(f, rebuild(flat), X[0], Y[0]))(flat)
            momentum = 0.9 * momentum + slope
            flat = flat - 0.1 * update(jnp.stack([slope, momentum], -1))[:, 0]
            return (flat, momentum), error(f, rebuild(flat), X[0], Y[0])

        return jax.lax.scan(turn, (flat, 0 * flat), length=3)[1]

    def by_hand(weights, x):
        return jnp.tanh(dense(weights["dense"], x)) @ weights["dense_1"]["kernel"]

    agree(
        lambda weights: unrolled(lambda x: optimizer.apply(weights, {}, x)[0], net),
        lambda weights: unrolled(lambda x: by_hand(weights, x), mlp),
        weights,
        bound=1e-4,
    )


def test_a_net_writes_the_weights_of_another_for_each_task():
    flat, rebuild = ravel_pytree(PARAMS)

    def forward(m, x, code):
        deltas = m(jn.dense(len(flat), name="writer"), code)

        def task(delta, x):
            return net(rebuild(flat + 0.1 * delta), x)

        return jax.vmap(task)(deltas, x)

    code = jnp.asarray(draw(2, 3), jnp.float32)
    model = jn.compose(forward)
    params, state = model.init(KEY, (X, code))

    def by_hand(params):
        deltas = 0.1 * dense(params["writer"], code)
        return jnp.stack([mlp(rebuild(flat + deltas[i]), X[i]) for i in range(2)])

    agree(lambda params: model.apply(params, state, (X, code))[0], by_hand, params)


def test_features_are_scaled_by_a_condition():
    def film(m, x, code):
        scale, shift = jnp.split(m(jn.dense(10, name="film"), code), 2, -1)
        hidden = m(jn.dense(5), x) * (1 + scale[:, None]) + shift[:, None]
        return m(jn.dense(1, name="out"), jnp.tanh(hidden))

    code = jnp.asarray(draw(2, 3), jnp.float32)
    model = jn.compose(film)
    params, state = model.init(KEY, (X, code))

    def by_hand(params):
        both = dense(params["film"], code)[:, None]
        hidden = dense(params["dense"], X) * (1 + both[..., :5]) + both[..., 5:]
        return dense(params["out"], jnp.tanh(hidden))

    agree(lambda params: model.apply(params, state, (X, code))[0], by_hand, params)


@pytest.mark.slow
def test_a_class_is_the_mean_of_its_few_examples():
    def prototypical(m, support, labels, query):
        encoder = jn.serial(jn.dense(5), jnp.tanh, jn.dense(3), name="encoder")
        of_class = jax.nn.one_hot(labels, 2, axis=0)
        means = of_class @ m(encoder, support) / of_class.sum(1, keepdims=True)
        return -((m(encoder, query)[:, None] - means) ** 2).sum(-1)

    labels = jnp.array([0, 1, 1, 0, 1, 0])
    given = {"support": X[0], "labels": labels, "query": X[1]}
    model = jn.compose(prototypical)
    params, state = model.init(KEY, given)

    def by_hand(params):
        codes = mlp(params["encoder"], X[0])
        means = jnp.stack([codes[labels == c].mean(0) for c in range(2)])
        return -(jnp.linalg.norm(mlp(params["encoder"], X[1])[:, None] - means, axis=-1) ** 2)

    with jax.ensure_compile_time_eval():
        wanted = by_hand(params)
    close(model.apply(params, state, given)[0], wanted, 1e-5)


@pytest.mark.slow
def test_ridge_regression_on_features_is_differentiated():
    """A head in closed form on the net's features: the outer gradient goes through the solver."""
    encoder = jn.serial(jn.dense(5), jnp.tanh, jn.dense(4))
    params, _ = encoder.init(KEY, X[0])

    def loss(encode):
        def task(x, y):
            f = encode(x[:3])
            head = jnp.linalg.solve(f.T @ f + 0.1 * jnp.eye(4), f.T @ y[:3])
            return jnp.mean((encode(x[3:]) @ head - y[3:]) ** 2)

        return jax.vmap(task)(X, Y)

    agree(
        lambda params: loss(lambda x: encoder.apply(params, {}, x)[0]),
        lambda params: loss(lambda x: mlp(params, x)),
        params,
        bound=1e-4,
    )


@pytest.mark.slow
def test_a_penalty_is_chosen_by_the_error_on_other_data():
    """Bilevel: the gradient of the validation error by the log of a weight decay."""

    def validation(f, log_decay):
        def loss(params):
            squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
            return error(f, params, X[0], Y[0]) + jnp.exp(log_decay) * squares

        optimizer = optax.sgd(0.1, momentum=0.9)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), length=3)
        return error(f, params, X[1], Y[1])

    agree(lambda d: validation(net, d), lambda d: validation(mlp, d), jnp.float32(-2), bound=1e-4)
