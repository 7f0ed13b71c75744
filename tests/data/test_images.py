import numpy as np
import pytest

from jaxnet.data import cifar10, mnist, tfds

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")


@pytest.mark.parametrize(
    ("helper", "size"), [(mnist, (28, 28, 1)), (cifar10, (32, 32, 3))], ids=["mnist", "cifar10"]
)
def test_images_are_scaled_and_labels_narrowed(helper, size, tfds_data_dir, monkeypatch):
    """The first images of each split: decoding all of them takes seconds."""
    if helper.__name__ not in tfds.prepared(tfds_data_dir):
        pytest.skip(f"{helper.__name__} is not in TFDS_DATA_DIR")
    load = tfds.load

    def few(name, split, **options):
        return load(name, f"{split}[:9]", **options)

    monkeypatch.setattr(tfds, "load", few)
    parts = helper(data_dir=tfds_data_dir)
    for (x, y), split in zip(parts, ("train", "test"), strict=True):
        raw = few(helper.__name__, split, data_dir=tfds_data_dir)
        assert x.shape == (9, *size) and x.dtype == np.float32 and y.dtype == np.int32
        np.testing.assert_allclose(x, raw["image"] / 255, rtol=1e-6)
        np.testing.assert_array_equal(y, raw["label"])
        assert 0 <= x.min() and 0.5 < x.max() <= 1


@pytest.mark.parametrize("helper", [mnist, cifar10])
def test_bytes_become_shares(helper, monkeypatch):
    def load(name, split, **options):
        assert name == helper.__name__
        first = {"train": 0, "test": 51}[split]
        image = np.array([first, 102, 255], np.uint8).reshape(1, 3, 1, 1)
        return {"image": image, "label": np.array([first])}

    monkeypatch.setattr(tfds, "load", load)
    (x, y), (x_test, y_test) = helper()
    np.testing.assert_allclose(x.ravel(), [0, 0.4, 1], rtol=1e-6)
    np.testing.assert_allclose(x_test.ravel(), [0.2, 0.4, 1], rtol=1e-6)
    assert x.dtype == np.float32 and y.dtype == np.int32 and (y[0], y_test[0]) == (0, 51)


@pytest.mark.parametrize("helper", [mnist, cifar10])
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
