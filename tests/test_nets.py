"""Arguments of functions of a whole net."""

import jax.numpy as jnp
import pytest

import jaxnet as jn
from jaxnet.nets import check_net


@pytest.mark.parametrize(("change", "words"), [
    ({"net": 3}, "a: net must be a layer"),
    ({"params": None}, "a: params must be the dict that init returns, got NoneType"),
    ({"state": [1]}, "a: state must be the dict that init returns, got list"),
    ({"x": None}, "a: the input must be an array, .* got None"),
    ({"x": {}}, "a: the input must be an array, .* got {}"),
    ({"x": (jnp.ones(2), "b")}, "a: the input must be an array, .* got str in it"),
], ids=str)  # fmt: skip
def test_nets_and_inputs_of_another_kind(change, words):
    given = {"net": jnp.tanh, "params": {}, "state": {}, "x": {"a": jn.spec((2, 3))}}
    assert check_net("a", *given.values())[0].kind == "function"
    with pytest.raises(TypeError, match=words):
        check_net("a", *(given | change).values())
