"""Integers of files of llama.cpp, kept as they are."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.pretrained import load
from jaxnet.pretrained.gguf import KINDS, Tensors
from tests.pretrained.test_gguf import IDS, blocks, written


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Q8_0", "Q4_0", "Q4_1"])
def test_integers_are_those_of_the_file(how, tmp_path):
    gguf = pytest.importorskip("gguf")
    written(tmp_path / "model.gguf", "llama", how)
    net, params, state = load(tmp_path / "model.gguf", integers=True)
    plain, floats, _ = load(tmp_path / "model.gguf")
    jax.tree.map(np.testing.assert_array_equal, jn.merge(net, params), floats)
    for ids in (IDS, jnp.tile(IDS, (1, 2))):  # few rows and many
        found, _ = net.apply(params, state, ids)
        np.testing.assert_allclose(found, plain.apply(floats, state, ids)[0], rtol=0, atol=1e-4)
    files = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    small, data = params["block_1"]["mlp_in"]["kernel"], files["blk.1.ffn_gate.weight"].data
    assert sum(leaf.nbytes for leaf in small.values()) == data.nbytes
    scales = data.reshape(96, 2, -1)[..., :2].copy().view(np.float16)[..., 0]
    np.testing.assert_array_equal(small["scale16"], scales.T)
    assert isinstance(params["block_1"]["attention"]["out"]["kernel"], jax.Array)  # 16 per head
    assert shapes(net.init(jax.random.key(0), IDS)[0]) == shapes(params)


@pytest.mark.parametrize("how", KINDS)
def test_parts_make_the_weights(how):
    """Exact where the file has the scales, and else with scales rounded to float16."""
    gguf = pytest.importorskip("gguf")
    kind = KINDS[how]
    type_of = getattr(gguf.GGMLQuantizationType, how)
    tensor = SimpleNamespace(name="blk.0.ffn_up.weight", tensor_type=type_of, shape=[512, 1030])
    tensor.data = blocks((1030, 512), how)
    weights = Tensors([tensor], {}, "qwen3")
    (name,) = weights
    numbers, *floats = (weights[f"{name}.{part}"] for part in ("numbers", *kind.floats))
    assert numbers.dtype == np.int8
    assert {a.dtype for a in floats} == {np.dtype("float16")}
    assert int(numbers.max()) - int(numbers.min()) >= (240 if kind.table or how == "Q8_0" else 3)
    assert kind.bits == 8 or -8 <= numbers.min() <= numbers.max() <= 7
    scale, *lowest = (np.repeat(a.astype(np.float32), kind.group, -1) for a in floats)
    product = (numbers - np.float32(kind.least)) * scale
    least = lowest[0] if lowest else 0
    whole = gguf.GGML_QUANT_SIZES[type_of][0] == kind.group
    within = 0 if whole else (abs(product) + abs(least)) * 2.0**-11 + 32 * 2.0**-24
    assert (abs(product + least - weights[name]) <= within).all()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "bits"), [("Q4_K_M", 5), ("Q6_K", 9), ("Q2_K", 6)])
def test_blocks_of_256_are_read(how, bits, tmp_path):
    written(tmp_path / "model.gguf", "llama", how, size=512)
    net, params, state = load(tmp_path / "model.gguf", integers=True)
    plain, floats, _ = load(tmp_path / "model.gguf")
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), jn.merge(net, params), floats
    )
    for ids in (IDS, jnp.tile(IDS, (1, 2))):
        found = net.apply(params, state, ids)[0]
        wanted = plain.apply(floats, state, ids)[0]
        assert abs(found - wanted).max() < 2e-3 * abs(wanted).max()
    small = params["block_1"]["mlp_in"]["kernel"]
    assert 8 * sum(leaf.nbytes for leaf in small.values()) == bits * 512 * 768
    assert shapes(net.init(jax.random.key(0), IDS)[0]) == shapes(params)


@pytest.mark.fast_cases("False")
@pytest.mark.parametrize("integers", [False, True])
def test_a_file_is_read_array_by_array(integers, tmp_path, monkeypatch):
    written(tmp_path / "model.gguf", "llama", "Q4_1")
    steps, read = [], Tensors.__getitem__

    def noted(self, name):
        steps.append("read")
        return read(self, name)

    monkeypatch.setattr(Tensors, "__getitem__", noted)

    def put(path, array):
        steps.append("put")
        return array

    load(tmp_path / "model.gguf", integers=integers, put=put)
    assert len(steps) > 20
    assert steps == ["read", "put"] * (len(steps) // 2)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.mark.slow
def test_a_file_without_integers_keeps_none(tmp_path):
    written(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="integers=True needs a .gguf file with one of IQ4_"):
        load(tmp_path / "model.gguf", integers=True)
