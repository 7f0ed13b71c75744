"""The axes of kernels: copies, inputs and outputs."""

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from jaxnet.services.trees import flat
from jaxnet.transforms.kernels import Axes, axes_of, replaced

KEYS_MAY_REPEAT = True  # nothing is drawn
KEY = jax.random.key(0)


@pytest.mark.parametrize(("make", "x", "path", "axes"), [
    (lambda: jn.dense(4), jn.spec((2, 3)), "kernel", Axes(0, 1)),
    (lambda: jn.conv(4, 3), jn.spec((2, 8, 6, 3)), "kernel", Axes(0, 3)),
    # All sizes equal, so only the layer tells inputs from outputs.
    (lambda: jn.multi_head_attention(4), jn.spec((4, 4, 16)), "query/kernel", Axes(0, 1)),
    (lambda: jn.multi_head_attention(4, head_size=4), jn.spec((4, 4, 4)), "out/kernel", Axes(0, 2)),
    (lambda: jn.embedding(4, 4), jn.spec((4, 4), jnp.int32), "embedding", Axes(0, 1, table=True)),
    (lambda: jn.ensemble(jn.repeat(jn.multi_head_attention(2), 2), 2), jn.spec((2, 5, 8)),
     "value/kernel", Axes(2, 1)),
    (lambda: jn.serial(jn.repeat(jn.dense(3), 2), jn.repeat(jn.dense(3), 2)), jn.spec((2, 3)),
     "dense_1/kernel", Axes(1, 1)),
    (lambda: jn.ensemble(jn.cast(jn.embedding(4, 4), jnp.bfloat16), 2), jn.spec((4,), jnp.int32),
     "embedding", Axes(1, 1, table=True)),
    (lambda: jn.gru(4), jn.spec((2, 5, 3)), "recurrent_kernel", Axes(0, 1)),
])  # fmt: skip
def test_axes_of_kernels(make, x, path, axes):
    layer = make()
    params, _ = jax.eval_shape(layer.init, KEY, x)
    assert axes_of(layer, {path: dict(flat(params))[path]}, x) == {path: axes}


def test_a_pair_of_functions_has_its_outputs_last():

    def init(key, x):
        return ({"inner": {"kernel": jnp.ones((2, 3, 4))}}, {})

    pair = jn.Layer(init, lambda params, state, x, *, key=None, train=False: (x, state), "pair")
    found = axes_of(jn.serial(pair), {"pair/inner/kernel": jn.spec((2, 3, 4))}, jn.spec((2, 3)))
    assert found == {"pair/inner/kernel": Axes(0, 2)}


def test_entries_are_replaced_at_any_depth():
    tree = {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert replaced(tree, {"a/b": 4, "e": {"f": 5}}) == {"a": {"b": 4, "d": 2}, "e": {"f": 5}}
