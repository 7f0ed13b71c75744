"""Datasets from strangers: nothing is imported or read outside, and damage is named."""

import json
import shutil
import sys

import pytest

import jaxnet as jn


def features(change):
    return "features.json", lambda words: json.dumps(json.loads(words) | change)


def split(**change):
    def changed(words):
        info = json.loads(words)
        info["splits"][0] |= change
        return json.dumps(info)

    return "dataset_info.json", changed


STRANGE = {"type": "antigravity.Feature", "content": {}}
LEGACY = {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
          "jsonFeature": {"json": json.dumps({"a": STRANGE})}}  # fmt: skip


@pytest.mark.parametrize(("file", "change", "words"), [
    (*features({"pythonClassName": "antigravity.Feature"}), "names 'antigravity.Feature'"),
    (*features({"pythonClassName": "tensorflow_datasets_.x.Feature"}), "is not a class of Tensor"),
    (*features(STRANGE), "names 'antigravity.Feature'"),
    (*features(LEGACY), "names 'antigravity.Feature'"),
    (*split(filepathTemplate="../../secret"), r"names '../../secret'.* or a file in this folder"),
    (*split(filepathTemplate="/etc/passwd"), "names '/etc/passwd'"),
    (*split(name="..\\train"), r"names '\.\..*train'"),
    ("features.json", lambda words: words[:9], "features.json is damaged: "),
    ("features.json", lambda words: "[]", " is damaged: Python class name must"),
    ("dataset_info.json", lambda words: "{}", " is damaged: Invalid version"),
    ("orl_faces-train.array_record-00000-of-00001", lambda words: "", "1.0.0 is damaged: "),
])  # fmt: skip
def test_what_is_not_read(file, change, words, tfds_data_dir, tmp_path):
    shutil.copytree(f"{tfds_data_dir}/orl_faces", tmp_path / "orl_faces")
    file = tmp_path / "orl_faces/1.0.0" / file
    file.write_text(change(file.read_text(errors="replace")))
    with pytest.raises(ValueError, match=f"^tfds.load: {tmp_path}/orl_faces.*{words}"):
        jn.data.tfds.load("orl_faces", "train[:2]", data_dir=tmp_path)
    assert "antigravity" not in sys.modules
