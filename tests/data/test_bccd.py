import numpy as np
import pytest

from jaxnet.data import bccd, tfds


def test_areas_are_averaged_and_boxes_padded_alike(monkeypatch):
    """Two images of 4x6 pixels to 2x3, in each part; one of the right size stays."""
    x = np.random.default_rng(0).integers(0, 64, (2, 2, 3, 3)).astype(np.uint8)
    signs = np.tile([[4, -4], [-2, 2]], (2, 3))[..., None]  # of the four pixels of an area
    large = (np.repeat(np.repeat(x + 8, 2, 1), 2, 2) + signs).astype(np.uint8)
    counts = {"train": 2, "validation": 3, "test": 1}

    def load(name, split, **options):
        n = counts[split]
        box, label = np.float32([[0, 0.25, 0.5, 1]]), [np.arange(n), np.array([2])]
        box = [np.repeat(box, n, 0), box]
        image = x if split == "test" else large
        return {"image": image, "objects": {"bbox": box, "label": label}}

    monkeypatch.setattr(tfds, "load", load)
    parts = dict(zip(counts, bccd(size=(2, 3)), strict=True))
    for split, (images, targets) in parts.items():
        wanted = (x if split == "test" else x + 8) / np.float32(255)
        np.testing.assert_allclose(images, wanted, rtol=1e-6)
        assert images.dtype == np.float32 and targets["boxes"].shape == (2, 3, 4)
        assert (targets["boxes"][1] == [[0, 0.25, 0.5, 1], [0] * 4, [0] * 4]).all()
    assert parts["train"][1]["classes"].tolist() == [[0, 1, -1], [2, -1, -1]]


@pytest.mark.slow
def test_all_of_it(tfds_data_dir):
    if "bccd" not in tfds.prepared(tfds_data_dir):
        pytest.skip("bccd is not in TFDS_DATA_DIR")
    parts = bccd(size=(48, 64), data_dir=tfds_data_dir)
    assert [len(x) for x, _ in parts] == [205, 87, 72]
    counts = [np.bincount(t["classes"][t["classes"] >= 0]).tolist() for _, t in parts]
    # Seen; red cells are one fewer than stored in the first two parts, which have no size there.
    assert counts == [[2381, 214, 209], [967, 87, 83], [805, 71, 69]]
    assert {t["boxes"].shape[1] for _, t in parts} == {30}
    for _, targets in parts:
        size = targets["boxes"][..., 2:] - targets["boxes"][..., :2]
        assert ((size > 0).all(-1) == (targets["classes"] >= 0)).all()
