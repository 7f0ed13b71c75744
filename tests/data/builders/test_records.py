"""Records of strangers: no image of another format is decoded, wherever it is in a record."""

import io
import pickle

import numpy as np
import pytest

from jaxnet.data import tfds
from jaxnet.data.builders.remote import Origin, builder_class

PIXELS = np.array([[0, 255], [255, 0]], np.uint8)
SHAPE = None, None, 1
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n%%EOF\n"
PLACES = "one", "sequence", "nested", "labeled"


def encoded(name):
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, name)
    return out.getvalue()


def dataset(folder, images):
    """Prepare a dataset of one record, and return its name; `images` has the bytes by place."""

    def features(of):
        return {
            "one": of.Image(shape=SHAPE),
            "sequence": of.Sequence(of.Image(shape=SHAPE)),
            "nested": of.Sequence({"deep": {"image": of.Image(shape=SHAPE)}}),
            "labeled": of.LabeledImage(labels=3, shape=SHAPE),
        }

    def splits(downloads):
        def file(place):
            return io.BytesIO(images.get(place, encoded("PNG")))

        example = {
            "one": file("one"),
            "sequence": [file("sequence")],
            "nested": [{"deep": {"image": file("nested")}}],
            "labeled": file("labeled"),
        }
        return {"train": iter([(0, example)])}

    origin = Origin("records", home="nowhere", terms="none", size=0)
    kind = builder_class("pictures", origin, "Test,", features, ("one", "labeled"), splits)
    kind(data_dir=folder, file_format="array_record").download_and_prepare()
    return "pictures"


@pytest.mark.parametrize("place", PLACES)
def test_other_formats_are_not_decoded(place, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    name = dataset(tmp_path, {place: EPS})
    with pytest.raises(ValueError, match=r"is damaged: an image begins with b'%!PS-Ado', so its"):
        tfds.load(name, "train", data_dir=tmp_path)
    source = pickle.loads(pickle.dumps(tfds.source(name, "train", data_dir=tmp_path)))
    with pytest.raises(ValueError, match="an image begins with b'%!PS-Ado'"):
        source[0]  # in another process, as grain's


@pytest.mark.parametrize("name", ["BMP", "JPEG", "PNG"])
def test_the_formats_of_tfds_are_decoded(name, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    dataset(tmp_path, {"one": encoded(name)})
    data = tfds.load("pictures", "train", data_dir=tmp_path)
    image = PIXELS[..., None]
    np.testing.assert_allclose(data["one"][0], image, atol=0 if name != "JPEG" else 16)
    np.testing.assert_array_equal(data["sequence"][0], image[None])
    np.testing.assert_array_equal(data["nested"]["deep"]["image"][0], image[None])
    np.testing.assert_array_equal(data["labeled"][0], image)
