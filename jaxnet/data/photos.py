"""The photographs inside scikit-learn and matplotlib, which need no network."""

import numpy as np

from jaxnet.services.extras import extra


def photos() -> dict[str, np.ndarray]:
    """Load three photographs: a palace in China, a flower, and computer pioneer Grace Hopper.

    They are enough for patches, filters and pictures, but too few to train a classifier.

    Returns:
      A dict from names to images (height, width, 3), float32 in [0, 1]: china and flower of 427x640
      pixels, hopper of 600x512.

    Raises:
      ImportError: If scikit-learn, matplotlib or Pillow is not installed.

    Example:
      >>> {name: photo.shape for name, photo in photos().items()}
      {'china': (427, 640, 3), 'flower': (427, 640, 3), 'hopper': (600, 512, 3)}

    Source and terms: china by danielbuechele and flower by vultilion, both on Flickr, CC BY 2.0;
    hopper, an official portrait of the U.S. Navy, is in the public domain.
    """
    sklearn = extra("sklearn.datasets", "scikit-learn", "photos", "data,viz")
    cbook = extra("matplotlib.cbook", "matplotlib", "photos", "data,viz")
    pillow = extra("PIL.Image", "Pillow", "photos", "data,viz")
    sample = cbook.get_sample_data("grace_hopper.jpg")
    with sample as file, pillow.open(file, formats=["JPEG"]) as image:
        hopper = np.asarray(image.convert("RGB"))
    china, flower = sklearn.load_sample_images().images
    photos = {"china": china, "flower": flower, "hopper": hopper}
    return {name: np.asarray(photo, np.float32) / 255 for name, photo in photos.items()}
