"""What a net is not sure of, and why: posteriors, kernels, influence, masks drawn many times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree, dense, mlp

KEYS_MAY_REPEAT = True  # both programs draw with one key
KEY = jax.random.key(20)
NET = jn.serial(jn.dense(4), jnp.tanh, jn.dense(2))
X = jnp.asarray(draw(5, 3), jnp.float32)
Y = jnp.asarray(draw(5, 2, seed=1), jnp.float32)
PARAMS, _ = NET.init(KEY, X)
FLAT, REBUILD = ravel_pytree(PARAMS)


def net(params, x):
    return NET.apply(params, {}, x)[0]


def both(program):
    """The results of a program around our net, and around plain JAX."""
    return jax.device_get(jax.jit(lambda: (program(net), program(mlp)))())


def loss(f, flat, x=X, y=Y):
    return jnp.mean((f(REBUILD(flat), x) - y) ** 2)


def test_the_variance_of_a_laplace_approximation():
    """J H^-1 J^T with the matrix of Gauss and Newton."""

    def variance(f):
        slopes = jax.jacrev(lambda flat: f(REBUILD(flat), X))(FLAT)
        matrix = jnp.einsum("nop,noq->pq", slopes, slopes) + jnp.eye(len(FLAT))
        return jnp.einsum("nop,pq,nrq->nor", slopes, jnp.linalg.inv(matrix), slopes)

    close(*both(variance), 1e-4)


def test_the_neural_tangent_kernel():
    """Contracted from products forwards of a product backwards, and from whole Jacobians."""

    def kernel(params):
        def column(cotangent):
            _, pull = jax.vjp(lambda params: net(params, X), params)
            return jax.jvp(lambda params: net(params, X), (params,), pull(cotangent))[1]

        basis = jnp.eye(Y.size).reshape(-1, *Y.shape)
        return jax.vmap(column)(basis).reshape(Y.size, Y.size)

    def by_hand(params):
        slopes = jax.jacrev(lambda params: mlp(params, X))(params)
        flat = [leaf.reshape(Y.size, -1) for leaf in jax.tree.leaves(slopes)]
        return sum(leaf @ leaf.T for leaf in flat)

    close(*jax.jit(lambda: (kernel(PARAMS), by_hand(PARAMS)))(), 1e-4)


def test_a_linearized_net_is_a_model_of_its_own():
    def moved(f):
        value, push = jax.linearize(lambda flat: f(REBUILD(flat), X), FLAT)
        return value + push(0.1 * jnp.ones_like(FLAT))

    close(*both(moved), 1e-5)


def test_the_influence_of_an_example_by_conjugate_gradients():
    def influence(f):
        def product(v):
            curved = jax.jvp(lambda flat: jax.grad(loss, 1)(f, flat), (FLAT,), (v,))[1]
            return curved + 2 * v

        target = jax.grad(loss, 1)(f, FLAT, X[:1], Y[:1])
        solved, _ = jax.scipy.sparse.linalg.cg(product, target, maxiter=5)
        each = jax.vmap(lambda x, y: jax.grad(loss, 1)(f, FLAT, x[None], y[None]))(X, Y)
        return each @ solved

    close(*both(influence), 1e-4)


def test_the_trace_of_the_hessian_by_random_signs():
    def trace(f):
        def one(key):
            v = jax.random.rademacher(key, FLAT.shape, jnp.float32)
            return v @ jax.jvp(lambda flat: jax.grad(loss, 1)(f, flat), (FLAT,), (v,))[1]

        return jax.lax.map(one, jax.random.split(KEY, 3))

    close(*both(trace), 1e-4)


def test_masks_are_drawn_many_times_by_vmap_over_keys():
    """Monte Carlo dropout: `vmap` around `apply`, each with a key of its own."""
    model = jn.serial(jn.dense(6), jnp.tanh, jn.dropout(0.5), jn.dense(2))
    params, state = model.init(KEY, X)
    keys = jax.random.split(KEY, 4)
    each = list(keys)

    def ours(params):
        return jax.vmap(lambda key: model.apply(params, state, X, key=key, train=True)[0])(keys)

    def by_hand(params):
        hidden, outs = jnp.tanh(dense(params["dense"], X)), []
        for key in each:
            mask, _ = jn.dropout(0.5).apply(
                {}, {}, jnp.ones((5, 6)), key=jn.child_key(key, "dropout"), train=True
            )
            outs.append(dense(params["dense_1"], mask * hidden))
        return jnp.stack(outs)

    draws = agree(ours, by_hand, params)
    assert len({y.tobytes() for y in draws}) == 4


def test_weights_are_drawn_from_a_posterior():
    """Bayes by backprop: a mean and a scale for each param, and a net around another's apply."""

    def bayes(m, x):
        mean = m.param("mean", lambda key, shape, dtype: FLAT, FLAT.shape)
        log_scale = m.param("log_scale", jn.initializers.constant(-2.0), FLAT.shape)
        noise = jax.random.normal(m.key("weights"), FLAT.shape)
        kl = (0.5 * (mean**2 + jnp.exp(2 * log_scale)) - log_scale).sum()
        return net(REBUILD(mean + jnp.exp(log_scale) * noise), x), kl

    model = jn.compose(bayes)
    params, state = model.init(KEY, X)

    def by_hand(params):
        noise = jax.random.normal(jn.child_key(KEY, "key/weights"), FLAT.shape)
        scale = jnp.exp(params["log_scale"])
        kl = (0.5 * params["mean"] ** 2 + 0.5 * scale**2 - jnp.log(scale)).sum()
        return mlp(REBUILD(params["mean"] + scale * noise), X), kl

    def ours(params):
        return model.apply(params, state, X, key=KEY, train=True)[0]

    agree(ours, by_hand, params, bound=1e-4)


