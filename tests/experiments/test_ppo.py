import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ppo
from experiments.ppo import METHODS, Played, accelerations, advance, learner

KEYS_MAY_REPEAT = True  # a game is played twice with one key


def test_accelerations_solve_the_equations_of_lagrange():
    rng = np.random.default_rng(0)
    state, force = rng.normal(size=(20, 4)), rng.normal(size=20)
    cart, turning = jax.device_get(jax.jit(accelerations)(state, force))
    angle, turn = state[:, 2], state[:, 3]
    # The derivatives of the momenta: of the whole along the track, and around the hinge.
    along = 1.1 * cart + 0.05 * (turning * np.cos(angle) - turn**2 * np.sin(angle))
    around = 0.5 * 4 / 3 * turning + cart * np.cos(angle)
    np.testing.assert_allclose(along, force, atol=1e-5)
    np.testing.assert_allclose(around, 9.8 * np.sin(angle), atol=1e-4)


def test_a_step_is_that_of_gym():
    """The first two steps to the right and to the left from rest, by the equations by hand."""
    step = jax.jit(advance)
    state, fallen = jax.device_get(step(np.zeros(4, np.float32), 1))
    push = 10 / 1.1
    turning = -push / (0.5 * (4 / 3 - 0.1 / 1.1))
    cart = push - 0.05 * turning / 1.1
    np.testing.assert_allclose(state, [0, 0.02 * cart, 0, 0.02 * turning], rtol=1e-6)
    again, _ = jax.device_get(step(state, 0))
    np.testing.assert_allclose(again[::2], 0.02 * state[1::2], rtol=1e-6)
    assert not fallen
    edges = np.float32([[2.41, 0, 0, 0], [-2.41, 0, 0, 0], [0, 0, 0.22, 0], [0, 0, 0.2, 0]])
    assert step(edges, np.zeros(4, int))[1].tolist() == [True, True, True, False]


def played(fallen, ended):
    fallen, ended = (jnp.array(a, bool)[:, None] for a in (fallen, ended))
    nothing = jnp.zeros(len(ended))
    return Played(nothing, nothing, nothing, nothing, fallen, ended)


def test_advantages_end_with_the_episode():
    values, later = np.float32([[1.0], [2.0], [3.0]]), np.float32([[2.0], [5.0], [4.0]])
    run = jax.jit(ppo.generalized_advantages)
    advantage, target, _ = jax.device_get(run(values, later, played([0, 1, 0], [0, 1, 0])))
    last = 1 + 0.99 * 4 - 3  # the rollout ends, the episode does not
    second = 1 - 2  # fallen: nothing follows
    first = 1 + 0.99 * 2 - 1 + 0.99 * 0.95 * second
    np.testing.assert_allclose(advantage[:, 0], [first, second, last], rtol=1e-6)
    np.testing.assert_allclose(target, advantage + values, rtol=1e-6)
    limit, *_ = jax.device_get(run(values, later, played([0, 0, 0], [0, 1, 0])))
    assert np.isclose(limit[1, 0], 1 + 0.99 * 5 - 2)  # ended by the limit, not by a failure


def test_returns_are_those_of_the_first_episode():
    values, run = np.zeros((4, 1), np.float32), jax.jit(ppo.whole_returns)
    given = values, values, played([0, 0, 1, 0], [0, 0, 1, 0])
    found, total, weight = jax.device_get(run(*given))
    np.testing.assert_allclose(total[:3, 0], [1 + 0.99 + 0.99**2, 1.99, 1], rtol=1e-6)
    np.testing.assert_allclose(weight[:, 0], [4 / 3, 4 / 3, 4 / 3, 0], rtol=1e-6)
    np.testing.assert_allclose(found[:3].mean(), 0, atol=1e-5)
    np.testing.assert_allclose(found[:3].std(), 1, rtol=1e-4)


@pytest.mark.slow
def test_the_gain_is_clipped():
    """An action that is more likely than before by over 20% and good has no gradient."""

    def slopes(old, advantage):
        batch = {"advantage": jnp.array([advantage, 0.0]), "action": jnp.array([0, 0])}
        batch |= {"log_prob": jnp.log(jnp.array([old, 0.5])), "target": jnp.zeros(2)}

        def gain(logits):  # without the bonus for entropy, which is flat at equal logits
            return ppo.ppo(logits, jnp.zeros(2), batch).sum()

        return jax.grad(gain)(jnp.zeros((2, 2)))[0]

    assert jnp.abs(slopes(0.4, 1.0)).max() < 1e-6
    assert slopes(0.6, 1.0)[0] < -0.1  # less likely than before: made more likely
    assert slopes(0.4, -1.0)[0] > 0.1


@pytest.mark.slow
def test_each_method_learns_and_a_key_gives_one_result():
    for method in METHODS.values():
        learn = jax.jit(jax.vmap(learner(method, 12, 20)))
        keys = jax.random.split(jax.random.key(0), 2)
        returns = learn(keys)
        assert returns.shape == (2, 13) and (returns[:, 0] < 60).all()
        assert returns[:, -4:].mean() > 2 * returns[:, 0].mean() and returns.max() <= 500
        np.testing.assert_array_equal(returns, learn(keys))
