"""Nets that draw: variational autoencoders, flows, diffusion, energies, two nets against another.

Random numbers come from keys of the contract, so plain JAX draws the same.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from tests.helpers import close, draw
from tests.programs.common import agree, dense, mlp

KEYS_MAY_REPEAT = True  # both programs draw with one key
KEY = jax.random.key(11)
X = jnp.asarray(draw(5, 4), jnp.float32)
ENCODER = jn.serial(jn.dense(6), jnp.tanh, jn.dense(4), name="encoder")
DECODER = jn.serial(jn.dense(6), jnp.tanh, jn.dense(4), name="decoder")


def key_of(name, key=KEY):
    """The key of `m.key(name)` in the outermost layer."""
    return jn.child_key(key, f"key/{name}")


def in_training(net, x):
    """A net as a function of params, drawing with KEY."""
    return lambda params: net.apply(params, {}, x, key=KEY, train=True)[0]


def lower_bound(x, y, mean, log_var):
    kl = 0.5 * (mean**2 + jnp.exp(log_var) - 1 - log_var).sum(-1)
    return ((x - y) ** 2).sum(-1) + kl


def test_a_variational_autoencoder_draws_with_its_key():
    def vae(m, x):
        mean, log_var = jnp.split(m(ENCODER, x), 2, axis=-1)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(m.key("z"), mean.shape)
        return lower_bound(x, m(DECODER, z), mean, log_var)

    def by_hand(params):
        mean, log_var = jnp.split(mlp(params["encoder"], X), 2, axis=-1)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(key_of("z"), mean.shape)
        return lower_bound(X, mlp(params["decoder"], z), mean, log_var)

    net = jn.compose(vae)
    params, _ = net.init(KEY, X)
    agree(in_training(net, X), by_hand, params)


@pytest.mark.slow
def test_an_importance_weighted_bound_maps_over_keys():
    def weight(params_of_z, key, x, decode):
        mean, log_var = params_of_z
        noise = jax.random.normal(key, mean.shape)
        z = mean + jnp.exp(log_var / 2) * noise
        log_q = -0.5 * (noise**2 + log_var).sum(-1)
        return -((x - decode(z)) ** 2).sum(-1) - 0.5 * (z**2).sum(-1) - log_q

    def iwae(m, x):
        code = jnp.split(m(ENCODER, x), 2, axis=-1)
        weights = jax.vmap(lambda key: weight(code, key, x, lambda z: m(DECODER, z)))(
            m.keys("samples", 3)
        )
        return -jax.nn.logsumexp(weights, axis=0)

    def by_hand(params):
        code = jnp.split(mlp(params["encoder"], X), 2, axis=-1)
        keys = jax.random.split(key_of("samples"), 3)
        weights = [weight(code, key, X, lambda z: mlp(params["decoder"], z)) for key in keys]
        return -jax.nn.logsumexp(jnp.stack(weights), axis=0)

    net = jn.compose(iwae)
    params, _ = net.init(KEY, X)
    agree(in_training(net, X), by_hand, params)


@pytest.mark.slow
def test_a_coupling_flow_has_the_log_determinant_of_its_jacobian():
    def coupling(m, x):
        still, moved = jnp.split(x, 2, axis=-1)
        log_scale, shift = jnp.split(m(jn.serial(jn.dense(5), jnp.tanh, jn.dense(4)), still), 2, -1)
        return jnp.concatenate([moved * jnp.exp(log_scale) + shift, still], -1), log_scale.sum(-1)

    def flow(m, x):
        total = jnp.zeros(len(x))
        for i in range(2):
            x, log_det = m(jn.compose(coupling, name=f"coupling_{i}"), x)
            total = total + log_det
        return x, total

    net = jn.compose(flow)
    params, _ = net.init(KEY, X)

    def ours(params):
        return net.apply(params, {}, X)[0]

    def by_jacobian(params):
        def one(x):
            for i in range(2):
                still, moved = x[:2], x[2:]
                code = mlp(params[f"coupling_{i}"]["serial"], still)
                x = jnp.concatenate([moved * jnp.exp(code[:2]) + code[2:], still])
            return x

        return jax.vmap(one)(X), jnp.linalg.slogdet(jax.vmap(jax.jacfwd(one))(X))[1]

    agree(ours, by_jacobian, params, bound=1e-4)


@pytest.mark.slow
def test_a_residual_flow_takes_the_jacobian_inside_the_model():
    step = jn.serial(jn.dense(5), jnp.tanh, jn.dense(4), name="step")

    def flow(m, x):
        def move(x):
            return x + 0.1 * m(step, x[None])[0]

        log_det = jnp.linalg.slogdet(jax.vmap(jax.jacrev(move))(x))[1]
        return jax.vmap(move)(x), log_det

    net = jn.compose(flow)
    params, _ = net.init(KEY, X)

    def by_hand(params):
        def move(x):
            return x + 0.1 * mlp(params["step"], x)

        return jax.vmap(move)(X), jnp.linalg.slogdet(jax.vmap(jax.jacfwd(move))(X))[1]

    agree(lambda params: net.apply(params, {}, X)[0], by_hand, params, bound=1e-4)


LABEL = jnp.array([0, 2, 1, 2, 0])


def denoise(m, x, t, label=None):
    hidden = m(jn.dense(6, name="x"), x) + m(jn.dense(6, name="t"), t[:, None])
    hidden = hidden + m(jn.embedding(3, 6), label)
    return m(jn.dense(4, name="out"), jax.nn.silu(hidden))


def denoise_by_hand(params, x, t, label):
    hidden = dense(params["x"], x) + dense(params["t"], t[:, None])
    hidden = hidden + params["embedding"]["embedding"][label]
    return dense(params["out"], jax.nn.silu(hidden))


NOISE_NET = jn.compose(denoise)


def noised(x, key):
    """A time for each example, and x with noise of that time."""
    key_t, key_noise = jax.random.split(key)
    t = jax.random.uniform(key_t, (len(x),))
    noise = jax.random.normal(key_noise, x.shape)
    return t, jnp.sqrt(1 - t)[:, None] * x + jnp.sqrt(t)[:, None] * noise, noise


def test_a_diffusion_learns_the_noise_at_a_time_for_a_label():
    params, state = NOISE_NET.init(KEY, (X, jnp.zeros(5), LABEL))

    def ours(params):
        t, x, noise = noised(X, KEY)
        found, _ = NOISE_NET.apply(params, state, {"x": x, "t": t, "label": LABEL})
        return jnp.mean((found - noise) ** 2)

    def by_hand(params):
        t, x, noise = noised(X, KEY)
        return jnp.mean((denoise_by_hand(params, x, t, LABEL) - noise) ** 2)

    agree(ours, by_hand, params)


@pytest.mark.slow
def test_an_ancestral_sampler_inside_a_model_draws_at_each_turn():
    def sample(m, x, label):
        def turn(m, x, t):
            times = jnp.full(len(x), t)
            guided = 1.5 * m(NOISE_NET, x, times, label) - 0.5 * m(NOISE_NET, x, times, label * 0)
            return x - 0.1 * guided + 0.1 * jax.random.normal(m.key("noise"), x.shape), x

        return m.scan(turn, x, jnp.linspace(1, 0, 3))

    net = jn.compose(sample)
    params, state = net.init(KEY, (X, LABEL))

    def ours(params, x):
        return net.apply(params, state, (x, LABEL), key=KEY)[0]

    def by_hand(params, x):
        above, seen = jn.child_key(KEY, "scan/"), []
        for i, t in enumerate(jnp.linspace(1, 0, 3)):
            seen.append(x)
            each = [
                denoise_by_hand(params["denoise"], x, jnp.full(5, t), a) for a in (LABEL, 0 * LABEL)
            ]
            noise = jax.random.normal(key_of("noise", jax.random.fold_in(above, i)), x.shape)
            x = x - 0.1 * (1.5 * each[0] - 0.5 * each[1]) + 0.1 * noise
        return x, jnp.stack(seen)

    _, seen = agree(ours, by_hand, params, X)
    assert len({np.asarray(x).tobytes() for x in seen}) == 3


def test_flow_matching_learns_a_velocity():
    net = jn.compose(lambda m, x, t: m(ENCODER, jnp.concatenate([x, t], -1)), name="velocity")
    noise, t = jax.random.normal(KEY, X.shape), jnp.linspace(0, 1, 5)[:, None]
    between = (1 - t) * noise + t * X
    params, _ = net.init(KEY, (X, t))

    def ours(params):
        return jnp.mean((net.apply(params, {}, (between, t))[0] - (X - noise)) ** 2)

    def by_hand(params):
        found = mlp(params["encoder"], jnp.concatenate([between, t], -1))
        return jnp.mean((found - (X - noise)) ** 2)

    agree(ours, by_hand, params)


def test_sliced_score_matching_takes_a_product_with_the_jacobian():
    direction = jnp.asarray(draw(5, 4, seed=1), jnp.float32)
    params, _ = ENCODER.init(KEY, X)

    def loss(score):
        value, moved = jax.jvp(score, (X,), (direction,))
        return (direction * moved).sum(-1) + 0.5 * ((direction * value).sum(-1)) ** 2

    def ours(params):
        return loss(lambda x: ENCODER.apply(params, {}, x)[0])

    agree(ours, lambda params: loss(lambda x: mlp(params, x)), params)


def test_a_quantized_code_hands_its_gradient_straight_through():
    def vq_vae(m, x):
        z = m(ENCODER, x)
        codes = m.param("codes", jn.initializers.normal(1.0), (7, 4))
        nearest = codes[jnp.argmin(((z[:, None] - codes) ** 2).sum(-1), axis=-1)]
        y = m(DECODER, z + jax.lax.stop_gradient(nearest - z))
        return ((y - x) ** 2).sum(-1) + ((nearest - jax.lax.stop_gradient(z)) ** 2).sum(-1)

    def by_hand(params):
        z = mlp(params["encoder"], X)
        distance = jnp.linalg.norm(z[:, None] - params["codes"], axis=-1)
        chosen = jax.nn.one_hot(distance.argmin(-1), 7)
        nearest = chosen @ params["codes"]
        y = mlp(params["decoder"], z + jax.lax.stop_gradient(nearest - z))
        return ((y - X) ** 2).sum(-1) + ((nearest - jax.lax.stop_gradient(z)) ** 2).sum(-1)

    net = jn.compose(vq_vae)
    params, _ = net.init(KEY, X)
    agree(lambda params: net.apply(params, {}, X)[0], by_hand, params)


ENERGY = jn.serial(jn.dense(6), jnp.tanh, jn.dense(1), jnp.ravel, name="energy")


def langevin(energy, x, key, steps=3):
    def turn(x, key):
        noise = 0.1 * jax.random.normal(key, x.shape)
        return x - 0.5 * jax.grad(lambda x: energy(x).sum())(x) + noise, None

    return jax.lax.scan(turn, x, jax.random.split(key, steps))[0]


@pytest.mark.slow
def test_an_energy_model_samples_inside_its_loss():
    params, _ = ENERGY.init(KEY, X)

    def loss(energy):
        negative = jax.lax.stop_gradient(langevin(energy, jnp.zeros_like(X), KEY))
        return energy(X).mean() - energy(negative).mean()

    def ours(params):
        return loss(lambda x: ENERGY.apply(params, {}, x)[0])

    agree(ours, lambda params: loss(lambda x: mlp(params, x)[:, 0]), params)


def test_an_energy_model_samples_inside_the_model():
    def forward(m, x):
        return langevin(lambda x: m(ENERGY, x), x, m.key("langevin"))

    net = jn.compose(forward)
    params, _ = net.init(KEY, X)

    def by_hand(params):
        return langevin(lambda x: mlp(params["energy"], x)[:, 0], X, key_of("langevin"))

    agree(in_training(net, X), by_hand, params)


@pytest.mark.slow
def test_a_generator_and_a_critic_take_turns():
    generator = jn.serial(jn.dense(6), jnp.tanh, jn.dense(4))
    noise = jax.random.normal(KEY, (5, 3))
    start = {"g": generator.init(KEY, noise)[0], "c": ENERGY.init(KEY, X)[0]}
    optimizer = optax.sgd(0.1)

    def losses(generate, judge, params):
        fake = generate(params["g"], noise)
        frozen = jax.lax.stop_gradient(fake)
        of_critic = jax.nn.softplus(-judge(params["c"], X)) + jax.nn.softplus(
            judge(params["c"], frozen)
        )
        of_generator = jax.nn.softplus(-judge(jax.lax.stop_gradient(params["c"]), fake))
        return of_critic.mean() + of_generator.mean()

    def steps(generate, judge):
        def run(params):
            state = optimizer.init(params)
            for _ in range(2):
                grads = jax.grad(lambda params: losses(generate, judge, params))(params)
                updates, state = optimizer.update(grads, state)
                params = optax.apply_updates(params, updates)
            return params

        return jax.jit(run)(start)

    ours = steps(
        lambda params, z: generator.apply(params, {}, z)[0],
        lambda params, x: ENERGY.apply(params, {}, x)[0],
    )
    close(ours, steps(mlp, lambda params, x: mlp(params, x)[:, 0]), 1e-5)


def test_a_gradient_penalty_is_a_gradient_of_a_gradient():
    params, _ = ENERGY.init(KEY, X)

    def penalty(critic):
        slopes = jax.vmap(jax.grad(lambda x: critic(x[None])[0]))(X)
        return jnp.mean((jnp.linalg.norm(slopes, axis=-1) - 1) ** 2)

    def ours(params):
        return penalty(lambda x: ENERGY.apply(params, {}, x)[0])

    agree(ours, lambda params: penalty(lambda x: mlp(params, x)[:, 0]), params, bound=1e-4)


def word(m, hidden, token):
    both = jnp.concatenate([hidden, m(jn.embedding(7, 4), token)], -1)
    hidden = jnp.tanh(m(jn.dense(6, name="next"), both))
    return hidden, m(jn.dense(7, name="logits"), hidden)


def test_tokens_are_drawn_one_after_another():
    """The text of a recurrent net, from its own words: the loop carries the token and the state."""
    net = jn.compose(word)
    start = jnp.zeros((2, 6)), jnp.array([1, 2])
    params, state = net.init(KEY, start)

    def by_hand(hidden, token):
        both = jnp.concatenate([hidden, params["embedding"]["embedding"][token]], -1)
        hidden = jnp.tanh(dense(params["next"], both))
        return hidden, dense(params["logits"], hidden)

    def text(step):
        def turn(carry, key):
            hidden, logits = step(*carry)
            token = jax.random.categorical(key, logits)
            return (hidden, token), (token, logits)

        return jax.lax.scan(turn, start, jax.random.split(KEY, 8))[1]

    found, wanted = jax.jit(
        lambda: (text(lambda *given: net.apply(params, state, given)[0]), text(by_hand))
    )()
    close(found, wanted, 1e-5)
    assert len(np.unique(found[0])) > 2
