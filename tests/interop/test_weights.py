"""Arrays by name from mappings and files."""

import json
import re
from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxnet as jn
import jaxnet.interop.torch
from jaxnet.interop.weights import read_weights
from tests.helpers import refused

NET = jn.dense(4, use_bias=False)
X = jn.spec((2, 3))
TABLE = {"kernel": "w"}


def test_arrays_of_all_libraries(tmp_path):
    save_file({"a": np.arange(3.0)}, tmp_path / "a")
    assert read_weights("here", tmp_path / "a")["a"].tolist() == [0, 1, 2]
    found = read_weights("here", {"jax": jnp.ones(2), "numpy": np.float32(3)})
    assert all(isinstance(a, np.ndarray) for a in found.values())


def test_tensors(torch):
    half = torch.nn.Linear(3, 4).to(torch.bfloat16)
    found = read_weights("here", torch.nn.Sequential(half, half).state_dict())
    assert found["0.weight"].dtype == np.float32
    assert found["0.weight"] is found["1.weight"]
    np.testing.assert_array_equal(found["0.bias"], half.bias.detach().float().numpy())


@refused([
    ([1], "here: weights must be a state_dict or dict of arrays by name, or the path of"),
    ({3: np.ones(2)}, "here: weights must have names, got 3"),
    ({"a": [1, 2]}, "here: a must be an array or tensor, got list"),
], TypeError)  # fmt: skip
def test_other_types(weights):
    read_weights("here", weights)


class LazyArrays(Mapping):
    """A mapping that makes each array when it is asked for, and keeps none."""

    def __init__(self, make):
        self.make = make

    def __getitem__(self, name):
        return self.make[name]()

    def __iter__(self):
        return iter(self.make)

    def __len__(self):
        return len(self.make)


SIZE = 64  # large arrays, whose memory is reused at once
MADE = {f"{i}.weight": partial(np.full, (SIZE, SIZE), float(i), np.float32) for i in range(12)}


def test_arrays_that_are_made_when_asked_for_are_told_apart():
    """The memory of one that is freed is given to the next; it is not a shared weight."""
    arrays = read_weights("from_torch", LazyArrays(MADE))
    assert [a[0, 0] for a in arrays.values()] == list(range(12))
    net = jn.serial(*[jn.dense(SIZE, use_bias=False) for _ in range(12)])
    params, _ = jn.interop.torch.from_torch(net, LazyArrays(MADE), jn.spec((1, SIZE)))
    kernels = [params["dense"], *(params[f"dense_{i}"] for i in range(1, 12))]
    assert [float(one["kernel"][0, 0]) for one in kernels] == list(range(12))
    table = {"dense_{i}/kernel": "{i}.weight", "dense/kernel": "0.weight"}
    params, _ = jn.interop.by_names(net, LazyArrays(MADE), jn.spec((1, SIZE)), table)
    assert float(params["dense_7"]["kernel"][0, 0]) == 7


class Refilled(LazyArrays):
    """It reads each array into one buffer, as a reader of large files may."""

    buffer = np.empty((SIZE, SIZE), np.float32)

    def __getitem__(self, name):
        self.buffer[:] = super().__getitem__(name)
        return self.buffer


def test_a_buffer_that_is_refilled_is_copied():
    arrays = read_weights("from_torch", Refilled(MADE))
    assert [a[0, 0] for a in arrays.values()] == list(range(12))


def test_a_tensor_without_values_is_named(torch):
    meta = torch.ones(4, 3, device="meta")
    sparse = torch.eye(3).to_sparse()
    words = "by_names: w must be a dense tensor with values, got one"
    for w in meta, sparse, torch.nn.LazyLinear(3).weight:
        with pytest.raises(TypeError, match=words):
            jn.interop.by_names(NET, {"w": w}, X, TABLE)


def test_views_of_one_array_are_shared_only_if_they_are_equal():
    whole = np.arange(24.0).reshape(4, 6)
    views = {"a": whole[:2], "b": whole[:2], "c": whole[2:], "d": whole[:2].T}
    views["equal"] = whole[:2].copy()
    found = read_weights("from_torch", views | {"e": np.zeros((0, 2)), "f": np.zeros((0, 2))})
    assert found["a"].shape == (2, 6)
    same = {(m, n) for m in found for n in found if m < n and found[m] is found[n]}
    assert same == {("a", "b")}


@pytest.mark.parametrize(("array", "words"), [
    (np.full((3, 4), 127, np.int8), "holds int8 where floats are needed: quantized weights"),
    (np.ones((3, 4), bool), "holds bool where floats are needed"),
    (np.full((3, 4), 1e39), "holds values beyond 3.4e+38, the largest float32"),
], ids=["int8", "bool", "beyond"])  # fmt: skip
def test_weights_that_would_lose_their_values_are_errors(array, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words) + "|must hold numbers"):
        jn.interop.by_names(NET, {"w": array}, X, TABLE)
    with pytest.raises((ValueError, TypeError), match=re.escape(words) + "|must hold floats"):
        jn.interop.torch.from_torch(NET, {"weight": array.T}, X)


