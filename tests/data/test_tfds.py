import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.data import tfds


def test_order_and_values_are_those_of_tfds(tfds_data_dir):
    import tensorflow_datasets

    source = tensorflow_datasets.data_source("mnist", split="test", data_dir=tfds_data_dir)
    data = tfds.load("mnist", "test[:1203]", data_dir=tfds_data_dir)  # three blocks, one short
    assert set(data) == {"image", "label"}
    assert len(data["label"]) == 1203
    assert data["image"].shape == (1203, 28, 28, 1)
    assert data["image"].dtype == np.uint8
    assert data["label"].shape == (1203,)
    assert data["label"].dtype == np.int64
    for i in (0, 499, 500, 999, 1000, 1202):
        np.testing.assert_array_equal(data["image"][i], source[i]["image"])
        assert data["label"][i] == source[i]["label"]


def test_the_folder_comes_from_the_environment(tfds_data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_data_dir))
    assert len(tfds.load("mnist", "test[:3]")["label"]) == 3


def test_text_is_a_list_of_strings(tfds_data_dir):
    need("multi30k", tfds_data_dir)
    data = tfds.load("multi30k", "test[:5]", data_dir=tfds_data_dir)
    assert len(data["de"]) == 5
    assert all(isinstance(line, str) for line in data["de"])
    assert any(letter in "".join(data["de"]) for letter in "äöüß")


def test_what_differs_in_shape_is_a_list_of_arrays(tfds_data_dir):
    need("free_spoken_digits", tfds_data_dir)
    data = tfds.load("free_spoken_digits", "test[:4]", data_dir=tfds_data_dir)
    assert isinstance(data["audio"], list)
    assert len(data["audio"]) == 4
    for wave in data["audio"]:
        assert wave.ndim == 1
        assert wave.dtype == np.int16
    assert len({a.shape for a in data["audio"]}) > 1


def test_nested_features_are_nested_dicts(tfds_data_dir):
    need("bccd", tfds_data_dir)
    data = tfds.load("bccd", "test[:3]", data_dir=tfds_data_dir)
    assert data["image"].shape == (3, 480, 640, 3)
    boxes, labels = data["objects"]["bbox"], data["objects"]["label"]
    assert [len(b) for b in boxes] == [len(c) for c in labels]
    for each in boxes:
        assert each.shape[1] == 4
        assert each.dtype == np.float32


def test_a_source_gives_single_examples_to_grain(tfds_data_dir):
    grain = pytest.importorskip("grain")
    images = tfds.source("mnist", "train", data_dir=tfds_data_dir)
    rows = tfds.load("mnist", "train[:20]", data_dir=tfds_data_dir)
    assert len(images) == 60_000
    batch = next(iter(grain.MapDataset.source(images).batch(20)))
    np.testing.assert_array_equal(batch["image"], rows["image"])
    np.testing.assert_array_equal(batch["label"], rows["label"])
    with pytest.raises(ValueError, match="tfds.source: mnist has no split 'trian'"):
        tfds.source("mnist", "trian", data_dir=tfds_data_dir)


def test_prepared_lists_the_folder(tfds_data_dir, tmp_path):
    assert "mnist" in tfds.prepared(tfds_data_dir)
    with pytest.raises(FileNotFoundError, match=r"'mnits' is not in .*which has .*mnist.*download"):
        tfds.load("mnits", "train", data_dir=tfds_data_dir)
    with pytest.raises(FileNotFoundError, match="'mnist:9.9.9' is not in .*, which has mnist/"):
        tfds.load("mnist:9.9.9", "train", data_dir=tfds_data_dir)
    (tmp_path / "flowers" / "config" / "1.0.0").mkdir(parents=True)
    (tmp_path / "flowers" / "config" / "1.0.0" / "dataset_info.json").touch()
    (tmp_path / "half" / "1.0.0").mkdir(parents=True)
    assert tfds.prepared(tmp_path) == ["flowers"]


@pytest.mark.parametrize(("folder", "error", "words"), [
    ("nowhere", FileNotFoundError, "nowhere, which does not exist; pass data_dir="),
    ("", FileNotFoundError, "which has no dataset"),
    (3, TypeError, "tfds.load: data_dir must be a str or a Path, got int"),
], ids=["no folder", "an empty one", "a number"])  # fmt: skip
def test_a_folder_without_the_dataset(tmp_path, folder, error, words):
    data_dir = tmp_path / folder if isinstance(folder, str) else folder
    with pytest.raises(error, match=words):
        tfds.load("mnist", "train", data_dir=data_dir)


def test_no_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"TFDS_DATA_DIR is not set"):
        tfds.load("mnist", "train")


@pytest.mark.parametrize("split", ["validation", "train[:5", "train[70000:]"])
def test_a_split_that_is_not_there_lists_those_that_are(split, tfds_data_dir):
    words = r"has no split .* splits: train \(60,000\), test \(10,000\)"
    with pytest.raises(ValueError, match=words):
        tfds.load("mnist", split, data_dir=tfds_data_dir)


def test_download_prepares_array_records(monkeypatch, tmp_path, tfds_data_dir):
    """Without a network: what would be asked of TFDS, then read as if it had been prepared."""
    import tensorflow_datasets

    real, asked = tensorflow_datasets.builder, []

    def builder(name, *, data_dir, **options):
        asked.append((name, data_dir, options))
        found = real("mnist", data_dir=tfds_data_dir)
        found.download_and_prepare = lambda **options: asked.append(set(options))
        return found

    monkeypatch.setattr(tensorflow_datasets, "builder", builder)
    monkeypatch.setitem(sys.modules, "tensorflow", np)  # whether it is there
    data = tfds.load("fashion_mnist", "test[:2]", data_dir=tmp_path, download=True)
    assert asked == [
        ("fashion_mnist", tmp_path, {"file_format": "array_record"}),
        {"download_dir", "download_config"},
        ("fashion_mnist", tmp_path, {}),
    ]
    assert len(data["label"]) == 2


@pytest.mark.parametrize(("name", "words"), [
    ("camvid", "run python -m jaxnet.data.prepare camvid, or pass download=True$"),
    ("mnist", "run python -m jaxnet.data.prepare mnist, or pass download=True$"),
    ("my_set", "or pass download=True for one of TensorFlow Datasets' catalog"),
], ids=str)  # fmt: skip
def test_a_missing_dataset_and_how_to_get_it(name, words, tmp_path):
    with pytest.raises(FileNotFoundError, match=words):
        tfds.load(name, "train", data_dir=tmp_path)


def test_without_tfds_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"needs tensorflow-datasets.*\[data\]"):
        tfds.load("mnist", "train")


def need(name, folder):
    if name not in tfds.prepared(folder):
        pytest.skip(f"{name} is not in TFDS_DATA_DIR")


@pytest.mark.parametrize("what", ["pipe", "dimensions"])
def test_what_lies_about_its_examples_is_named(what, tfds_data_dir, tmp_path):
    place = tmp_path / "orl_faces"
    shutil.copytree(Path(tfds_data_dir) / "orl_faces", place)
    if what == "pipe":
        (file,) = place.glob("*/*train*")
        file.unlink()
        os.mkfifo(file)
    else:
        (file,) = place.glob("*/features.json")
        words = file.read_text()
        assert '"112"' in words
        assert '"92"' in words
        swapped = words.replace('"112"', '"X"').replace('"92"', '"112"').replace('"X"', '"92"')
        file.write_text(swapped)
    with pytest.raises((OSError, ValueError), match="tfds.load: .*orl_faces"):
        jn.data.tfds.load("orl_faces", "train", data_dir=tmp_path)