def test_an_average_of_weights_has_statistics_of_its_own():
    """SWAG: params of several steps, their mean and deviation, draws from it."""

    def draws(f):
        def step(flat, _):
            flat = flat - 0.1 * jax.grad(loss, 1)(f, flat)
            return flat, flat

        _, path = jax.lax.scan(step, FLAT, length=4)
        mean, deviation = path.mean(0), path.std(0)
        noise = jax.random.normal(KEY, (3, len(FLAT)))
        return jax.vmap(lambda e: f(REBUILD(mean + deviation * e), X))(noise)

    close(*both(draws), 1e-4)


@pytest.mark.slow
def test_the_fisher_matrix_of_each_layer():
    """Kronecker factors: inputs of a layer, and slopes by its output, which a zero is added to."""

    def forward(m, x, nudge):
        hidden = jnp.tanh(m(jn.dense(4, name="first"), x) + nudge["first"])
        return m(jn.dense(2, name="last"), hidden) + nudge["last"], hidden

    model = jn.compose(forward)
    zero = {"first": jnp.zeros((5, 4)), "last": jnp.zeros((5, 2))}
    params, state = model.init(KEY, (X, zero))

    def factors(params):
        def total(nudge):
            y, hidden = model.apply(params, state, (X, nudge))[0]
            return ((y - Y) ** 2).sum(), hidden

        slopes, hidden = jax.grad(total, has_aux=True)(zero)
        return X.T @ X, hidden.T @ hidden, *(g.T @ g for g in slopes.values())

    def by_hand(params):
        hidden = jnp.tanh(dense(params["first"], X))
        last = 2 * (dense(params["last"], hidden) - Y)
        first = last @ params["last"]["kernel"].T * (1 - hidden**2)
        return X.T @ X, hidden.T @ hidden, first.T @ first, last.T @ last

    agree(factors, by_hand, params, bound=1e-4)


def test_an_attack_follows_the_sign_of_the_gradient():
    def attacked(f):
        def step(x, _):
            slope = jax.grad(lambda x: loss(f, FLAT, x))(x)
            return jnp.clip(x + 0.1 * jnp.sign(slope), X - 0.2, X + 0.2), None

        return jax.lax.scan(step, X, length=3)[0]

    found, wanted = both(attacked)
    close(found, wanted, 1e-6)
    assert np.abs(found - X).max() > 0.1


def test_a_spectral_norm_by_products_with_the_jacobian():
    """The Lipschitz constant at each example, by power iteration with jvp and vjp."""

    def constant(f):
        def one(x):
            def g(x):
                return f(PARAMS, x[None])[0]

            def turn(v, _):
                u = jax.jvp(g, (x,), (v,))[1]
                (v,) = jax.vjp(g, x)[1](u)
                return v / jnp.linalg.norm(v), jnp.linalg.norm(u)

            return jax.lax.scan(turn, jnp.ones(3) / jnp.sqrt(3), length=6)[1][-1]

        return jax.vmap(one)(X)

    close(*both(constant), 1e-4)
