"""Functions that take a random key take each kind of key, and refuse what is not one key."""

import inspect
from functools import cache

import jax
import numpy as np
import optax
import pytest

import jaxnet as jn
from tools import hostile

KEYS_MAY_REPEAT = True  # each call is made many times

RIGHT = {
    "rbg": lambda: jax.random.key(3, impl="rbg"),
    "unsafe rbg": lambda: jax.random.key(3, impl="unsafe_rbg"),
    "words": lambda: jax.random.PRNGKey(3),
    "words in NumPy": lambda: np.asarray(jax.random.PRNGKey(3)),
}
WRONG = {
    "three words": lambda: np.arange(3, dtype=np.uint32),
    "words of rbg": lambda: jax.random.key_data(jax.random.key(3, impl="rbg")),
    "words of two keys": lambda: np.zeros((2, 2), np.uint32),
    "five keys": lambda: jax.random.split(jax.random.key(3), 5),
    "no keys": lambda: jax.random.split(jax.random.key(3), 0),
    "signed words": lambda: np.zeros(2, np.int32),
    "a seed": lambda: 3,
}


@cache
def calls(every=1):
    """Good calls with a key, and the name of its parameter."""
    found = []
    for call in hostile.good_calls(every=every):
        try:
            given = inspect.signature(call.function).bind(*call.args, **call.kwargs).arguments
        except TypeError:
            continue
        given |= given.get("keys", {}) | given.get("options", {})
        found += [call] if is_key(given.get("key")) else []
    return found


def is_key(value):
    return isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def outcome(call, key):
    """What becomes of a call with another key, and the numbers of its value."""
    given = inspect.signature(call.function).bind(*call.args, **call.kwargs)
    place = given.arguments if "key" in given.arguments else given.kwargs
    if place is not given.arguments:
        kwargs = dict(call.kwargs) | {"key": key}
        found, value = hostile.run(call._replace(kwargs=kwargs))
    else:
        given.arguments["key"] = key
        found, value = hostile.run(call._replace(args=given.args, kwargs=given.kwargs))
    return found, hostile.numbers(value)


def check(found):
    wrong = []
    for call in found:
        values = {}
        for name, make in RIGHT.items():
            result, values[name] = outcome(call, make())
            if result.what != "value":
                wrong.append(f"{call.name}, {name}: {result.error!r:.200}")
        unused = hostile.alike(values["rbg"], values["words"])  # as by an initializer of zeros
        for name, make in WRONG.items():
            result, _ = outcome(call, make())
            if result.what == "foreign" or (result.what == "value" and not unused):
                wrong.append(f"{call.name}, {name}: {result.what} {result.error!r:.200}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.filterwarnings("ignore")
def test_a_key_of_any_kind_is_right_and_anything_else_an_error_of_ours():
    check(calls(every=24))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(4))
def test_all_functions_take_each_kind_of_key(part):
    assert len(calls()) > 80
    check(calls()[part::4])


@pytest.fixture(scope="module")
def run():
    data = np.ones((8, 3), np.float32), np.ones((8, 2), np.float32)
    trainer = jn.trainer(jn.supervised(jn.dense(2), optax.squared_error), optax.sgd(0.1))
    return trainer, trainer.init(jax.random.key(0), data), data


KEYS_OF_A_STATE = {name: make for name, make in WRONG.items() if name != "a seed"}


@pytest.mark.filterwarnings("ignore:step is compiled again")
@pytest.mark.parametrize("name", KEYS_OF_A_STATE)
def test_a_train_state_with_another_key_is_an_error(name, run):
    trainer, train_state, data = run
    other = train_state._replace(key=jax.numpy.asarray(KEYS_OF_A_STATE[name]()))
    for what in ("step", "fit"):
        with pytest.raises(TypeError, match=f"^{what}: train_state.key must be the key from"):
            if what == "step":
                trainer.step(other, data)
            else:
                next(iter(jn.fit(trainer, other, data, epochs=1, progress=False)))


def test_a_position_with_another_key_is_an_error(run):
    trainer, train_state, data = run
    options = {"steps": 4, "batch_size": 2, "progress": False}
    (epoch, *_) = jn.fit(trainer, train_state, data, every=1, **options)
    position = epoch.position._replace(key=np.arange(3, dtype=np.uint32))
    with pytest.raises(ValueError, match=r"^fit: the key of position has shape \(3,\), but"):
        next(iter(jn.fit(trainer, epoch.train_state, data, position=position, **options)))