def test_infinities_and_the_range_of_the_wanted_dtype():
    params, _ = jn.interop.by_names(NET, {"w": np.full((3, 4), np.inf)}, X, TABLE)
    assert np.isinf(params["kernel"]).all()
    weights = {"w": np.full((3, 4), 1e5, np.float32)}
    with pytest.raises(ValueError, match=r"beyond 6.55e\+04, the largest float16"):
        jn.interop.by_names(NET, weights, X, TABLE, dtype=jnp.float16)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_16_bit_weights_become_float32(tmp_path, dtype):
    w = np.arange(12).reshape(3, 4).astype(dtype)
    save_file({"w": w}, tmp_path / "model.safetensors")
    for weights in ({"w": w}, tmp_path):
        params, _ = jn.interop.by_names(NET, weights, X, TABLE)
        assert params["kernel"].dtype == jnp.float32
        np.testing.assert_array_equal(params["kernel"], np.arange(12).reshape(3, 4))


def sharded(folder, **more):
    """A model in two files with an index, next to the same weights in another format."""
    w = np.ones((3, 4), np.float32)
    b = np.arange(4, dtype=np.float32)
    save_file({"w": w}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": b}, folder / "model-00002-of-00002.safetensors")
    save_file({"other.w": w, "w": 2 * w}, folder / "consolidated.safetensors")
    save_file({"lora_A.weight": w}, folder / "adapter_model.safetensors")
    index = {"w": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index | more}))


def test_the_index_says_which_files_of_a_folder_belong(tmp_path):
    sharded(tmp_path)
    load = partial(jn.interop.by_names, jn.dense(4), tmp_path, X, {"kernel": "w", "bias": "b"})
    params, _ = load()
    assert params["kernel"].sum() == 12
    assert params["bias"].tolist() == [0, 1, 2, 3]
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match='"w" is in .*consolidated.safetensors and in'):
        load()
    weights = {"w": np.full((3, 4), 5, np.float32), "b": np.zeros(4, np.float32)}
    save_file(weights, tmp_path / "model.safetensors")
    assert load()[0]["kernel"].sum() == 60


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", 5, ""])
def test_an_index_that_leads_out_of_its_folder(name, tmp_path):
    sharded(tmp_path, more=name)
    with pytest.raises(ValueError, match="must map names to files of its folder|not an index"):
        jn.interop.by_names(jn.dense(4), tmp_path, X, {})


INDEXES = {"empty": "", "no map": "{}", "number": '{"weight_map": 3}', "deep": "[" * 100_000}


@pytest.mark.parametrize("text", INDEXES.values(), ids=INDEXES)
def test_a_damaged_index(text, tmp_path):
    sharded(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="index.json is not an index of weights"):
        jn.interop.by_names(jn.dense(4), tmp_path, X, {})


def test_a_missing_shard_is_named(tmp_path):
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002"):
        jn.interop.by_names(jn.dense(4), tmp_path, X, {})


def test_a_checkpoint_of_lightning_says_where_the_weights_are():
    checkpoint = {"epoch": 3, "state_dict": {"model.weight": np.ones((4, 3))}}
    with pytest.raises(TypeError, match=re.escape("write weights['state_dict']")):
        jn.interop.torch.from_torch(NET, checkpoint, X)
    params, _ = jn.interop.torch.from_torch(NET, checkpoint["state_dict"], X)
    assert params["kernel"].shape == (3, 4)


def test_outputs_prove_that_layers_are_not_exchanged():
    """Two layers of equal shape, which PyTorch declares in the other order."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 4)).astype(np.float32)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    net = jn.serial(jn.dense(4, use_bias=False), jnp.tanh, jn.dense(4, use_bias=False))
    y = np.tanh(x @ a.T) @ b.T  # a is called first
    right = {"0.weight": a, "1.weight": b}
    crossed = {"0.weight": b, "1.weight": a}
    load = partial(jn.interop.torch.from_torch, net)
    params, _ = load(right, x, outputs=y)
    np.testing.assert_array_equal(params["dense"]["kernel"], a.T)
    load(crossed, x, outputs=y, names={"dense": "1", "dense_1": "0"})
    with pytest.raises(ValueError, match="exchanged: dense, dense_1. If so, pass names"):
        load(crossed, x, outputs=y)
    with pytest.raises(TypeError, match="x must be an array"):
        load(right, jn.spec((3, 4)), outputs=y)
    with pytest.raises(ValueError, match="outputs must be the 1 arrays"):
        load(right, x, outputs=(y, y))
