"""Integers of files of llama.cpp, kept as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.interop import load
from jaxnet.models.published.gguf import Tensors
from tests.models.published.test_gguf import IDS, written


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


@pytest.mark.parametrize("integers", [False, True])
def test_a_file_is_read_array_by_array(integers, tmp_path, monkeypatch):
    written(tmp_path / "model.gguf", "llama", "Q4_1")
    steps, read = [], Tensors.__getitem__
    noted = lambda self, name: steps.append("read") or read(self, name)  # noqa: E731
    monkeypatch.setattr(Tensors, "__getitem__", noted)
    put = lambda path, array: steps.append("put") or array  # noqa: E731
    load(tmp_path / "model.gguf", integers=integers, put=put)
    assert len(steps) > 20 and steps == ["read", "put"] * (len(steps) // 2)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_a_file_without_integers_keeps_none(tmp_path):
    written(tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="integers=True needs a .gguf file with Q4_0, Q4_1"):
        load(tmp_path / "model.gguf", integers=True)
