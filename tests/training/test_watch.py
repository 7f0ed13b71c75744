"""Warnings about a run, by path."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxnet as jn
from jaxnet.training.watch import Watcher, warn_nonfinite
from tests.training.conftest import KEY, started

PARAMS = {"a": jnp.ones(2), "b": jnp.ones(3)}


def test_what_comes_or_goes_is_named():
    watcher, x = Watcher(), jnp.ones(3)
    watcher.traced("step", batch={"x": x})
    with pytest.warns(UserWarning, match=r"because of batch/y: nothing -> float32\[3\];"):
        watcher.traced("step", batch={"x": x, "y": x})
    with pytest.warns(UserWarning, match=r"because of batch/y: float32\[3\] -> nothing;"):
        watcher.traced("step", batch={"x": x})


def test_state_that_stays_is_named_once():
    watcher, state = Watcher(), {"mean": jnp.ones(2)}
    with pytest.warns(UserWarning, match="state does not change in training: mean;"):
        watcher.updated(state, state)
    with warnings.catch_warnings(action="error"):
        watcher.updated(state, state)
        watcher.updated(state, {"mean": jnp.ones(2)})


def test_state_of_another_structure_raises():
    with pytest.raises(ValueError, match="must return state of the structure it was given"):
        Watcher().updated({"mean": jnp.ones(2)}, {})


def test_gradients_come_before_losses():
    finite = np.array([[True, True], [True, False]])
    with pytest.warns(UserWarning, match="the gradient is not finite at step 8: b;"):
        assert warn_nonfinite(PARAMS, finite, np.array([1, np.nan]), 7)
    words = "step 8, but its gradient is; try a smaller learning rate"
    with pytest.warns(UserWarning, match=words):
        assert warn_nonfinite(PARAMS, finite[:1], np.array([1, np.inf]), 7)
    with pytest.warns(UserWarning, match="step 8, but its gradient is; are the labels 0 to n - 1"):
        assert warn_nonfinite(PARAMS, finite[:1], np.array([1, np.nan]), 7)
    assert not warn_nonfinite(PARAMS, finite[:1], np.ones(1), 7)


NET = jn.dense(2)
X, Y = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
USES = {
    "apply": lambda trainer, spent: NET.apply(spent.params, spent.state, X),
    "fit": lambda trainer, spent: list(jn.fit(trainer, spent, (X, Y), epochs=1)),
    "evaluate": lambda trainer, spent: jn.evaluate(
        trainer.objective, spent.params, spent.state, (X, Y)
    ),
    "predict": lambda trainer, spent: jn.predict(NET, spent.params, spent.state, X),
    "doctor": lambda trainer, spent: jn.inspect.doctor(trainer, spent, (X, Y)),
    "init": lambda trainer, spent: trainer.init(KEY, (X, Y), params=spent.params),
    "step": lambda trainer, spent: trainer.step(spent, (X, Y)),
}


@pytest.fixture
def spent_by():
    """A trainer, and a train state that one of its steps used up."""
    trainer, train_state = started(NET, (X, Y), optax.squared_error)
    trainer.step(train_state, (X, Y))
    return trainer, train_state


@pytest.mark.parametrize("use", USES)
def test_every_use_of_a_spent_state_says_what_to_write(use, spent_by):
    with pytest.raises((RuntimeError, ValueError)) as caught:  # by the version of JAX
        USES[use](*spent_by)
    assert sum("goes into one step only" in note for note in caught.value.__notes__) == 1


def test_a_spent_state_says_so(spent_by):
    _, spent = spent_by
    assert "used up by a step; continue with the one" in repr(spent)


def bce(outputs, targets):
    return optax.sigmoid_binary_cross_entropy(outputs[:, 0], targets)


@pytest.mark.slow
@pytest.mark.parametrize("targets, told", [([1.0, -1.0], True), ([1.0, 0.0], False)])
@pytest.mark.parametrize("loop", ["step", "fit"])
def test_a_cross_entropy_below_0_is_told(loop, targets, told):
    batch = jnp.eye(2), jnp.array(targets)
    trainer, train_state = started(jn.dense(1), batch, jax.jit(bce), optax.sgd(9.0))
    with warnings.catch_warnings(record=True, action="always") as caught:
        if loop == "fit":
            list(jn.fit(trainer, train_state, batch, epochs=5))
        else:
            for _ in range(16):
                train_state, _ = trainer.step(train_state, batch)
    assert ["Few losses" in str(warning.message) for warning in caught] == [True] * told


def test_an_array_in_two_places_is_named():
    batch = jnp.eye(2), jnp.ones(2)
    optimizer = optax.chain(optax.sgd(0.1), jn.ema())
    trainer, train_state = started(jn.dense(1), batch, bce, optimizer)
    average = optax.tree.get(train_state.opt_state, "ema")
    kinds = ValueError, jax.errors.JaxRuntimeError
    with pytest.raises(kinds, match="donate the same buffer twice") as error:
        trainer.step(train_state._replace(params=average), batch)
    assert "params/bias and opt_state/1/ema/bias" in "".join(error.value.__notes__)


@pytest.mark.slow
def test_what_is_meant_is_not_told():
    """A second data set, a weak type, and a mask of booleans as state; a float as state is."""
    ones = jn.initializers.ones
    net = jn.compose(lambda m, x: m(jn.dense(2), x * m.state("mask", ones, (2,), bool)))
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    batch = jnp.eye(2), jnp.array([0, 1])
    trainer, train_state = started(net, batch, optimizer=optimizer)
    twice = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), batch)
    weak = optax.tree.set(train_state.opt_state, learning_rate=jnp.asarray(0.2))
    for data, start in [
        (batch, train_state),
        (twice, train_state),
        (batch, train_state._replace(opt_state=weak)),
    ]:
        list(jn.fit(trainer, start, data, epochs=1, batch_size=2))


def test_a_cross_entropy_below_0_is_told_once():
    def own(outputs, targets):
        losses = jnp.logaddexp(0, outputs) - targets * outputs
        return losses[:, 0]

    batch = jnp.ones((4, 2)), -jnp.ones((4, 1))
    trainer, train_state = started(jn.dense(1), batch, own)
    with pytest.warns(UserWarning, match=r"loss is -.*need \(targets \+ 1\) / 2") as told:
        for _ in range(40):
            train_state, _ = trainer.step(train_state, batch)
    assert len(told) == 1


def needs_much(x):
    """A row that takes 70 TB, of which one number is used."""
    row = jax.lax.optimization_barrier(jnp.broadcast_to(x[:, :1], (len(x), 2**44)))
    return x + row[:, 5:6]


@pytest.mark.parametrize("call", ["step", "fit", "evaluate", "predict"])
def test_exhausted_memory_is_explained(call):
    if call in ("evaluate", "predict") and jax.__version_info__ < (0, 8):
        pytest.skip("XLA leaves the row out, as no result needs it")
    net = jn.serial(jn.dense(4), needs_much)
    data = jnp.ones((4, 3)), jnp.zeros((4, 4))
    trainer, train_state = started(net, data, optax.squared_error)
    calls = {
        "step": lambda: trainer.step(train_state, data),
        "fit": lambda: next(jn.fit(trainer, train_state, data, epochs=1, progress=False)),
        "evaluate": lambda: jn.evaluate(
            trainer.objective, train_state.params, train_state.state, data
        ),
        "predict": lambda: jn.predict(net, train_state.params, train_state.state, data[0]),
    }
    with pytest.raises(jax.errors.JaxRuntimeError, match="Out of memory") as caught:
        calls[call]()
    (note,) = [note for note in caught.value.__notes__ if "memory is exhausted" in note]
    assert "smaller batch_size" in note and "jn.inspect.memory" in note
