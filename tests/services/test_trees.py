"""Pytrees in words, and the cache that they key."""

import jax.numpy as jnp

import jaxnet as jn
from jaxnet.services.trees import Memo, describe, signature


def test_describe_trees():
    tree = {"a": jn.spec((2, 3)), "b": [jn.spec((), jnp.int32)]}
    assert describe(tree) == "{'a': (2, 3) float32, 'b': [() int32]}"


def test_a_memo_drops_its_oldest_entry():
    memo = Memo()
    for i in range(Memo.size + 1):
        memo.of(i, lambda i=i: i)
    assert list(memo._entries) == list(range(1, Memo.size + 1))


def test_signatures_tell_shapes_and_dtypes_apart():
    specs = [jn.spec((2, 3)), jn.spec((3, 2)), jn.spec((2, 3), jnp.int32), (jn.spec((2, 3)),)]
    assert len({signature(x) for x in specs}) == 4


def test_a_memo_makes_an_entry_once():
    memo, made = Memo(), []
    assert [memo.of("a", lambda: made.append(1)) for _ in range(2)] == [None, None]
    assert made == [1]
