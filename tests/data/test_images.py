"""Sets of images: MNIST and CIFAR-10, digits, photographs, patches, and the first that is there."""

import sys
from functools import partial

import numpy as np
import pytest

import jaxnet as jn
from jaxnet.data import bccd, camvid, cifar10, digits, mnist, patches, tfds
from tests.helpers import refused


@pytest.mark.parametrize("helper, size", [(mnist, (28, 28, 1)), (cifar10, (32, 32, 3))])
def test_images_are_scaled_and_labels_narrowed(helper, size, few_examples):
    folder, name = few_examples(9, 9), helper.__name__
    if name not in tfds.prepared(folder):
        pytest.skip(f"{name} is not in TFDS_DATA_DIR")
    for (x, y), split in zip(helper(data_dir=folder), ("train", "test"), strict=True):
        raw = tfds.load(name, split, data_dir=folder)
        assert x.shape == (9, *size)
        assert x.dtype == np.float32
        assert y.dtype == np.int32
        np.testing.assert_allclose(x, raw["image"] / 255, rtol=1e-6)
        np.testing.assert_array_equal(y, raw["label"])
        assert 0.5 < x.max()


@pytest.mark.parametrize("helper", [mnist, cifar10])
def test_bytes_become_shares(helper, monkeypatch):
    def load(name, split, **options):
        first = {"train": 0, "test": 51}[split]
        image = np.uint8([[[[first]], [[102]], [[255]]]])
        return {"image": image, "label": np.array([first])}

    monkeypatch.setattr(tfds, "load", load)
    for (x, y), first in zip(helper(), (0, 51), strict=True):
        np.testing.assert_allclose(x.ravel(), [first / 255, 0.4, 1], rtol=1e-6)
        assert x.dtype == np.float32
        assert y.dtype == np.int32
        assert y.tolist() == [first]


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
    assert whole["train"].num_examples == 60_000
    assert whole["test"].num_examples == 10_000
    np.testing.assert_allclose(6 * np.bincount(y)[:3], [5923, 6742, 5958], atol=6 * 4 * 30)
    assert x.mean() == pytest.approx(0.1307, abs=1e-3)


def missing(error=FileNotFoundError):
    raise error("no such set")


@pytest.mark.parametrize("error", [FileNotFoundError, ImportError, ConnectionError])
def test_goes_on_and_says_so(capsys, error):
    assert jn.data.first_available(lambda: 3, missing) == 3
    assert capsys.readouterr().out == ""
    assert jn.data.first_available(partial(missing, error), missing, lambda: 5) == 5
    assert capsys.readouterr().out.startswith("missing is not available (no such set)\nmissing")


@refused([
    ([missing, missing], FileNotFoundError, "no such set"),
    # is not hidden
    ([partial(missing, KeyError), lambda: 5], KeyError, "no such set"),
    ([], "expected at least one loader"),
    ([missing, 3], TypeError, "first_available: loader 1 must be a function of"),
])  # fmt: skip
def test_refusals(loaders):
    jn.data.first_available(*loaders)


def test_three_photos_in_color():
    found = jn.data.photos()
    assert list(found) == ["china", "flower", "hopper"]
    for photo in found.values():
        assert photo.dtype == np.float32
        assert photo.ndim == 3
        assert photo.shape[2] == 3
        assert photo.min() == 0
        assert 0.99 < photo.max() <= 1
        assert 0.1 < photo.std() < 0.4


def test_each_is_the_photo_of_its_name():
    """By what is in them: blue sky at the top left, a green ground, a face in the upper half."""
    found = jn.data.photos()
    assert found["china"][:40, :40].mean((0, 1)).argmax() == 2  # blue
    assert found["flower"][:40, :40].mean((0, 1)).argmax() == 1  # green
    assert found["hopper"][150:250, 220:320].mean((0, 1)).argmax() == 0  # red


def numbered(height, width, start=0):
    return start + np.arange(height * width).reshape(height, width)


def test_one_array_of_images_in_color_and_seeds():
    x = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), dtype=np.uint8)
    cut = patches(x, 4, 6)
    assert cut.shape == (6, 4, 4, 3)
    assert cut.dtype == np.uint8
    np.testing.assert_array_equal(cut, patches(x, 4, 6, seed=0))
    assert (cut != patches(x, 4, 6, seed=1)).any()


