import io

import numpy as np
import pytest

from jaxnet.data import camvid as load
from jaxnet.data import tfds
from jaxnet.data.builders import camvid


def png(pixels):
    out = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_prepared_and_read_back(site, tmp_path, monkeypatch):
    """Images are means over 3x3 pixels up to the losses of JPEG; masks the pixel in the middle."""
    draw = np.random.default_rng(0)
    texture = np.tile([[20, 0, 20], [0, 100, 0], [20, 0, 20]], (120, 160))  # of mean 20
    files, images, masks = {}, {}, {}
    for folder, names in (("train", "ab"), ("val", "c"), ("test", "de")):
        for name in names:
            row, column = np.mgrid[:360, :480]
            slope = 20 + row * draw.integers(80) / 359 + column * draw.integers(80) / 479
            planes = [slope + texture, slope[::-1] + texture, slope + texture]
            images[name] = np.stack(planes, -1).astype(np.uint8)
            masks[name] = draw.integers(0, 12, (360, 480)).astype(np.uint8)
            files[f"CamVid/{folder}/{name}.png"] = png(images[name])
            files[f"CamVid/{folder}annot/{name}.png"] = png(masks[name])
    sha256 = site.archive("camvid.tar.gz", files)
    site.archive("camvid.tar.gz", files | {"CamVid/train.txt": b"", "Models/a.png": b""})
    archive = camvid.ARCHIVE._replace(address=f"{site.address}/camvid.tar.gz", sha256=sha256)
    monkeypatch.setattr(camvid, "ARCHIVE", archive)

    parts = load(data_dir=tmp_path, download=True)
    assert [len(x) for x, _ in parts] == [2, 1, 2]
    for part, (x, y) in zip(("train", "validation", "test"), parts, strict=True):
        for i, name in enumerate(tfds.load("camvid", part, data_dir=tmp_path)["name"]):
            mean = images[name].reshape(120, 3, 160, 3, 3).mean((1, 3))
            assert np.abs(x[i] * 255 - mean).mean() < 3  # the pixel in the middle: 80
            np.testing.assert_array_equal(y[i], masks[name][1::3, 1::3])


def test_labels_are_in_the_files(tmp_path):
    info = camvid.builder()(data_dir=tmp_path).info
    assert info.metadata["labels"][-1] == "void"
    assert len(info.metadata["labels"]) == 12
    assert camvid.ORIGIN.terms in info.description
