"""Arguments of functions of a whole net."""

import jax
import jax.numpy as jnp
import numpy as np
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


def adapter(net, params, folder):
    jn.interop.save_adapter(folder, net, params)
    return jn.interop.load_adapter(folder, net, params)


NET, IDS = jn.models.decoder(11, depth=1, width=8, heads=2), jnp.ones((1, 3), int)
SMALL, LORA = jn.quantized(NET), jn.lora(NET, 2)
DENSE, NAMES = jn.dense(4), {"kernel": "weight", "bias": "bias"}


@pytest.mark.fast_cases("adapter", "merge lora")
@pytest.mark.parametrize(("net", "use"), [
    (SMALL, lambda net, p, _: jn.merge(net, p)),
    (NET, lambda _, p, __: jn.quantize(SMALL, p, IDS)),
    (LORA, lambda net, p, _: jn.merge(net, p)),
    (LORA, adapter),
    (NET, lambda net, p, _: jn.decoding.generate(net, p, IDS, jax.random.key(0), length=4)),
    (DENSE, lambda net, p, _: jn.interop.to_names(net, p, {}, jn.spec((1, 3)), NAMES)),
], ids=["merge int8", "quantize", "merge lora", "adapter", "generate", "to_names"])  # fmt: skip
def test_params_in_another_byte_order_are_the_same(net, use, tmp_path):
    """As from a file of another machine; results are written and read, so bytes count too."""
    params, _ = net.init(jax.random.key(0), jn.spec((1, 3)) if net is DENSE else IDS)
    swapped = jax.tree.map(lambda a: np.asarray(a).astype(a.dtype.newbyteorder(">")), params)
    wanted, found = (use(net, p, tmp_path / str(i)) for i, p in enumerate((params, swapped)))
    for a, b in zip(*map(jax.tree.leaves, (wanted, found)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.asarray(b).dtype.isnative
