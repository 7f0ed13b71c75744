"""Messages by their exact words; where they arise is tested in test_compose.py."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from jaxnet.core.messages import abstract, compare, describe, located


def test_describe_trees():
    tree = {"a": jn.spec((2, 3)), "b": [jn.spec((), jnp.int32)]}
    assert describe(tree) == "{'a': (2, 3) float32, 'b': [() int32]}"


def test_compare_lists_all_that_differs():
    needed = {"a": jn.spec((2,)), "b": {"c": jn.spec((3,))}, "d": jn.spec(())}
    given = {"a": jnp.ones(2), "b": {"c": jnp.ones(4)}, "e": jnp.ones(1)}
    with pytest.raises(ValueError) as error:
        compare(("net", "x"), (needed, {}), (given, {}), jn.spec((5, 2)))
    assert str(error.value) == (
        "params do not fit net/x for an input of (5, 2) float32:\n"
        "  net/x/b/c: expected (3,), got (4,)\n"
        "  net/x/d: expected (), got nothing\n"
        "  net/x/e: unknown entry"
    )


def test_compare_lets_other_dtypes_pass():
    needed, given = {"a": jn.spec((2,))}, {"a": jnp.ones(2, jnp.bfloat16)}
    compare(("net",), (needed, {}), (given, {}), None)


def test_abstract_keeps_keys_and_narrows_what_jax_narrows():
    import numpy as np

    found = abstract((np.ones(2), jax.random.key(0)), "net")
    assert found[0].dtype == jnp.float32 and found[1].dtype == jax.random.key(0).dtype


def test_the_innermost_place_is_noted_once():
    with pytest.raises(RuntimeError) as error:
        with located(("net",), jn.spec((2,))), located(("net", "block"), jn.spec((3,))):
            raise RuntimeError
    assert error.value.__notes__ == ["in net/block, input (3,) float32"]


def test_a_path_that_begins_elsewhere_is_put_behind():
    with pytest.raises(RuntimeError) as error:
        with located(("net", "remat"), jn.spec((2,))), located(("block", "conv"), jn.spec((3,))):
            raise RuntimeError
    assert error.value.__notes__ == ["in net/remat/conv, input (3,) float32"]


def test_other_notes_stay():
    with pytest.raises(RuntimeError) as error:
        with located(("net", "remat"), jn.spec((2,))), located(("block", "conv"), jn.spec((3,))):
            raised = RuntimeError()
            raised.add_note("mine")
            raise raised
    assert error.value.__notes__ == ["mine", "in net/remat/conv, input (3,) float32"]


def test_a_missing_batch_axis_is_guessed():
    net = jn.serial(jn.conv(4, 3))
    params, state = net.init(jax.random.key(0), jn.spec((1, 5, 6, 2)))
    with pytest.raises(ValueError, match=r"For a single example, pass x\[None\]"):
        net.apply(params, state, jnp.ones((5, 6, 2)))
    with pytest.raises(ValueError) as raised:
        net.apply(params, state, jnp.ones((1, 5, 6, 3)))
    assert not any("x[None]" in note for note in raised.value.__notes__)
