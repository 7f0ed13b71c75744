import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from experiments import state_space
from experiments.state_space import Config
from jaxnet.services.jax_versions import enable_x64

X = np.random.default_rng(0).normal(size=(2, 9, 5))


def layer(selective):
    return state_space.state_space(3, selective=selective)


def softplus(x):
    return np.log1p(np.exp(x))


def loop(params, x):
    """The outputs for one sequence (time, features), step by step in NumPy."""
    a, h, outputs = -np.exp(params["a_log"]), 0.0, []
    for now in x:
        if "dt_in" in params:
            dt = now @ params["dt_in"]["kernel"] @ params["dt"]["kernel"] + params["dt"]["bias"]
            b, c = now @ params["b"]["kernel"], now @ params["c"]["kernel"]
        else:
            dt, b, c = params["dt"], params["b"], params["c"]
        dt = softplus(dt)[:, None]
        h = np.exp(dt * a) * h + dt * b * now[:, None]
        outputs.append((h * c).sum(-1) + params["d"] * now)
    return np.stack(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("selective", [True, False])
def test_all_steps_at_once_equal_a_loop_over_them(selective):
    with enable_x64(True):
        params, _ = layer(selective).init(jax.random.key(0), X)
        params = jax.tree.map(lambda p: np.random.default_rng(p.size).normal(size=p.shape), params)
        y, _ = layer(selective).apply(params, {}, X)
    np.testing.assert_allclose(y, [loop(params, x) for x in X], rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("selective", [True, False])
def test_gradients_are_those_of_finite_differences(selective):
    assert jn.inspect.check_gradients(layer(selective), jn.spec((2, 6, 5)))


@pytest.mark.slow
@pytest.mark.parametrize("selective", [True, False])
def test_chunks_equal_the_whole_sequence(selective):
    net = state_space.language_model(10, lambda: state_space.mamba(selective=selective))
    tokens = np.random.default_rng(1).integers(0, 10, (2, 9))
    params, state = net.init(jax.random.key(0), tokens)
    jn.inspect.check_stream(net, params, state, tokens)
    assert state_space.against_stream(net, params, tokens) < 1e-5


@pytest.mark.slow
def test_steps_that_do_not_count_keep_the_state():
    params, state = layer(True).init(jax.random.key(0), X)
    ragged, even = jn.stream(layer(True), ragged=True), jn.stream(layer(True))
    steps = jnp.array([4, 9])
    _, kept = ragged.apply(params, jn.start_stream(ragged, (X, steps), state), (X, steps))
    _, first = even.apply(params, jn.start_stream(even, X, state), X[:, :4])
    _, last = even.apply(params, first, X[:, 4:])
    np.testing.assert_allclose(kept["h"], [first["h"][0], last["h"][1]], rtol=1e-4, atol=1e-6)


def test_the_steps_begin_between_a_thousandth_and_a_tenth():
    sizes = softplus(np.asarray(state_space.step_sizes(jax.random.key(0), (1000,))))
    assert 0.9e-3 < sizes.min() < 1.2e-3 and 0.09 < sizes.max() < 0.101
    assert 0.008 < np.median(sizes) < 0.0125


def test_the_symbols_to_copy_are_in_order_among_noise():
    task = state_space.copying(Config(length=20, count=5))
    x, y = task.draw(np.random.default_rng(0), 50)
    assert x.shape == (50, 25) and y.shape == (50, 5) and (x[:, 20:] == task.symbols - 1).all()
    np.testing.assert_array_equal([row[row > 0] for row in x[:, :20]], y)
    assert len({tuple(np.flatnonzero(row)) for row in x}) > 40


@pytest.mark.slow
def test_the_nets_have_nearly_equal_numbers_of_weights():
    weights = []
    for mixer in state_space.MIXERS.values():
        net = state_space.language_model(10, mixer)
        params, _ = jax.eval_shape(net.init, jax.random.key(0), jn.spec((2, 8), int))
        weights.append(sum(leaf.size for leaf in jax.tree.leaves(params)))
    assert max(weights) < 1.07 * min(weights)


@pytest.mark.slow
def test_plays_are_cut_into_windows(tfds_data_dir):
    task = state_space.plays(Config(task="plays", data_dir=tfds_data_dir))
    for x, y in (task.test, task.draw(np.random.default_rng(0), 5)):
        assert x.shape[1] == y.shape[1] == task.last == state_space.CONTEXT
        np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
