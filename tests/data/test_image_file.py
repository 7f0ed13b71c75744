"""Files of more than 8 bits and of several pages."""

from pathlib import Path

import numpy as np
import pytest

import jaxnet as jn

Image = pytest.importorskip("PIL.Image", reason="needs the extra jaxnet-toolkit[data]")

LEVELS = (np.arange(30).reshape(5, 6) * 2_000).astype(np.uint16)  # to 58,000
WHOLE = (0, 65535)


def big_endian(file: Path) -> None:
    Image.frombytes("I;16B", (6, 5), LEVELS.astype(">u2").tobytes()).save(file)


def of(pixels: np.ndarray, **options):
    return lambda file: Image.fromarray(pixels).save(file, **options)


FORMS = {
    "png of 16 bits": ("a.png", "I;16", of(LEVELS), LEVELS),
    "tiff of 16 bits": ("a.tif", "I;16", of(LEVELS), LEVELS),
    "tiff with its high bytes first": ("a.tiff", "I;16B", big_endian, LEVELS),
    "compressed tiff": ("a.tif", "I;16", of(LEVELS, compression="tiff_lzw"), LEVELS),
    "pgm of 16 bits": ("a.pgm", "I", of(LEVELS), LEVELS),
    "tiff of floats": ("a.tif", "F", of(LEVELS.astype("f4") / 7), LEVELS / 7),
    "tiff of 32 bits": ("a.tif", "I", of(LEVELS.astype("i4") - 9_000), LEVELS - 9_000.0),
}


