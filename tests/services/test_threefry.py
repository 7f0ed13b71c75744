"""Keys that are derived on the host are those of `jax.random.fold_in`, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.core.contract import child_key, child_keys
from jaxnet.services.threefry import fold_paths, hashed

KEYS_MAY_REPEAT = True
NUMBERS = [0, 1, 2, 17, 2**31 - 1, 2**31, 2**32 - 1]
KEYS = {
    "typed": lambda: jax.random.key(5),
    "words": lambda: jax.random.PRNGKey(5),
    "negative seed": lambda: jax.random.key(-3),
    "large words": lambda: jax.random.wrap_key_data(jnp.array([2**32 - 1, 2**31], jnp.uint32)),
    "rbg": lambda: jax.random.key(5, impl="rbg"),
    "unsafe_rbg": lambda: jax.random.key(5, impl="unsafe_rbg"),
    "on a device": lambda: jax.device_put(jax.random.key(5), jax.devices()[0]),
    "split": lambda: jax.random.split(jax.random.key(5))[1],
}


def words(key) -> np.ndarray:
    return np.asarray(jax.random.key_data(key))


def fold_in(key, number: int) -> jax.Array:
    (folded,) = fold_paths(key, [(number,)])
    return folded


@pytest.mark.parametrize("name", KEYS)
def test_every_kind_of_key(name):
    key = KEYS[name]()
    for number in NUMBERS:
        expected = jax.random.fold_in(key, np.uint32(number))
        found = fold_in(key, number)
        assert found.dtype == expected.dtype and found.shape == expected.shape
        assert np.array_equal(words(found), words(expected))


@pytest.mark.parametrize("name", KEYS)
def test_a_known_key_inside_a_program(name):
    """Inside `jit`, whatever is computed from a key is traced, even if its value is known."""
    key = KEYS[name]()
    expected = words(fold_in(key, 3))

    def folded(x):
        return jax.random.key_data(fold_in(key, 3)), x

    found, _ = jax.jit(folded)(1.0)
    assert np.array_equal(found, expected)
    _, (found, _) = jax.lax.scan(lambda carry, x: (carry, folded(x)), 0, jnp.ones(2))
    assert np.array_equal(found[1], expected)
    assert np.array_equal(jax.vmap(folded)(jnp.ones(2))[0][0], expected)


@pytest.mark.parametrize("seed", range(40))
def test_random_keys_and_numbers(seed):
    draw = np.random.default_rng(seed)
    key = jax.random.wrap_key_data(jnp.asarray(draw.integers(0, 2**32, 2, np.uint32)))
    path = tuple(int(number) for number in draw.integers(0, 2**32, 3))
    expected = key
    for number in path:
        expected = jax.random.fold_in(expected, np.uint32(number))
    one, whole = fold_paths(key, [path[:1], path])
    assert np.array_equal(words(whole), words(expected))
    assert np.array_equal(words(one), words(jax.random.fold_in(key, np.uint32(path[0]))))


@pytest.mark.parametrize("name", ["jax_threefry_partitionable", "jax_enable_custom_prng"])
@pytest.mark.parametrize("value", [False, True])
def test_options_of_jax(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        for key in (jax.random.key(5), jax.random.PRNGKey(5)):
            expected = jax.random.fold_in(key, np.uint32(17))
            assert np.array_equal(words(fold_in(key, 17)), words(expected))
    finally:
        jax.config.update(name, before)


def test_several_keys_get_the_error_of_jax():
    several = jax.random.split(jax.random.key(1))
    with pytest.raises(ValueError, match="fold_in accepts a single key"):
        fold_in(several, 3)


def test_words_of_the_reference():
    """From the authors' file of known answers."""
    every = 2**32 - 1
    assert hashed((every, every), (every, every)) == (0x1CB996FC, 0xBB002BE7)
    digits = (0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3)
    assert hashed(*digits) == (0xC4923A9C, 0x483DF7A0)


def test_inside_transformations():
    def folded(key):
        return jax.random.key_data(fold_paths(key, [(3, 4), ()])[0])

    key, several = jax.random.key(1), jax.random.split(jax.random.key(1), 3)
    expected = words(fold_in(fold_in(key, 3), 4))
    assert np.array_equal(jax.jit(folded)(key), expected)
    assert np.array_equal(jax.vmap(folded)(several)[0], folded(several[0]))
    assert jax.eval_shape(folded, key).shape == (2,)


def test_a_path_of_names_is_child_by_child():
    key = jax.random.key(0)
    found = child_keys(key, [("a", "b"), ("a",), ()])
    assert found[0] == child_key(child_key(key, "a"), "b")
    assert found[1] == child_key(key, "a") and found[2] == key
    with pytest.raises(TypeError, match="name must be a word, got 3"):
        child_keys(key, [("a", 3)])  # type: ignore
