"""Pictures as a net takes them: sizes, crops and numbers by hand, wrong pictures."""

import numpy as np
import pytest
from PIL import Image

import jaxnet as jn
from jaxnet.pretrained.pictures import FILTERS, Pictures

STRIPES = np.repeat(np.uint8([[[0], [80], [160], [240]]]), 3, -1)  # (1, 4, 3)


@pytest.mark.parametrize(("pictures", "values"), [
    pytest.param(Pictures(), [0, 80, 160, 240], id="as it is"),
    pytest.param(Pictures(scale=1 / 80), [0, 1, 2, 3], id="scaled"),
    pytest.param(Pictures(scale=1 / 80, mean=(1,) * 3, std=(2,) * 3), [-0.5, 0, 0.5, 1], id="norm"),
    pytest.param(Pictures(mean=(80,) * 3, std=(8,) * 3), [-10, 0, 10, 20], id="normalized alone"),
    pytest.param(Pictures(crop=(1, 2)), [80, 160], id="the middle"),
    pytest.param(Pictures(crop=(1, 3)), [0, 80, 160], id="the middle is left of it"),
    pytest.param(Pictures(crop=(1, 7)), [0, 0, 0, 80, 160, 240, 0], id="zeros around"),
    pytest.param(Pictures((1, 2), "box"), [40, 200], id="means of two"),
    pytest.param(Pictures((1, 2), "nearest"), [80, 240], id="one of two"),
    pytest.param(Pictures((1, 8), "nearest", (1, 4)), [80, 80, 160, 160], id="larger, then cut"),
])  # fmt: skip
def test_values_by_hand(pictures, values):
    x = pictures(STRIPES)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.repeat(np.float32(values)[None, None, :, None], 3, -1))


@pytest.mark.parametrize(("size", "becomes"), [
    ((300, 401), (224, 299)), ((401, 300), (299, 224)), ((1, 3), (224, 672)),
])  # fmt: skip
def test_the_shorter_side_has_the_size(size, becomes):
    assert Pictures(224)(np.zeros((*size, 3), np.uint8)).shape == (1, *becomes, 3)


def test_every_form_of_a_picture_is_the_same(tmp_path):
    file = tmp_path / "stripes.png"
    Image.fromarray(STRIPES).save(file)
    pictures = Pictures((5, 6), FILTERS[3], scale=1 / 255)
    expected = pictures(STRIPES)
    for same in (str(file), file, STRIPES / 255, np.float32(STRIPES / 255)):
        np.testing.assert_array_equal(pictures(same), expected)
    for several in ([file, STRIPES], (file, file), np.stack([STRIPES, STRIPES])):
        np.testing.assert_array_equal(pictures(several), np.repeat(expected, 2, 0))
    whole = jn.data.read_image(file, (1, 4))
    np.testing.assert_array_equal(Pictures(scale=1 / 255)(whole)[0], whole)


def test_gray_and_transparent_pictures_become_red_green_and_blue(tmp_path):
    Image.fromarray(np.uint8([[3, 7]])).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(Pictures()(tmp_path / "gray.png")[0, 0], [[3] * 3, [7] * 3])
    Image.fromarray(np.uint8([[[9, 9, 9, 255], [9, 9, 9, 0]]])).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(Pictures()(tmp_path / "clear.png")[0, 0], [[9] * 3, [255] * 3])


def test_a_photo_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(STRIPES).save(tmp_path / "turned.png", exif=exif)
    assert Pictures()(tmp_path / "turned.png").shape == (1, 4, 1, 3)


@pytest.mark.parametrize(("picture", "words"), [
    (np.zeros((3, 5, 6), np.uint8), r"uint8 \(3, 5, 6\)\. Put the channels last"),
    (np.zeros((5, 6), np.uint8), r"expected a file or an array .*, got uint8 \(5, 6\)"),
    (np.zeros((0, 6, 3), np.uint8), r"got uint8 \(0, 6, 3\)"),
    (np.zeros((5, 6, 3), int), r"integers of 8 bits .*got int64"),
    (np.full((5, 6, 3), 255.0), r"floats in \[0, 1\], got float64 \(5, 6, 3\) from 255.0"),
    (np.full((5, 6, 3), np.nan), "from nan to nan"),
    ("text", "got <U"), ([], "needs at least one picture"),
    ([STRIPES, STRIPES[:, :2]], r"different sizes at the end, .* \(1, 4, 3\), \(1, 2, 3\)"),
])  # fmt: skip
def test_wrong_pictures(picture, words):
    picture = np.array("text") if isinstance(picture, str) else picture
    with pytest.raises(ValueError, match=f"processor: .*{words}"):
        Pictures()(picture)


def test_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Pictures()(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png cannot be read as an image"):
        Pictures()(tmp_path / "text.png")
    Image.fromarray(np.uint16([[1000]])).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png has more than 8 bits per channel"):
        Pictures()(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="would become one of"):
        Pictures(224)(np.zeros((1, 3_000_000, 3), np.uint8))
