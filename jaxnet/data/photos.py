"""Photographs that come with the dependencies: few, and there without a network."""

from typing import Any

import numpy as np

NAMES = ("china", "flower", "hopper")


def photos() -> dict[str, np.ndarray]:
    """Three photographs: a palace in China, a flower, and the computer pioneer Grace Hopper.

    Enough for patches, filters and pictures, and far too few to learn what things look like.

    Returns:
      name -> (height, width, 3) float32 in [0, 1]: china and flower of 427x640 pixels, hopper of
      600x512.

    Raises:
      ImportError: where scikit-learn, matplotlib or Pillow is not installed; they hold the photos,
        and read them.

    Example:
      >>> {name: photo.shape for name, photo in photos().items()}
      {'china': (427, 640, 3), 'flower': (427, 640, 3), 'hopper': (600, 512, 3)}
    """
    try:
        from matplotlib.cbook import get_sample_data
        from PIL import Image
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError(
            f"photos: needs scikit-learn, matplotlib and Pillow, which hold the photos ({error}); "
            "install the extras jaxnet-toolkit[data,viz]: in a checkout, "
            'pip install -e ".[data,viz]"'
        ) from error
    file: Any = get_sample_data("grace_hopper.jpg")  # typed as an array too, which it is not here
    with file, Image.open(file) as image:
        hopper = np.asarray(image.convert("RGB"))
    found = zip(NAMES, [*load_sample_images().images, hopper], strict=True)
    return {name: np.asarray(photo, np.float32) / 255 for name, photo in found}