@pytest.mark.parametrize(("name", "mode", "save", "values"), FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("bounds", [WHOLE, (0, 4095), (-500.5, 60_000.25)], ids=str)
def test_values_become_floats_in_a_stated_range(tmp_path: Path, name, mode, save, values, bounds):
    save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.mode == mode
    low, high = bounds
    wanted = (values - low) / (high - low)
    gray = jn.data.read_image(tmp_path / name, (5, 6), channels=1, value_range=bounds)
    assert gray.shape == (5, 6, 1)
    assert gray.dtype == np.float32
    np.testing.assert_allclose(gray[..., 0], wanted, rtol=1e-6, atol=1e-6)
    colors = jn.data.read_image(tmp_path / name, (5, 6), value_range=bounds)
    np.testing.assert_array_equal(colors, np.repeat(gray, 3, -1))
    pages = jn.data.read_pages(tmp_path / name, value_range=bounds)
    np.testing.assert_array_equal(pages, gray[None])


@pytest.mark.parametrize(("name", "mode", "save", "values"), FORMS.values(), ids=FORMS)
def test_a_missing_range_is_asked_for(tmp_path: Path, name, mode, save, values):
    save(tmp_path / name)
    example = r"\(0, 65535\)" if mode.startswith("I;16") else rf"\({values.min():.6g}, "
    words = rf"{name} has more than 8 bits .* Pass value_range=\(low, high\), .* such as {example}"
    with pytest.raises(ValueError, match=f"read_image: .*{words}"):
        jn.data.read_image(tmp_path / name, 4)
    with pytest.raises(ValueError, match=f"read_pages: .*{words}"):
        jn.data.read_pages(tmp_path / name)


def test_close_integers_are_told_apart(tmp_path: Path):
    """float32 has no number between 1e9 and 1e9 + 64."""
    values = (1_000_000_000 + np.arange(30).reshape(5, 6)).astype(np.int32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    bounds = 1e9, 1e9 + 29
    read = jn.data.read_image(tmp_path / "a.tif", (5, 6), channels=1, value_range=bounds)
    np.testing.assert_allclose(read.ravel(), np.arange(30) / 29, rtol=1e-6)


def test_deep_images_are_cropped_and_turned_as_others(tmp_path: Path):
    """The same picture in 8 and in 16 bits."""
    rng = np.random.default_rng(0)
    levels = np.kron(rng.integers(0, 256, (4, 9)), np.ones((6, 6))).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(levels).save(tmp_path / "8.png", exif=exif)
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "16.png", exif=exif)
    for crop in (True, False):
        options = {"size": (12, 8), "channels": 1, "crop": crop, "value_range": WHOLE}
        deep = jn.data.read_image(tmp_path / "16.png", **options)
        flat = jn.data.read_image(tmp_path / "8.png", **options)
        np.testing.assert_allclose(deep, flat, atol=0.01)


def test_an_enlarged_image_stays_between_its_values(tmp_path: Path):
    """A cubic interpolation overshoots at an edge."""
    edge = np.repeat([[100, 100, 200, 200]], 4, 0).astype(np.uint16)
    Image.fromarray(edge).save(tmp_path / "a.png")
    image = jn.data.read_image(tmp_path / "a.png", 32, channels=1, value_range=(100, 200))
    assert image.min() == 0
    assert image.max() == 1


def test_a_folder_of_8_and_16_bits(tmp_path: Path):
    (tmp_path / "cell").mkdir()
    half = np.full((4, 4), 128, np.uint8)
    Image.fromarray(half).save(tmp_path / "cell/8.png")
    Image.fromarray(half.astype(np.uint16) * 257).save(tmp_path / "cell/16.png")
    Image.fromarray(np.full((4, 4), 128 * 257, np.float32)).save(tmp_path / "cell/float.tif")
    images = jn.data.image_folder(tmp_path, 4, channels=1, value_range=WHOLE).images
    np.testing.assert_allclose(images, 128 / 255, rtol=1e-6)
    with pytest.raises(ValueError, match=r"16\.png has more than 8 bits .* Pass value_range"):
        jn.data.image_folder(tmp_path, 4)


def save_pages(file: Path, pages: np.ndarray) -> Path:
    first, *more = [Image.fromarray(page) for page in pages]
    first.save(file, save_all=True, append_images=more)
    return file


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_pages_are_the_first_axis(tmp_path: Path, dtype):
    values = np.random.default_rng(0).integers(0, 250, (7, 5, 6)).astype(dtype)
    file = save_pages(tmp_path / "a.tif", values)
    bounds = None if dtype == np.uint8 else (0, 250)
    pages = jn.data.read_pages(file, value_range=bounds)
    assert pages.shape == (7, 5, 6, 1)
    assert pages.dtype == np.float32
    np.testing.assert_allclose(pages[..., 0], values / (255 if bounds is None else 250), rtol=1e-6)
    first = jn.data.read_image(file, (5, 6), channels=1, value_range=bounds)
    np.testing.assert_array_equal(first, pages[0])
    smaller = jn.data.read_pages(file, (3, 4), channels=3, value_range=bounds)
    assert smaller.shape == (7, 3, 4, 3)


def test_labels_in_8_bits_come_back(tmp_path: Path):
    labels = np.arange(240, dtype=np.uint8).reshape(4, 6, 10)
    pages = jn.data.read_pages(save_pages(tmp_path / "a.tif", labels))
    np.testing.assert_array_equal(np.rint(255 * pages[..., 0]), labels)


def test_frames_of_a_film_are_pages(tmp_path: Path):
    shades = np.array([0, 90, 255], np.uint8)
    frames = np.broadcast_to(shades[:, None, None], (3, 4, 5))
    pages = jn.data.read_pages(save_pages(tmp_path / "a.gif", frames))
    np.testing.assert_allclose(pages.mean((1, 2, 3)), shades / 255, atol=0.01)


def test_pages_of_different_sizes(tmp_path: Path):
    pages = [Image.fromarray(np.full((4, width), width, np.uint8)) for width in (5, 6)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"different sizes .*\(4, 5\), \(4, 6\). Pass size=\(4, 5"):
        jn.data.read_pages(tmp_path / "a.tif")
    assert jn.data.read_pages(tmp_path / "a.tif", (4, 5)).shape == (2, 4, 5, 1)


def test_only_formats_of_pixels_are_opened(tmp_path: Path, monkeypatch):
    from PIL import EpsImagePlugin

    def never(*args, **kwargs):
        raise AssertionError("an interpreter is started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read as an image of the formats BMP"):
        jn.data.read_pages(tmp_path / "a.tif")


def test_broken_pages_are_named(tmp_path: Path):
    file = save_pages(tmp_path / "a.tif", np.zeros((3, 9, 7), np.uint16))
    raw = file.read_bytes()
    for place in np.random.default_rng(1).integers(0, 8 * len(raw), 200):
        broken = bytearray(raw)
        broken[place // 8] ^= 1 << place % 8
        file.write_bytes(broken)
        try:
            jn.data.read_pages(file, value_range=WHOLE)
        except ValueError as error:
            assert str(error).startswith("read_pages: ")


@pytest.mark.parametrize(("bounds", "error", "words"), [
    (255, TypeError, r"value_range must be \(low, high\), got 255"),
    ((0, 1, 2), TypeError, r"value_range must be \(low, high\)"),
    ((0, np.inf), ValueError, r"value_range\[1\] must be in \(-inf, inf\), got inf"),
    ((0, "a"), TypeError, r"value_range\[1\] must be a number"),
    ((9, 9), ValueError, r"value_range\[0\] must be below value_range\[1\], got 9 and 9"),
], ids=str)  # fmt: skip
def test_ranges_that_are_refused(tmp_path: Path, bounds, error, words):
    for read, options in ((jn.data.read_image, {"size": 4}), (jn.data.read_pages, {})):
        with pytest.raises(error, match=f"{read.__name__}: {words}"):
            read(tmp_path / "a.png", value_range=bounds, **options)


def test_an_image_may_keep_its_size(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = jn.data.read_image(tmp_path / "a.png", None)
    np.testing.assert_array_equal(image, np.float32(pixels) / 255)
