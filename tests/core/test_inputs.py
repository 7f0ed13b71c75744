"""Several inputs of a layer, in order or by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from tests.helpers import KEY


def denoise(m, x, t, label=None, scale=2.0):
    y = m(jn.dense(6), x) + scale * m(jn.dense(6, name="time"), t)
    return y if label is None else y + m(jn.embedding(3, 6), label)


LABELS, TIMES = jnp.array([0, 1, 2, 0]), jnp.ones((4, 2))


def test_inputs_come_as_a_tuple_by_name_or_in_a_model():
    net, x = jn.compose(denoise), jnp.ones((4, 8))
    params, state = net.init(KEY, {"t": TIMES, "x": x, "label": LABELS})
    jax.tree.map(np.testing.assert_array_equal, params, net.init(KEY, (x, TIMES, LABELS))[0])
    y, _ = net.apply(params, state, (x, TIMES, LABELS))
    calls = (
        lambda m, x: m(net, x, TIMES, label=LABELS),
        lambda m, x: m(net, x, TIMES, LABELS),
        lambda m, x: m(net, t=TIMES, x=x, label=LABELS),
        lambda m, x: m(jn.remat(net), x, t=TIMES, label=LABELS),
        lambda m, x: m(jn.serial(net, jnp.tanh, name="denoise"), x, TIMES, label=LABELS),
    )
    for i, call in enumerate(calls):
        model = jn.compose(call, name="model")
        given, state = model.init(KEY, x)
        same = {"denoise": {"denoise": params} if i == 4 else params}
        found, _ = model.apply(same, state, x)
        np.testing.assert_allclose(found, jnp.tanh(y) if i == 4 else y, 1e-6)
    params, state = net.init(KEY, (x, TIMES))
    assert sorted(params) == ["dense", "time"]
    for given in ((x, TIMES), (x, TIMES, None), {"x": x, "t": TIMES}):
        assert net.apply(params, state, given)[0].shape == (4, 6)


@pytest.mark.parametrize(("call", "words"), [
    (lambda m, net, x: m(net, x), r"needs the inputs \(x, t, label\), got .* without t. Write net"),
    (lambda m, net, x: m(net, x, lable=x), "has no input of that name: lable; write label="),
    (lambda m, net, x: m(net, x, x, x, x), r"denoise takes \(x, t, label\), got 4 inputs"),
    (lambda m, net, x: m(net, x, x=x), "got its input x twice"),
    (lambda m, net, x: m(net, (x, x, x, x)), r"has the inputs \(x, t, label\), got 4"),
    (lambda m, net, x: m(net, {"x": x, "time": x}), "has no input of that name: time"),
    (lambda m, net, x: m(jn.dense(3), x, mask=x), "one input without a name, got 1 inputs, mask"),
])  # fmt: skip
def test_wrong_inputs_are_answered(call, words):
    net = jn.compose(denoise)
    with pytest.raises(TypeError, match=words):
        jn.compose(lambda m, x: call(m, net, x), name="model").init(KEY, jnp.ones((4, 8)))


def test_attention_names_its_inputs():
    attention, x, memory = jn.multi_head_attention(2), jnp.ones((2, 3, 8)), jnp.ones((2, 5, 8))
    params, state = attention.init(KEY, x)
    mask = jnp.array([5, 2])
    by_name = jn.compose(lambda m, x: m(attention, x, memory=memory, mask=mask))
    y, _ = by_name.apply({"multi_head_attention": params}, state, x)
    np.testing.assert_array_equal(y, attention.apply(params, state, (x, mask, memory))[0])
