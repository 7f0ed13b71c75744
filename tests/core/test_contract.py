"""The contract of a leaf: what its constructor checks, and what plain functions become."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from jaxnet.core import as_layer, param_dtype
from jaxnet.core.contract import Memo, function_name, signature

KEY = jax.random.key(0)


def test_kind_is_the_name_by_default():
    layer = jn.Layer(lambda key, x: ({}, {}), lambda p, s, x, *, key=None, train=False: (x, s), "a")
    assert (layer.kind, layer.inside) == ("a", None)
    named = jn.stateless(lambda key, x: {}, lambda p, x: x, name="b", kind="c")
    assert (named.name, named.kind) == ("b", "c")


def test_a_leaf_checks_its_own_params():
    layer = jn.Layer(
        lambda key, x: ({"w": jnp.ones(3)}, {}),
        lambda p, s, x, *, key=None, train=False: (x * p["w"], s),
        "mine",
    )
    with pytest.raises(ValueError, match=r"mine/w: expected \(3,\), got \(1,\)"):
        layer.apply({"w": jnp.ones(1)}, {}, jnp.ones((2, 3)))  # would broadcast silently


@pytest.mark.parametrize("name", ["", "a/b", 3])
def test_names_are_words(name):
    with pytest.raises(ValueError, match="a word without '/'"):
        jn.stateless(lambda key, x: {}, lambda p, x: x, name)


def test_functions_become_layers():
    half = functools.partial(jnp.multiply, 0.5)
    assert [as_layer(f).name for f in (jnp.tanh, half, lambda x: x)] == [
        "tanh",
        "multiply",
        "lambda",
    ]
    assert as_layer(half).kind == "function"
    assert function_name(half) == "multiply"
    with pytest.raises(TypeError, match="expected a layer or a function, got list"):
        as_layer([jn.dense(3)])  # type: ignore[arg-type]


def test_param_dtype_is_float32_or_wider():
    dtypes = [jnp.uint8, jnp.bfloat16, jnp.float32, jnp.complex64]
    found = [param_dtype(jn.spec((2,), dtype)) for dtype in dtypes]
    assert found == [jnp.float32, jnp.float32, jnp.float32, jnp.complex64]


def test_a_memo_drops_its_oldest_entry():
    memo = Memo()
    for i in range(Memo.size + 1):
        memo[i] = i
    assert list(memo) == list(range(1, Memo.size + 1))


def test_signatures_tell_shapes_and_dtypes_apart():
    specs = [jn.spec((2, 3)), jn.spec((3, 2)), jn.spec((2, 3), jnp.int32), (jn.spec((2, 3)),)]
    assert len({signature(x) for x in specs}) == 4
