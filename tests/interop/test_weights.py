"""Arrays by name from mappings and files."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxnet.interop.weights import read_weights


def test_arrays_of_all_libraries(tmp_path):
    save_file({"a": np.arange(3.0)}, tmp_path / "a")
    assert read_weights("here", tmp_path / "a")["a"].tolist() == [0, 1, 2]
    found = read_weights("here", {"jax": jnp.ones(2), "numpy": np.float32(3)})
    assert all(isinstance(a, np.ndarray) for a in found.values())


def test_shared_memory():
    a = np.arange(12.0).reshape(3, 4)
    found = read_weights("here", {"a": a, "view": a[:], "part": a[:2], "equal": a.copy()})
    assert found["view"] is found["a"]
    assert found["part"] is not found["a"] and found["equal"] is not found["a"]
    assert found["part"].shape == (2, 4)


def test_tensors():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")  # torch 2.13.0
    half = torch.nn.Linear(3, 4).to(torch.bfloat16)
    tied = torch.nn.Sequential(half, half).state_dict()
    found = read_weights("here", tied)
    assert found["0.weight"].dtype == np.float32 and found["0.weight"] is found["1.weight"]
    np.testing.assert_array_equal(found["0.bias"], half.bias.detach().float().numpy())


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1], "here: weights must be a state_dict or the path of a safetensors file, got list"),
        ({3: np.ones(2)}, "here: weights must have names, got 3"),
        ({"a": [1, 2]}, "here: weights must hold arrays or tensors, got list for a"),
    ],
)
def test_other_types(weights, words):
    with pytest.raises(TypeError, match=words):
        read_weights("here", weights)
