"""Files of llama.cpp whose beginning is false: an error at once, and no other numbers."""

import struct
import time

import numpy as np
import pytest

from jaxnet.pretrained import gguf as files
from jaxnet.pretrained import load
from jaxnet.pretrained.gguf_header import (
    Header,
    Weights,
    check_places,
    read_entries,
    read_header,
    read_tensors,
)
from tests.helpers import HANGS
from tests.pretrained.test_gguf import blocks, written

TYPES = ["F32", "F16", "BF16", "F64", "I8", "I64", *files.KINDS, "IQ2_XXS", "IQ3_S", "TQ1_0"]


@pytest.fixture
def file(tmp_path):
    written(tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def refused(path, data):
    """The error of a file with these bytes."""
    path.write_bytes(data)
    began = time.monotonic()
    with pytest.raises(ValueError, match="^(load|by_names): ") as told:
        load(path)
    assert time.monotonic() - began < HANGS
    return str(told.value)


def test_weights_follow_each_other_in_a_file(file):
    header = read_header(file)
    assert header.alignment == 32 and header.start % 32 == 0
    assert header.weights[0].offset == 0
    assert {"token_embd.weight", "output_norm.weight"} <= {each.name for each in header.weights}
    gguf = pytest.importorskip("gguf")
    tensors = gguf.GGUFReader(file).tensors
    assert [each.name for each in header.weights] == [each.name for each in tensors]


def test_entries_are_those_of_the_package(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    numbers = {
        "uint8": 255, "int8": -128, "uint16": 2**16 - 1, "int16": -(2**15), "uint32": 2**32 - 1,
        "int32": -(2**31), "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 0.1,
        "bool": True, "string": "▁雨", "array": ["a", "", "雨"],
    }  # fmt: skip
    for name, value in numbers.items():
        getattr(writer, f"add_{name}")(f"an.entry.{name}", value)
    for i, values in enumerate(([1, -2], [0.5, 1.5], [True, False])):
        writer.add_array(f"a.list.{i}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = gguf.GGUFReader(tmp_path / "a.gguf").fields
    wanted = {name: field.contents() for name, field in fields.items()}
    found = read_entries(tmp_path / "a.gguf")
    assert found == {name: value for name, value in wanted.items() if not name.startswith("GGUF.")}
    assert files.opened("load", tmp_path / "a.gguf") == (found, [])
    assert found["a.list.2"] == [True, False] and found["an.entry.bool"] is True


def test_weights_of_every_type_are_those_of_the_package(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    rng = np.random.default_rng(0)
    for how in TYPES:
        kind = gguf.GGMLQuantizationType[how]
        if how in ("F32", "F16", "F64", "I8", "I64"):
            numbers = {"F": "float", "I": "int"}[how[0]] + how[1:]
            data = rng.uniform(-100, 100, (2, 3, 5)).astype(numbers)
        else:
            data = blocks((6, 512), how)
        writer.add_tensor(how, data, raw_dtype=kind)
    writer.add_tensor("a line", np.arange(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = files.opened("load", tmp_path / "a.gguf")[1]
    wanted = gguf.GGUFReader(tmp_path / "a.gguf").tensors
    assert [each.name for each in found] == [*TYPES, "a line"]
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.name, ours.tensor_type) == (theirs.name, theirs.tensor_type)
        assert [*ours.shape] == theirs.shape.tolist()
        if ours.name in ("F64", "I8", "I64"):  # which are refused
            assert ours.data.tobytes() == theirs.data.tobytes()
        else:
            assert ours.data.dtype == theirs.data.dtype
            np.testing.assert_array_equal(ours.data, theirs.data)


def test_the_package_does_not_read_the_file(file, monkeypatch):
    """Its reader takes 17 seconds for the 262,144 tokens of Gemma."""
    monkeypatch.setattr("gguf.GGUFReader", None)
    load(file)


@pytest.mark.parametrize("version", [1, 4, 2**31])
def test_another_version_is_told(version, file):
    data = bytearray(file.read_bytes())
    data[4:8] = struct.pack("<I", version)
    assert "its version must be one of (2, 3)" in refused(file, data)


def test_an_array_of_more_entries_than_the_file_has_bytes_is_told_at_once(file):
    """2**60 of them were read one by one."""
    data = bytearray(file.read_bytes())
    name = b"a.list"
    entry = struct.pack("<Q", len(name)) + name + struct.pack("<IIQ", 9, 4, 2**60)
    data[16:24] = struct.pack("<Q", struct.unpack("<Q", data[16:24])[0] + 1)
    assert "are announced" in refused(file, bytes(data[:24]) + entry + bytes(data[24:]))


def test_every_lie_about_weights_is_told(file):
    """A type, a shape or an offset that lies gave other numbers."""
    data = file.read_bytes()
    header = read_header(file)
    rng = np.random.default_rng(0)
    first = data.index(header.weights[0].name.encode()) - 8
    tried = 0
    for place in rng.choice(np.arange(first, header.start - 32), 150, replace=False):
        other = bytearray(data)
        other[place] ^= 1 << rng.integers(8)
        if other != data:
            refused(file, bytes(other))
            tried += 1
    assert tried == 150


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.7, 0.999])
def test_a_cut_file_is_told(share, file):
    data = file.read_bytes()
    refused(file, data[: int(len(data) * share)])


def test_what_lies_elsewhere_is_named():
    weights = [Weights("a", (3,), 0, 0), Weights("b", (3,), 0, 64)]
    with pytest.raises(ValueError, match="'b' begin at byte 64, and those before end at 32"):
        check_places(Header(weights, 64, 32, {}), {"a": 12, "b": 12}, 200)
    with pytest.raises(ValueError, match="it ends within the weights 'a'"):
        check_places(Header(weights[:1], 64, 32, {}), {"a": 12}, 70)


def test_weights_that_cannot_be_are_named(file):
    gguf = pytest.importorskip("gguf")
    read = read_header(file)
    first = read.weights[0]

    def told(*weights):
        with pytest.raises(ValueError) as error:
            read_tensors(file, read._replace(weights=[*weights]), gguf)
        return str(error.value)

    assert (
        told(first._replace(type=4))
        == f"the weights {first.name!r} have the type 4, which is not known"
    )
    assert told(first, first) == "two of its weights have one name"
    odd = first._replace(type=gguf.GGMLQuantizationType.Q4_0, shape=(40, 2))
    assert told(odd).endswith("(Q4_0) must have a multiple of 32 columns, got 40")
    assert told(first._replace(shape=(2**40,))).startswith("it ends within the weights")


@pytest.mark.parametrize("name", ["general.architecture", "llama.block_count", "output_norm"])
def test_names_must_be_text(name, file):
    data = file.read_bytes()
    assert "can't decode byte 0xff" in refused(
        file, data.replace(name.encode(), b"\xff" * len(name))
    )


@pytest.mark.parametrize("alignment", [0, 24, 2**31])
def test_an_alignment_that_cannot_be_is_told(alignment, file):
    data = bytearray(file.read_bytes())
    name = b"general.alignment"
    entry = struct.pack("<Q", len(name)) + name + struct.pack("<II", 4, alignment)
    data[16:24] = struct.pack("<Q", struct.unpack("<Q", data[16:24])[0] + 1)
    told = refused(file, bytes(data[:24]) + entry + bytes(data[24:]))
    assert "must be a power of two" in told or "it ends within the weights" in told
