"""Datasets from strangers: nothing is imported or read outside, and damage is named."""

import gzip
import json
import shutil
import sys

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.data import cifar10, mnist, prepare, tfds
from jaxnet.data.builders import cifar10 as cifar10_files
from jaxnet.data.builders import mnist as mnist_files
from jaxnet.data.builders import multi30k


def features(change):
    return "features.json", lambda words: json.dumps(json.loads(words) | change)


def legacy(space="", **content):
    """Features in the old form of TFDS: JSON in a string of JSON."""
    return {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "jsonFeature": {"json": space + json.dumps(content)},
    }


def info(**change):
    return "dataset_info.json", lambda words: json.dumps(json.loads(words) | change)


def split(**change):
    def changed(words):
        info = json.loads(words)
        info["splits"][0] |= change
        return json.dumps(info)

    return "dataset_info.json", changed


TFDS = "tensorflow_datasets"
STRANGE = {"type": "antigravity.Feature", "content": {}}


@pytest.mark.parametrize(("file", "change", "words"), [
    (*features({"pythonClassName": "antigravity.Feature"}), "names 'antigravity.Feature'"),
    (*features({"pythonClassName": "tensorflow_datasets_.x.Feature"}), "is not a class of Tensor"),
    (*features(STRANGE), "names 'antigravity.Feature'"),
    (*features(legacy(a=STRANGE)), "names 'antigravity.Feature'"),
    (*features(legacy(" ", a=STRANGE)), "names 'antigravity.Feature'"),
    (*features(legacy("\n\t", a=STRANGE)), "names 'antigravity.Feature'"),
    (*features({"type": TFDS + "/../a.Feature"}), "names 'tensorflow_datasets/../a.Feature'"),
    (*info(features={"pythonClassName": "antigravity.Feature"}), "names 'antigravity.Feature'"),
    (*info(features=legacy(" ", a=STRANGE)), "names 'antigravity.Feature'"),
    ("metadata.json", lambda words: '{"default_config_name": "../b"}', r"names '\.\./b'"),
    (*split(filepathTemplate="../../secret"), r"names '../../secret'.* or a file in this folder"),
    (*split(filepathTemplate="/etc/passwd"), "names '/etc/passwd'"),
    (*split(name="..\\train"), r"names '\.\..*train'"),
    ("features.json", lambda words: words[:9], "features.json is damaged: "),
    ("features.json", lambda words: "[]", " is damaged: Python class name must"),
    ("dataset_info.json", lambda words: "{}", " is damaged: Invalid version"),
    ("orl_faces-train.array_record-00000-of-00001", lambda words: "", "2.0.0 is damaged: "),
])  # fmt: skip
def test_what_is_not_read(file, change, words, tfds_data_dir, tmp_path):
    shutil.copytree(f"{tfds_data_dir}/orl_faces", tmp_path / "orl_faces")
    file = tmp_path / "orl_faces/2.0.0" / file
    before = file.read_text(errors="replace") if file.exists() else ""
    file.write_text(change(before))
    with pytest.raises(ValueError, match=f"^tfds.load: {tmp_path}/orl_faces.*{words}"):
        jn.data.tfds.load("orl_faces", "train[:2]", data_dir=tmp_path)
    assert "antigravity" not in sys.modules


def test_a_configuration_in_a_folder_of_a_folder(tfds_data_dir, tmp_path):
    place = tmp_path / "orl_faces"
    shutil.copytree(f"{tfds_data_dir}/orl_faces/2.0.0", place / "a/b/2.0.0")
    (place / "a/b/2.0.0/features.json").write_text(json.dumps(STRANGE))
    with pytest.raises(ValueError, match="a/b/2.0.0/features.json names 'antigravity.Feature'"):
        jn.data.tfds.load("orl_faces", "train[:2]", data_dir=tmp_path)


def test_prepared_and_read_back(site, tmp_path, monkeypatch):
    pairs = site.multi30k(monkeypatch)
    prepare.prepare("test", "multi30k", tmp_path)
    for part, expected in pairs.items():
        data = tfds.load("multi30k", part, data_dir=tmp_path)
        assert set(data) == {"de", "en"}
        assert sorted(zip(data["de"], data["en"], strict=True)) == sorted(expected)


def test_files_of_different_lengths(site, tmp_path, monkeypatch):
    site.multi30k(monkeypatch)
    sha256 = site.put("val.de.gz", gzip.compress(b"eins\nzwei\n"))
    monkeypatch.setitem(multi30k.SHA256, "val.de.gz", sha256)
    with pytest.raises(ValueError, match="multi30k"):
        prepare.prepare("test", "multi30k", tmp_path / "new")
    assert not (tmp_path / "new").exists()


DRAW = np.random.default_rng(0)


def rows(images, labels):
    """The examples, in an order of their own."""
    pairs = zip(labels, images, strict=True)
    return sorted((int(label), np.asarray(image).tobytes()) for label, image in pairs)


def same(found, images, labels):
    x, y = found
    assert rows(np.rint(255 * x).astype(np.uint8), y) == rows(images, labels)


def test_digits_prepared_and_read_back(site, tmp_path, monkeypatch):
    sums, sets = {}, {}
    for part, n in (("train", 7), ("t10k", 4)):
        images = DRAW.integers(0, 256, (n, 28, 28, 1), np.uint8)
        labels = DRAW.integers(0, 10, n, np.uint8)
        sets[part] = images, labels
        for name, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            sizes = np.array(array.shape, ">u4").tobytes()
            head = bytes([0, 0, 8, array.ndim]) + sizes
            data = gzip.compress(head + array.tobytes())
            sums[f"{part}-{name}"] = site.put(f"{part}-{name}-ubyte.gz", data)
    monkeypatch.setattr(mnist_files, "SHA256", sums)
    monkeypatch.setattr(mnist_files, "ORIGIN", mnist_files.ORIGIN._replace(home=site.address))
    prepare.prepare("test", "mnist", tmp_path)
    train, test = mnist(data_dir=tmp_path)
    same(train, *sets["train"])
    same(test, *sets["t10k"])


def test_photographs_prepared_and_read_back(site, tmp_path, monkeypatch):
    images = DRAW.integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels = DRAW.integers(0, 10, 12, np.uint8)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    files = {"readme.html": b"", "batches.meta.txt": b"airplane"}
    for i, name in enumerate(names):  # two photographs each: label, red, green, blue
        two = []
        for k in (2 * i, 2 * i + 1):
            pixels = images[k].transpose(2, 0, 1).tobytes()
            two.append(labels[k : k + 1].tobytes() + pixels)
        files[name] = b"".join(two)
    site.archive("cifar.tar.gz", files)
    sha256 = site.put("again.tar.gz", (site.folder / "cifar.tar.gz").read_bytes())
    archive = cifar10_files.ARCHIVE._replace(address=f"{site.address}/cifar.tar.gz", sha256=sha256)
    monkeypatch.setattr(cifar10_files, "ARCHIVE", archive)
    prepare.prepare("test", "cifar10", tmp_path)
    train, test = cifar10(data_dir=tmp_path)
    same(train, images[:10], labels[:10])
    same(test, images[10:], labels[10:])


def test_a_damaged_file(site, tmp_path, monkeypatch):
    site.put("train-images-idx3-ubyte.gz", gzip.compress(bytes(20)))
    monkeypatch.setattr(mnist_files, "ORIGIN", mnist_files.ORIGIN._replace(home=site.address))
    with pytest.raises(OSError, match="mnist: .*idx3-ubyte.gz has the sha256 .*, expected 440fca"):
        prepare.prepare("test", "mnist", tmp_path)
