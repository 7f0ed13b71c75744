"""Folders of images as arrays: order, proportions, modes, and what cannot be read."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import jaxnet as jn

Image = pytest.importorskip("PIL.Image", reason="needs the extra jaxnet-toolkit[data]")


def write(file: Path, pixels: np.ndarray, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(file, **options)
    return file


def flat(value: int, *shape: int) -> np.ndarray:
    return np.full(shape, value)


def test_classes_by_name_and_files_in_order(tmp_path: Path):
    write(tmp_path / "dog" / "b.png", flat(200, 6, 9, 3))
    write(tmp_path / "dog" / "a.JPEG", flat(100, 5, 4, 3))
    write(tmp_path / "cat" / "more" / "c.png", flat(50, 3, 3))  # gray, and deeper
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    write(tmp_path / ".thumbnails" / "a.png", flat(1, 3, 3))
    write(tmp_path / "cat" / ".hidden.png", flat(1, 3, 3))
    images, labels, classes, files = jn.data.image_folder(tmp_path, (4, 5))
    assert images.shape == (3, 4, 5, 3)
    assert images.dtype == np.float32
    assert labels.tolist() == [0, 1, 1]
    assert labels.dtype == np.int32
    assert classes == ["cat", "dog"]
    assert [file.name for file in files] == ["c.png", "a.JPEG", "b.png"]
    np.testing.assert_allclose(images.mean((1, 2, 3)) * 255, [50, 100, 200], atol=1)
    for image, file in zip(images, files, strict=True):
        np.testing.assert_array_equal(image, jn.data.read_image(file, (4, 5)))


@pytest.mark.parametrize("classes", [["cat", "dog", "cat"], {"cat", "dog"}])
def test_classes_are_names_in_order(tmp_path: Path, classes):
    write(tmp_path / "cat" / "a.png", flat(1, 3, 3))
    with pytest.raises((TypeError, ValueError), match="image_folder: classes"):
        jn.data.image_folder(tmp_path, 4, classes=classes)


def test_pixels_of_the_right_size_are_kept(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3))
    file = write(tmp_path / "a.png", pixels)
    image = jn.data.read_image(file, (5, 7))
    np.testing.assert_array_equal(image, (pixels / 255).astype("f4"))


def test_the_middle_is_taken_in_its_proportions_or_the_whole_stretched(tmp_path: Path):
    """Left and right quarters of a wide image are cut off; boxes need the whole image."""
    row = [10] * 4 + [100] * 4 + [200] * 4 + [10] * 4
    pixels = np.repeat([row], 8, axis=0)
    file = write(tmp_path / "a.png", pixels)
    image = jn.data.read_image(file, 8, channels=1)
    assert image.shape == (8, 8, 1)
    wanted = np.repeat([[100] * 4 + [200] * 4], 8, 0)
    np.testing.assert_array_equal(image[..., 0] * 255, wanted)
    image = jn.data.read_image(file, (8, 4), channels=1, crop=False)[..., 0] * 255
    assert image.shape == (8, 4)
    wanted = np.repeat([[10, 100, 200, 10]], 8, 0)
    np.testing.assert_allclose(image, wanted, atol=25)


def test_turned_as_the_camera_was_held(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    pixels = np.repeat([[[0], [255]]], 2, axis=0).repeat(8, 0).repeat(8, 1)  # dark left half
    file = write(tmp_path / "a.jpg", pixels[..., 0], exif=exif, quality=95)
    image = jn.data.read_image(file, 2, channels=1)[..., 0]
    np.testing.assert_allclose(image, [[0, 0], [1, 1]], atol=0.1)  # which is above then


def test_transparent_is_white_and_palettes_are_colors(tmp_path: Path):
    pixels = np.zeros((2, 2, 4))
    pixels[0] = [255, 0, 0, 255]  # the second row is transparent
    file = write(tmp_path / "a.png", pixels)
    expected = np.array([[[1, 0, 0]] * 2, [[1, 1, 1]] * 2])
    np.testing.assert_array_equal(jn.data.read_image(file, 2), expected)
    Image.open(file).convert("RGB").convert("P").save(tmp_path / "b.gif")
    first = jn.data.read_image(tmp_path / "b.gif", 2)[0]
    np.testing.assert_array_equal(first, expected[0])


def png(depth: int, color: int, values: int) -> bytes:
    """A PNG of 2x2 pixels whose samples are all 200 or 51,400."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4)
        return struct.pack(">I4s", len(data), kind) + data + checksum

    row = b"\0" + bytes([200]) * (2 * values * depth // 8)
    head = struct.pack(">IIBBBBB", 2, 2, depth, color, 0, 0, 0)
    pixels = zlib.compress(row * 2)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def ppm(depth: int) -> bytes:
    head = b"P6\n2 2\n%d\n" % (2**depth - 1)
    return head + bytes([200]) * (12 * depth // 8)


def tiff(depth: int) -> bytes:
    """An uncompressed RGB TIFF of 2x2 pixels."""
    data = bytes([200]) * (12 * depth // 8)
    tags = [(256, 3, 1, 2), (257, 3, 1, 2), (258, 3, 3, 122), (259, 3, 1, 1), (262, 3, 1, 2),
            (273, 4, 1, 128), (277, 3, 1, 3), (278, 3, 1, 2), (279, 4, 1, len(data))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    head += entries + struct.pack("<I", 0)
    return head + struct.pack("<3H", depth, depth, depth) + data


DEEP = {
    "gray.png": lambda depth: png(depth, 0, 1),
    "rgba.png": lambda depth: png(depth, 6, 4),
    "rgb.ppm": ppm,
    "rgb.tif": tiff,
}


@pytest.mark.parametrize("name", DEEP)
def test_16_bits_are_not_cut_to_8(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(DEEP[name](8))
    assert jn.data.read_image(tmp_path / name, 2).shape == (2, 2, 3)
    (tmp_path / name).write_bytes(DEEP[name](16))
    with pytest.raises(ValueError, match=rf"read_image: .*{name} has more than 8 bits per channel"):
        jn.data.read_image(tmp_path / name, 2)


def test_only_formats_of_pixels_are_opened(tmp_path: Path, monkeypatch):
    """PostScript is a program, and Pillow runs an interpreter for it."""
    from PIL import EpsImagePlugin

    def never(*args, **kwargs):
        raise AssertionError("an interpreter is started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image of the formats BMP"):
        jn.data.read_image(tmp_path / "a.png", 4)


def test_a_decompression_bomb_is_named(tmp_path: Path, monkeypatch):
    file = write(tmp_path / "a.png", flat(0, 40, 40, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"a\.png cannot be read .*decompression bomb"):
        jn.data.read_image(file, 4)


@pytest.mark.parametrize("suffix", ["png", "gif", "tif", "jpg", "webp"])
def test_broken_files_are_named(tmp_path: Path, suffix: str):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3))
    file = write(tmp_path / f"a.{suffix}", pixels)
    raw = file.read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.integers(0, 8 * min(len(raw), 300), 60):
        broken = bytearray(raw)
        broken[place // 8] ^= 1 << place % 8
        file.write_bytes(broken)
        try:
            jn.data.read_image(file, 4)
        except ValueError as error:
            assert str(error).startswith(f"read_image: {file} ")


def test_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"read_image: needs Pillow .*pip install .*\[data\]"):
        jn.data.read_image(tmp_path / "a.png", 4)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of images, each with something wrong."""
    root = tmp_path_factory.mktemp("folders")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    whole = write(root / "whole.png", pixels)
    contents = {
        "loose/photo.png": b"",
        "none/cat/a.txt": b"",
        "text.png": b"no",
        "cut/cat/a.png": whole.read_bytes()[:900],
    }
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (root / "empty").mkdir()
    write(root / "linked/cat/a.png", np.zeros((4, 4, 3)))
    (root / "linked/cat/more").symlink_to(root / "cut/cat")
    deep = np.full((4, 4), 40_000, np.uint16)
    Image.fromarray(deep).save(root / "deep.png")
    return root


@pytest.mark.parametrize(("name", "words"), [
    ("nowhere", "image_folder: .* is not a folder. Pass a folder with one"),
    ("empty", "one folder per class .* it has nothing"),
    ("loose", r"one folder per class .* it has photo\.png"),
    ("none", r"class 'cat' has no images \(.*\.png.*; .* has a\.txt"),
    ("linked", "cat/more is a link to a folder; move the images here"),
    ("cut", r"cat/a\.png cannot be read as an image"),
], ids=str)  # fmt: skip
def test_folders_that_cannot_be_read(folders: Path, name: str, words: str):
    with pytest.raises(ValueError, match=words):
        jn.data.image_folder(folders / name, 4)


@pytest.mark.parametrize(("name", "options", "error", "words"), [
    ("text.png", {}, ValueError, r"text\.png cannot be read as an image"),
    ("deep.png", {}, ValueError, r"deep\.png has more than 8 bits per channel \(mode I;16"),
    ("whole.png", {"size": (0, 4)}, ValueError, "size must be integers of at least 1"),
    ("whole.png", {"size": "8"}, ValueError, "size must be integers of at least 1"),
    ("whole.png", {"size": (4, 4, 3)}, ValueError, "size must be integers of at least 1"),
    ("whole.png", {"channels": 4}, ValueError, "channels must be 3"),
    ("no.png", {}, FileNotFoundError, "read_image: there is no file .*no.png"),
    ("empty", {}, IsADirectoryError, "read_image: .* is a folder"),
], ids=str)  # fmt: skip
def test_images_that_cannot_be_read(folders: Path, name: str, options: dict, error, words: str):
    with pytest.raises(error, match=words):
        jn.data.read_image(folders / name, **{"size": 4} | options)


def test_a_size_may_be_of_numpy(folders: Path):
    assert jn.data.read_image(folders / "whole.png", np.int64(4)).shape == (4, 4, 3)


def test_classes_of_the_training_folder_number_those_of_a_test_folder(tmp_path: Path):
    write(tmp_path / "dog/a.png", flat(1, 3, 3))
    (tmp_path / "cat").mkdir()
    found = jn.data.image_folder(tmp_path, 4, classes=["ant", "cat", "dog"])
    assert found.labels.tolist() == [2]
    assert found.classes == ["ant", "cat", "dog"]
    with pytest.raises(ValueError, match="not among classes: dog"):
        jn.data.image_folder(tmp_path, 4, classes=["ant", "cat"])


COMPOSED, DIVIDED = "caf\u00e9", "cafe\u0301"  # one name, as Linux and as macOS write it


@pytest.mark.parametrize("there", [COMPOSED, DIVIDED])
@pytest.mark.parametrize("wanted", [COMPOSED, DIVIDED, None])
def test_a_name_with_an_accent_is_one_name(tmp_path: Path, there: str, wanted: str | None):
    write(tmp_path / there / "1.png", flat(9, 8, 8, 3))
    write(tmp_path / "tea" / "1.png", flat(8, 8, 8, 3))
    classes = None if wanted is None else [wanted, "tea"]
    found = jn.data.image_folder(tmp_path, 8, classes=classes)
    assert found.classes == [COMPOSED, "tea"] and found.labels.tolist() == [0, 1]


def test_two_folders_of_one_name_are_named(tmp_path: Path):
    for name in (COMPOSED, DIVIDED):
        write(tmp_path / name / "1.png", flat(9, 8, 8, 3))
    with pytest.raises(ValueError, match="two folders whose names look alike, 'cafe.u0301' and"):
        jn.data.image_folder(tmp_path, 8)
