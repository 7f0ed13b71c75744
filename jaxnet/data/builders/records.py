"""How the images in a dataset's records are decoded, since they may come from a stranger."""

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

# What TFDS writes, by the first bytes. Pillow opens others too, and starts Ghostscript for EPS.
FORMATS = {"BMP": b"BM", "GIF": b"GIF8", "JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}


def decode_only_images(features: Any) -> None:
    """Let the images of a dataset be decoded only if they have one of the formats of TFDS.

    Args:
      features: Features of the dataset as TFDS made them; they are changed.

    Example:
      >>> decode_only_images(datasets.features.Image())  # doctest: +SKIP
    """
    # By name: TFDS would advise to install OpenCV, in the log of the whole process.
    method = "decode_example_np_with_" + ("opencv" if find_spec("cv2") else "pil")
    for feature in _all_features(features):
        if hasattr(type(feature), method):
            # On the object, because TFDS asks the feature itself if it is inside a sequence.
            feature.decode_example_np = partial(_decoded, feature, method)


def _all_features(feature: Any) -> Iterator[Any]:
    """Yield a feature and those inside of it, which are its attributes or in dicts of these."""
    yield feature
    for value in vars(feature).values():
        for inside in value.values() if isinstance(value, dict) else [value]:
            if hasattr(inside, "get_serialized_info"):
                yield from _all_features(inside)


def _decoded(feature: Any, method: str, data: bytes) -> np.ndarray:
    if not data.startswith(tuple(FORMATS.values())):
        raise ValueError(
            f"an image begins with {data[:8]!r}, so its format is not one of {', '.join(FORMATS)}"
        )
    return getattr(feature, method)(data, feature.shape[-1])
