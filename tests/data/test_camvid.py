import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxnet.data import bccd, camvid, tfds
from jaxnet.data.camvid import CLASSES, COLORS, VOID

# As SegNet draws them.
PUBLISHED = {
    "sky": [128, 128, 128], "building": [128, 0, 0], "pole": [192, 192, 128],
    "road": [128, 64, 128], "pavement": [60, 40, 222], "tree": [128, 128, 0],
    "sign": [192, 128, 128], "fence": [64, 64, 128], "car": [64, 0, 128],
    "pedestrian": [64, 64, 0], "bicyclist": [0, 128, 192], "void": [0, 0, 0],
}  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not os.path.isdir(folder) or "camvid" not in tfds.prepared(folder):
        pytest.skip("CamVid is not in TFDS_DATA_DIR")
    return camvid(data_dir=folder)


def test_bytes_become_shares_and_labels_integers(monkeypatch):
    def load(name, split, **options):
        byte = {"train": 0, "validation": 51, "test": 255}[split]
        image = np.full((1, 2, 3, 3), byte, np.uint8)
        mask = np.full((1, 2, 3, 1), 11, np.uint8)
        return {"image": image, "segmentation_mask": mask}

    monkeypatch.setattr(tfds, "load", load)
    for (x, y), share in zip(camvid(), (0, 0.2, 1), strict=True):
        np.testing.assert_allclose(x, np.full((1, 2, 3, 3), share), rtol=1e-6)
        assert y.shape == (1, 2, 3)
        assert y.dtype == np.int32
        assert (y == VOID).all()
    assert dict(zip(CLASSES, COLORS.tolist(), strict=True)) == PUBLISHED


@pytest.mark.slow
def test_sizes_and_values(parts, tfds_data_dir):
    assert [len(x) for x, _ in parts] == [367, 101, 233]
    for (x, masks), split in zip(parts, ("train", "validation", "test"), strict=True):
        assert x.shape[1:] == (120, 160, 3)
        assert x.dtype == np.float32
        assert masks.shape == x.shape[:3]
        assert masks.dtype == np.int32
        assert 0 <= x.min()
        assert 0.9 < x.max() <= 1
        assert np.unique(masks).tolist() == list(range(12))  # all classes, and void
        raw = tfds.load("camvid", f"{split}[:2]", data_dir=tfds_data_dir)
        np.testing.assert_allclose(x[:2], raw["image"] / 255, rtol=1e-6)
        np.testing.assert_array_equal(masks[:2], raw["segmentation_mask"][..., 0])


@pytest.mark.slow
def test_names_belong_to_the_labels(parts, tfds_data_dir):
    """Those of the files; and the sky is above the road."""
    words = Path(tfds_data_dir, "camvid", "1.0.0", "metadata.json").read_text()
    assert tuple(json.loads(words)["labels"]) == CLASSES
    _, masks = parts[0]
    height = {}
    for i, name in enumerate(CLASSES):
        _, rows, _ = np.nonzero(masks == i)
        height[name] = rows.mean()
    assert height["sky"] < height["building"] < height["car"] < height["road"]
    assert CLASSES[VOID] == "void"
    assert COLORS.shape == (12, 3)
    assert len({tuple(color) for color in COLORS}) == 12
    assert (COLORS[VOID] == 0).all()


def test_areas_are_averaged_and_boxes_padded_alike(monkeypatch):
    """Two images of 4x6 pixels to 2x3, in each part; one of the right size stays."""
    x = np.random.default_rng(0).integers(0, 64, (2, 2, 3, 3)).astype(np.uint8)
    signs = np.tile([[4, -4], [-2, 2]], (2, 3))[..., None]  # of the four pixels of an area
    repeated = np.repeat(np.repeat(x + 8, 2, 1), 2, 2)
    large = (repeated + signs).astype(np.uint8)
    counts = {"train": 2, "validation": 3, "test": 1}

    def load(name, split, **options):
        n = counts[split]
        box = np.float32([[0, 0.25, 0.5, 1]])
        label = [np.arange(n), np.array([2])]
        box = [np.repeat(box, n, 0), box]
        image = x if split == "test" else large
        return {"image": image, "objects": {"bbox": box, "label": label}}

    monkeypatch.setattr(tfds, "load", load)
    parts = dict(zip(counts, bccd(size=(2, 3)), strict=True))
    for split, (images, targets) in parts.items():
        wanted = (x if split == "test" else x + 8) / np.float32(255)
        np.testing.assert_allclose(images, wanted, rtol=1e-6)
        assert images.dtype == np.float32
        assert targets["boxes"].shape == (2, 3, 4)
        assert (targets["boxes"][1] == [[0, 0.25, 0.5, 1], [0] * 4, [0] * 4]).all()
    assert parts["train"][1]["classes"].tolist() == [[0, 1, -1], [2, -1, -1]]


@pytest.mark.slow
def test_all_of_it(tfds_data_dir):
    if "bccd" not in tfds.prepared(tfds_data_dir):
        pytest.skip("bccd is not in TFDS_DATA_DIR")
    parts = bccd(size=(48, 64), data_dir=tfds_data_dir)
    assert [len(x) for x, _ in parts] == [205, 87, 72]
    counts = []
    for _, targets in parts:
        classes = targets["classes"]
        counts.append(np.bincount(classes[classes >= 0]).tolist())
    # Seen; red cells are one fewer than stored in the first two parts, which have no size there.
    assert counts == [[2381, 214, 209], [967, 87, 83], [805, 71, 69]]
    assert {t["boxes"].shape[1] for _, t in parts} == {30}
    for _, targets in parts:
        size = targets["boxes"][..., 2:] - targets["boxes"][..., :2]
        has_area = (size > 0).all(-1)
        assert (has_area == (targets["classes"] >= 0)).all()
