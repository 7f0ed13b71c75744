"""Pytrees in words, and the cache that they key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxnet as jn
from jaxnet.services import trees
from jaxnet.services.trees import Memo, as_lines, differences, in_words, memo_of


def test_describe_trees():
    tree = {"a": jn.spec((2, 3)), "b": [jn.spec((), jnp.int32)]}
    assert trees.describe(tree) == "{'a': (2, 3) float32, 'b': [() int32]}"


def test_differences_name_what_lacks_differs_and_is_left_over():
    needed = in_words({"a": jn.spec((2,)), "b": jn.spec((3,)), "c": jn.spec(())})
    given = in_words({"z": jn.spec((5,)), "b": jn.spec((3,), jnp.int32), "c": jn.spec(())})
    found = differences(needed, given)
    lines = [
        "  net/a: expected (2,) float32, got nothing",
        "  net/b: expected (3,) float32, got (3,) int32",
        "  net/z: unknown entry",
    ]
    assert as_lines(found, inside=("net",)) == lines
    assert as_lines(found, inside=("net",), most=3) == lines
    assert as_lines(found, inside=("net",), most=1) == [lines[0], "  and 2 more"]
    assert differences(needed, needed) == {}
    assert as_lines({}, most=1) == []


def test_an_empty_shape_is_not_the_lack_of_an_entry():
    assert differences({"a": ()}, {}) == {"a": ((), None)}
    lines = as_lines({"a": (None, ()), "b": ((), (1,))})
    assert lines == ["  a: unknown entry", "  b: expected (), got (1,)"]


def test_a_memo_makes_an_entry_once_and_drops_the_oldest():
    memo, made = Memo(), []
    assert [memo.of("a", lambda: made.append(1)) for _ in range(2)] == [None, None]
    assert made == [1]
    for i in range(Memo.size + 1):
        memo.of(i, lambda i=i: i)
    assert list(memo._entries) == list(range(1, Memo.size + 1))


def test_signatures_tell_shapes_and_dtypes_apart():
    specs = [jn.spec((2, 3)), jn.spec((3, 2)), jn.spec((2, 3), jnp.int32), (jn.spec((2, 3)),)]
    assert len({trees.signature(x) for x in specs}) == 4


class Scaled:
    def __init__(self, gain):
        self.gain = gain

    def act(self, x):
        return self.gain * x


def test_methods_and_wrappers_have_caches_of_their_own():
    one, ten = Scaled(1), Scaled(10)
    assert memo_of(one.act).of("gain", lambda: 1) == 1
    assert memo_of(ten.act).of("gain", lambda: 10) == 10
    assert memo_of(one.act).of("gain", lambda: 2) == 1  # kept
    assert memo_of(len).of("name", lambda: "len") == "len"
    assert memo_of(sum).of("name", lambda: "sum") == "sum"

    def plain(x):
        return x

    assert memo_of(plain).of("gain", lambda: 1) == 1
    assert memo_of(functools.wraps(plain)(lambda x: 2 * plain(x))).of("gain", lambda: 2) == 2


def test_an_rnn_takes_the_method_of_its_own_object():
    x = jnp.ones((1, 1, 3))
    layers = [jn.rnn(2, activation=Scaled(gain).act) for gain in (1.0, 10.0)]
    params, state = layers[0].init(jax.random.key(0), x)
    one, ten = (layer.apply(params, state, x)[0] for layer in layers)
    np.testing.assert_allclose(ten, 10 * one, rtol=1e-6)
