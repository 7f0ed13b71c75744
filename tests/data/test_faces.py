import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxnet.data import faces, prepare, tfds
from jaxnet.data.builders import olivetti


def test_prepared_orl_faces_are_averaged(tfds_data_dir):
    data = faces(data_dir=tfds_data_dir, download=True)  # downloads nothing
    if data.name != "orl_faces":
        pytest.skip("olivetti is in TFDS_DATA_DIR, or orl_faces is not")
    for (x, y), split, each in zip(data, ("train", "test"), (7, 3), strict=True):
        raw = tfds.load("orl_faces", split, data_dir=tfds_data_dir)
        assert x.shape == (38 * each, 64, 64, 1)
        assert y.tolist() == np.repeat(np.arange(38), each).tolist()
        rows = (raw["label"] == 5) & (raw["picture"] == raw["picture"].min())
        mean = averaging(112) @ raw["image"][rows][0, ..., 0] @ averaging(92).T
        # Pillow counts a pixel at the border of a piece whole or not at all.
        assert np.abs(255 * x[5 * each, ..., 0] - mean).mean() < 3  # NEAREST: over 4


def averaging(size):
    """The weights (64, size) of pixels in the means of 64 equal pieces of a row."""
    edges = np.linspace(0, size, 65)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0) * 64 / size


def test_the_version_with_private_pictures_is_not_read(tfds_data_dir, tmp_path):
    """A folder that has only 1.0.0 has no faces."""
    if not (Path(tfds_data_dir) / "orl_faces/2.0.0").is_dir():
        pytest.skip("orl_faces is not in TFDS_DATA_DIR")
    shutil.copytree(f"{tfds_data_dir}/orl_faces/2.0.0", tmp_path / "orl_faces/1.0.0")
    with pytest.raises(FileNotFoundError, match="'olivetti' is not in"):
        faces(data_dir=tmp_path)


def test_olivetti_comes_first(tfds_data_dir, tmp_path, monkeypatch):
    if not (Path(tfds_data_dir) / "orl_faces/2.0.0").is_dir():
        pytest.skip("orl_faces is not in TFDS_DATA_DIR")
    shutil.copytree(f"{tfds_data_dir}/orl_faces", tmp_path / "orl_faces")
    assert faces(data_dir=tmp_path).name == "orl_faces"
    white = np.full((10, 64, 64), 255, np.uint8)
    monkeypatch.setattr(olivetti, "contents", lambda *given: {"5976027": b""})
    monkeypatch.setattr(olivetti, "faces", lambda data: white)
    prepare.prepare("test", "olivetti", tmp_path)
    data = faces(data_dir=tmp_path)
    assert data.name == "olivetti"
    assert [x.mean() for x, _ in data] == [1, 1]


def test_the_error_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"run python -m jaxnet\.data\.prepare olivetti"):
        faces(data_dir=tmp_path / "nowhere")
    with pytest.raises(TypeError, match="faces: download must be"):
        faces(data_dir=tmp_path, download="yes")  # pyright: ignore
