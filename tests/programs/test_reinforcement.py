"""Agents and worlds: environments in `lax.scan`, policies, values, planners, learned models."""

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
KEY = jax.random.key(21)
POLICY = jn.serial(jn.dense(5), jnp.tanh, jn.dense(3), name="policy")
VALUE = jn.serial(jn.dense(5), jnp.tanh, jn.dense(1), name="value")
STATES = jnp.asarray(draw(4, 2), jnp.float32)
PARAMS = {
    "policy": POLICY.init(KEY, STATES)[0],
    "value": VALUE.init(jax.random.key(1), STATES)[0],
}
MOVES = jnp.array([[0.0, 0.3], [0.3, 0.0], [-0.2, -0.2]])


def policy(params, states):
    return POLICY.apply(params["policy"], {}, states)[0]


def value(params, states):
    return VALUE.apply(params["value"], {}, states)[0][..., 0]


def policy_by_hand(params, states):
    return mlp(params["policy"], states)


def value_by_hand(params, states):
    return mlp(params["value"], states)[..., 0]


OURS, BY_HAND = (policy, value), (policy_by_hand, value_by_hand)


class Step(NamedTuple):
    states: jax.Array
    actions: jax.Array
    rewards: jax.Array


def rollout(policy, params, key, length=3):
    """Steps of a batch of walkers, who are paid for being near the origin."""

    def step(states, key):
        actions = jax.random.categorical(key, policy(params, states))
        after = 0.9 * states + MOVES[actions]
        return after, Step(states, actions, -(after**2).sum(-1))

    return jax.lax.scan(step, STATES, jax.random.split(key, length))


def log_probability(policy, params, steps):
    logits = jax.nn.log_softmax(policy(params, steps.states))
    return jnp.take_along_axis(logits, steps.actions[..., None], -1)[..., 0]


def reinforce(policy, params):
    _, steps = rollout(policy, params, KEY)
    to_go = jnp.cumsum(steps.rewards[::-1], 0)[::-1]
    return -(log_probability(policy, params, steps) * jax.lax.stop_gradient(to_go)).mean()


def test_a_policy_learns_from_returns():
    agree(
        lambda params: reinforce(policy, params),
        lambda params: reinforce(policy_by_hand, params),
        PARAMS,
        bound=1e-4,
    )


def advantages(rewards, values, last):
    """Generalized advantage estimation, from the end to the start."""
    ahead = jnp.concatenate([values[1:], last[None]])
    errors = rewards + 0.9 * ahead - values

    def step(carry, error):
        carry = error + 0.9 * 0.95 * carry
        return carry, carry

    return jax.lax.scan(step, jnp.zeros_like(last), errors, reverse=True)[1]


@pytest.mark.slow
def test_a_clipped_objective_with_values():
    last, steps = jax.jit(lambda: rollout(policy, PARAMS, KEY))()
    before = log_probability(policy, PARAMS, steps) + 0.1

    def loss(nets, params):
        policy, value = nets
        values = value(params, steps.states)
        found = advantages(steps.rewards, values, value(params, last))
        gain = jax.lax.stop_gradient(found)
        ratio = jnp.exp(log_probability(policy, params, steps) - before)
        clipped = jnp.clip(ratio, 0.8, 1.2)
        target = jax.lax.stop_gradient(values + found)
        return -jnp.minimum(ratio * gain, clipped * gain).mean() + ((values - target) ** 2).mean()

    agree(lambda params: loss(OURS, params), lambda params: loss(BY_HAND, params), PARAMS)


@pytest.mark.slow
def test_a_double_q_net_has_a_target_that_lags():
    last, steps = jax.jit(lambda: rollout(policy, PARAMS, KEY))()
    after = jnp.concatenate([steps.states[1:], last[None]])

    def run(q):
        def loss(params, target):
            best = q(params, after).argmax(-1)
            ahead = jnp.take_along_axis(q(target, after), best[..., None], -1)[..., 0]
            chosen = jnp.take_along_axis(q(params, steps.states), steps.actions[..., None], -1)
            return optax.huber_loss(chosen[..., 0], steps.rewards + 0.9 * ahead).mean()

        def step(pair, _):
            params, target = pair
            slopes = jax.grad(loss)(params, target)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
            return (params, optax.incremental_update(params, target, 0.1)), None

        return jax.lax.scan(step, (PARAMS, PARAMS), length=2)[0]

    found, wanted = jax.jit(lambda: (run(policy), run(policy_by_hand)))()
    close(found, wanted, 1e-5)


