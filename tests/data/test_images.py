import numpy as np
import pytest

from jaxnet.data import bccd, camvid, cifar10, mnist, tfds


@pytest.mark.parametrize("helper, size", [(mnist, (28, 28, 1)), (cifar10, (32, 32, 3))])
def test_images_are_scaled_and_labels_narrowed(helper, size, few_examples):
    folder, name = few_examples(9, 9), helper.__name__
    if name not in tfds.prepared(folder):
        pytest.skip(f"{name} is not in TFDS_DATA_DIR")
    for (x, y), split in zip(helper(data_dir=folder), ("train", "test"), strict=True):
        raw = tfds.load(name, split, data_dir=folder)
        assert x.shape == (9, *size) and x.dtype == np.float32 and y.dtype == np.int32
        np.testing.assert_allclose(x, raw["image"] / 255, rtol=1e-6)
        np.testing.assert_array_equal(y, raw["label"])
        assert 0.5 < x.max()


@pytest.mark.parametrize("helper", [mnist, cifar10])
def test_bytes_become_shares(helper, monkeypatch):
    def load(name, split, **options):
        first = {"train": 0, "test": 51}[split]
        return {"image": np.uint8([[[[first]], [[102]], [[255]]]]), "label": np.array([first])}

    monkeypatch.setattr(tfds, "load", load)
    for (x, y), first in zip(helper(), (0, 51), strict=True):
        np.testing.assert_allclose(x.ravel(), [first / 255, 0.4, 1], rtol=1e-6)
        assert x.dtype == np.float32 and y.dtype == np.int32 and y.tolist() == [first]


@pytest.mark.parametrize("helper", [mnist, cifar10, bccd, camvid])
def test_a_folder_that_is_not_there(helper, tmp_path):
    with pytest.raises(FileNotFoundError, match="pass data_dir="):
        helper(data_dir=tmp_path / "nowhere")


@pytest.mark.long
def test_mnist_is_the_original(few_examples):
    """Its test part whole; a sixth of the training part, since decoding all takes 15 seconds."""
    import tensorflow_datasets

    folder = few_examples(10_000, 10_000)
    (x, y), (x_test, y_test) = mnist(data_dir=folder)
    assert x.shape == x_test.shape == (10_000, 28, 28, 1)
    # The counts of the original files, and the mean that every MNIST tutorial normalizes by.
    assert np.bincount(y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    whole = tensorflow_datasets.builder("mnist", data_dir=folder).info.splits
    assert whole["train"].num_examples == 60_000 and whole["test"].num_examples == 10_000
    np.testing.assert_allclose(6 * np.bincount(y)[:3], [5923, 6742, 5958], atol=6 * 4 * 30)
    assert x.mean() == pytest.approx(0.1307, abs=1e-3)
