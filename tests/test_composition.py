"""Composition: in series, side by side, around a shortcut."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.nets import check_net
from jaxnet.tools import at_least, read_sequence
from tests.helpers import KEY, jit_apply


def scale(value=2.0, name="scale"):
    return jn.stateless(lambda key, x: {"w": jnp.float32(value)}, lambda p, x: p["w"] * x, name)


def test_parallel_of_a_list():
    x = jnp.ones((2, 3))
    (a, b), _ = jit_apply(jn.parallel(jnp.negative, jnp.abs), {}, {}, [x, -2 * x])
    assert (a == -1).all()
    assert (b == 2).all()


PAIR = (jnp.ones(3), jnp.ones(3))
WITH_LENGTHS = (jnp.ones((2, 3, 4)), jnp.array([1, 3]))


@pytest.mark.parametrize("x", [PAIR, WITH_LENGTHS], ids=["pair", "lengths"])
def test_a_residual_of_tuples_is_refused(x):
    """Python would join them, and a sum of each part would double the lengths of sequences."""
    with pytest.raises(ValueError, match="residual: expected two arrays of equal shapes, got"):
        jn.residual(lambda x: x).apply({}, {}, x)


def test_parallel_of_the_wrong_number_of_inputs():
    with pytest.raises(ValueError, match="expected one input per layer, 2, got a tuple of 3"):
        jn.parallel(jnp.sin, jnp.cos).apply({}, {}, (jnp.ones(2),) * 3)


def test_residual_never_broadcasts():
    words = r"got \(2, 1\) from the layer and \(2, 3\) from the shortcut"
    with pytest.raises(ValueError, match=words):
        jn.residual(lambda x: x[:, :1]).init(KEY, jn.spec((2, 3)))


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
    jn.pretrained.save_adapter(folder, net, params)
    return jn.pretrained.load_adapter(folder, net, params)


NET = jn.models.decoder(11, depth=1, width=8, heads=2)
IDS = jnp.ones((1, 3), int)
SMALL, LORA = jn.quantized(NET), jn.lora(NET, 2)
DENSE = jn.dense(4)
NAMES = {"kernel": "weight", "bias": "bias"}


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


def halves(times: int) -> jn.Layer:
    at_least("halves", "times", times)

    def forward(m, given):
        sequence = read_sequence(given, "halves")
        return sequence.write(sequence.x / 2**times)

    return jn.compose(forward, name="halves")


def test_a_layer_of_your_own_checks_and_reads_as_ours_do():
    x, lengths = jnp.ones((2, 3, 4)), jnp.array([3, 1])
    (y, kept), _ = halves(2).apply({}, {}, (x, lengths))
    np.testing.assert_array_equal(y[0], np.full((3, 4), 0.25))
    np.testing.assert_array_equal(y[1, 1:], 0)
    np.testing.assert_array_equal(kept, lengths)
    with pytest.raises(ValueError, match="halves: times must be at least 1, got 0"):
        halves(0)
    with pytest.raises(ValueError, match=r"halves: .*\(batch, time, features\)"):
        halves(1).init(jax.random.key(0), jn.spec((2, 3)))


def test_types_of_data_and_params():
    (x, y), _ = jn.data.digits()
    assert typing.get_origin(jn.typing.Pair) is tuple
    kinds = typing.get_args(jn.typing.Pair)
    assert all(isinstance(a, of) for a, of in zip((x, y), kinds, strict=True))
    for kind in (jn.typing.Params, jn.typing.State):
        assert typing.get_origin(kind) is dict


def test_functions_are_annotated_with_them():
    assert jn.typing.Augmentation in typing.get_type_hints(jn.data.on_inputs).values()