def test_an_actor_climbs_its_critic():
    """Deterministic policy gradients: the critic has two inputs, and its params stay."""
    critic = jn.compose(
        lambda m, state, action: m(VALUE, jnp.concatenate([state, action], -1)), name="critic"
    )
    params, _ = critic.init(KEY, (STATES, jnp.zeros((4, 3))))

    def ours(of_actor):
        action = jnp.tanh(policy(of_actor, STATES))
        return -critic.apply(params, {}, {"state": STATES, "action": action})[0].mean()

    def by_hand(of_actor):
        action = jnp.tanh(policy_by_hand(of_actor, STATES))
        return -mlp(params["value"], jnp.concatenate([STATES, action], -1)).mean()

    agree(ours, by_hand, PARAMS)


@pytest.mark.slow
def test_a_world_model_imagines_by_scan():
    """The model steps its own state and the policy's action inside one net, with noise per turn."""

    def imagine(m, states):
        dynamics = jn.serial(jn.dense(6), jnp.tanh, jn.dense(2), name="dynamics")

        def turn(m, states, _):
            action = jax.nn.softmax(m(POLICY, states))
            noise = 0.1 * jax.random.normal(m.key("noise"), states.shape)
            states = states + m(dynamics, jnp.concatenate([states, action], -1)) + noise
            return states, m(VALUE, states)[..., 0]

        return m.scan(turn, states, length=3)[1]

    net = jn.compose(imagine)
    params, _ = net.init(KEY, STATES)

    def by_hand(params):
        states, values = STATES, []
        for i in range(3):
            key = jax.random.fold_in(jn.child_key(KEY, "scan/"), i)
            noise = jax.random.normal(jn.child_key(key, "key/noise"), states.shape)
            action = jax.nn.softmax(policy_by_hand(params, states))
            both = jnp.concatenate([states, action], -1)
            states = states + mlp(params["dynamics"], both) + 0.1 * noise
            values.append(value_by_hand(params, states))
        return jnp.stack(values)

    agree(
        lambda params: net.apply(params, {}, STATES, key=KEY, train=True)[0],
        by_hand,
        params,
        bound=1e-4,
    )


def test_a_planner_searches_through_a_learned_model():
    """The cross-entropy method over actions, where the model of the world is a net."""
    model = jn.serial(jn.dense(5), jnp.tanh, jn.dense(2))
    params, _ = model.init(KEY, jnp.zeros((1, 3)))

    def plan(f):
        def cost(actions):
            def step(state, action):
                state = state + 0.3 * f(params, jnp.append(state, action)[None])[0]
                return state, (state**2).sum()

            return jax.lax.scan(step, STATES[0], actions)[1].sum()

        def turn(carry, key):
            mean, scale = carry
            actions = mean + scale * jax.random.normal(key, (8, 3))
            best = actions[jnp.argsort(jax.vmap(cost)(actions))[:3]]
            return (best.mean(0), best.std(0) + 0.05), cost(mean)

        start = jnp.zeros(3), jnp.ones(3)
        return jax.lax.scan(turn, start, jax.random.split(KEY, 3))

    found, wanted = jax.jit(
        lambda: (plan(lambda params, x: model.apply(params, {}, x)[0]), plan(mlp))
    )()
    close(found, wanted, 1e-4)


def test_episodes_end_at_other_times():
    """A `while_loop` for each walker under `vmap`: it stops when the policy chooses to."""

    def walk(policy, start):
        def goes_on(carry):
            state, count, done = carry
            return ~done & (count < 6)

        def step(carry):
            state, count, _ = carry
            action = policy(PARAMS, state[None])[0].argmax()
            state = 0.9 * state + MOVES[action]
            return state, count + 1, (state**2).sum() < 0.5

        return jax.lax.while_loop(goes_on, step, (start, jnp.int32(0), False))

    found, wanted = jax.jit(
        lambda: tuple(
            jax.vmap(lambda start, f=f: walk(f, start))(3 * STATES)
            for f in (policy, policy_by_hand)
        )
    )()
    close(found[0], wanted[0], 1e-5)
    np.testing.assert_array_equal(found[1], wanted[1])
    assert len(np.unique(found[1])) > 1