def test_a_patch_is_a_square_of_an_image():
    image = numbered(9, 7)
    for patch in patches([image], 4, 20):
        row, column = divmod(int(patch[0, 0]), 7)
        np.testing.assert_array_equal(patch, image[row : row + 4, column : column + 4])


def test_a_patch_of_a_volume_is_a_cube():
    volumes = [numbered(9 * 7, 6).reshape(9, 7, 6, 1), numbered(5 * 6, 8, 1000).reshape(5, 6, 8, 1)]
    cubes = patches(volumes, 4, 60)
    corners = np.array(
        [np.argwhere(volumes[int(c.flat[0] >= 1000)] == c.flat[0])[0] for c in cubes]
    )
    for cube, (i, j, k, _) in zip(cubes, corners, strict=True):
        whole = volumes[int(cube.flat[0] >= 1000)]
        np.testing.assert_array_equal(cube, whole[i : i + 4, j : j + 4, k : k + 4])
    assert np.ptp(corners, axis=0).tolist() == [5, 3, 4, 0]
    masks = patches([(volume > 40).astype(np.uint8) for volume in volumes], 4, 60)
    np.testing.assert_array_equal(masks, cubes > 40)


def test_every_place_of_every_image_is_as_likely():
    """(8 - 2) · (6 - 2) = 24 places in one, (4 - 2) · (4 - 2) = 4 in the other, edges too."""
    images = [numbered(8, 6), numbered(4, 4, 1000)]
    corners = patches(images, 3, 14_000)[:, 0, 0]
    places, counts = np.unique(corners, return_counts=True)
    assert len(places) == 28
    assert abs(counts - 500).max() < 5 * 500**0.5


@refused([
    ([], 3, 1, "at least one, got"),
    (np.ones((8, 8)), 3, 1, r"for one image pass \[image\]"),
    ([np.ones((8, 8, 3)), np.ones((8, 8))], 3, 1, "the same number of channels"),
    ([np.ones((8, 8)), np.ones((5, 9))], 6, 1, "size must be 1 to 5, the smallest side, got 6"),
    ([np.ones((8, 8, 8, 1)), np.ones((8, 8))], 3, 1, r"or volumes \(depth, .*for one image pass"),
    ([np.ones((8, 8))], 3, 0, "count must be at least 1"),
])  # fmt: skip
def test_wrong_options(images, size, count):
    patches(images, size, count)


def test_shapes_dtypes_and_range():
    for (x, y), n in zip(digits(), (1438, 359), strict=True):
        assert x.shape == (n, 8, 8, 1)
        assert x.dtype == np.float32
        assert y.shape == (n,)
        assert y.dtype == np.int32
        assert x.min() == 0
        assert x.max() == 1
        assert sorted(set(y.tolist())) == list(range(10))


def test_the_parts_are_all_of_the_digits_and_disjoint():
    from sklearn.datasets import load_digits

    (a, ya), (b, yb) = digits()
    whole, labels = load_digits(return_X_y=True)
    rows = np.concatenate([a, b]).reshape(-1, 64) * 16
    theirs = sorted(map(tuple, np.column_stack([whole, labels])))
    ours = np.column_stack([rows, np.concatenate([ya, yb])])
    assert theirs == sorted(map(tuple, ours))


def test_every_digit_is_held_out_by_a_fifth():
    (_, y), (_, held) = digits()
    of_held = np.bincount(held)
    share = of_held / (np.bincount(y) + of_held)
    assert (np.abs(share - 0.2) < 0.003).all()
    (_, y), (_, held) = digits(test_fraction=0.5)
    assert abs(len(y) - len(held)) <= 10


def test_the_split_is_fixed():
    """A figure on the held-out part means nothing once the part changes: golden, by numpy 2.4.6."""
    (x, y), (_, held) = digits()
    assert held[:12].tolist() == [5, 9, 2, 4, 6, 7, 9, 3, 4, 6, 8, 5]
    assert float(x.sum()) == 28114.25
    assert (digits()[1][1] == held).all()
    assert (digits(seed=1)[1][1] != held).any()


@pytest.mark.parametrize(("loader", "extras"), [(digits, "data"), (jn.data.photos, "data,viz")])
def test_without_scikit_learn_it_says_what_to_install(loader, extras, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=rf"{loader.__name__}: needs scikit-learn.*\[{extras}\]"):
        loader()
