"""Pytrees in words, and the cache that they key."""

import jax.numpy as jnp

import jaxnet as jn
from jaxnet.services.trees import Memo, as_lines, describe, differences, in_words, signature


def test_describe_trees():
    tree = {"a": jn.spec((2, 3)), "b": [jn.spec((), jnp.int32)]}
    assert describe(tree) == "{'a': (2, 3) float32, 'b': [() int32]}"


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
    assert differences(needed, needed) == {} and as_lines({}, most=1) == []


def test_an_empty_shape_is_not_the_lack_of_an_entry():
    assert differences({"a": ()}, {}) == {"a": ((), None)}
    assert as_lines({"a": (None, ()), "b": ((), (1,))}) == [
        "  a: unknown entry", "  b: expected (), got (1,)"
    ]  # fmt: skip


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
