import numpy as np

from jaxnet.data import patches
from tests.helpers import refused


def numbered(height, width, start=0):
    return start + np.arange(height * width).reshape(height, width)


def test_one_array_of_images_in_color_and_seeds():
    x = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), dtype=np.uint8)
    cut = patches(x, 4, 6)
    assert cut.shape == (6, 4, 4, 3) and cut.dtype == np.uint8
    np.testing.assert_array_equal(cut, patches(x, 4, 6, seed=0))
    assert (cut != patches(x, 4, 6, seed=1)).any()


def test_a_patch_is_a_square_of_an_image():
    image = numbered(9, 7)
    for patch in patches([image], 4, 20):
        row, column = divmod(int(patch[0, 0]), 7)
        np.testing.assert_array_equal(patch, image[row : row + 4, column : column + 4])


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
    ([np.ones((8, 8))], 3, 0, "count must be at least 1"),
])  # fmt: skip
def test_wrong_options(images, size, count):
    patches(images, size, count)
