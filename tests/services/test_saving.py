"""Files of tensors: a plain header, and damage that is named."""

import json
import re
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn


def test_the_header_is_plain(tmp_path):
    """8 bytes of length, then JSON: a file can be read without any library."""
    jn.save(tmp_path / "a", {"p": {"w": jnp.ones((2, 3))}}, config={"x": 1})
    raw = (tmp_path / "a").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert (8 + struct.unpack("<Q", raw[:8])[0]) % 8 == 0 < len(raw)  # arrays may be mapped
    assert header["p/w"]["shape"] == [2, 3]
    assert header["p/w"]["dtype"] == "F32"
    assert json.loads(header["__metadata__"]["config"]) == {"x": 1}
    (tmp_path / "a").write_bytes(raw.replace(b'"shape":[2,3]', b'"shape":[3,2]'))
    with pytest.raises(ValueError, match="a was changed after it was saved"):
        jn.load(tmp_path / "a")


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
DAMAGED = {
    "an empty name beside others": {"": ONE, "a": ONE | {"data_offsets": [4, 8]}},
    "an empty part of a name": {"a//b": ONE, "c": ONE | {"data_offsets": [4, 8]}},
    "65 axes": {"a": ONE | {"shape": [1] * 65}},
    "huge": {"a": ONE | {"shape": [2**62, 2**62]}},
    "negative": {"a": ONE | {"shape": [-1]}},
    "deep metadata": {"__metadata__": {"config": "[" * 100_000}, "a": ONE},
    "notes of another kind": {"__metadata__": {"jaxnet": "[[1]]"}, "a": ONE},
    "config of no JSON": {"__metadata__": {"config": "{broken"}, "a": ONE},
    "no JSON": b"{",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named(tmp_path, name):
    header = DAMAGED[name]
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    (tmp_path / "net").write_bytes(struct.pack("<Q", len(words)) + words + b"\0" * 8)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/net")):
        jn.load(tmp_path / "net")


def test_bytes_that_flip_are_seen(tmp_path):
    """Each of 300 damaged files is an error that names it; no array comes back changed."""
    file, rng = tmp_path / "net", np.random.default_rng(0)
    tree = {"a": np.arange(6.0), "key": jax.random.key(0), "none": None, "half": jnp.bfloat16(3)}
    jn.save(file, tree, config={"ä": [1.5, "text"]})
    whole = file.read_bytes()
    for _ in range(300):
        words = bytearray(whole)
        if rng.random() < 0.3:
            words = words[: rng.integers(0, len(words))]
        for place in rng.integers(0, max(len(words), 1), rng.integers(1, 4)) if words else ():
            words[place] ^= 1 << rng.integers(8)
        file.write_bytes(words)
        if bytes(words) != whole:
            with pytest.raises(ValueError, match=re.escape(str(file))):
                jn.load(file)


def test_files_of_eight_bit_floats_and_of_pytorch(tmp_path):
    header = b'{"w":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with pytest.raises(ValueError, match="a: w holds F8_E4M3, which safetensors cannot read for"):
        jn.load(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("a/data.pkl", b"")
    with pytest.raises(ValueError, match="a.pt is not a safetensors file.*weights of PyTorch"):
        jn.load(tmp_path / "a.pt")
