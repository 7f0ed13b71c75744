import io

import numpy as np
import pytest
from scipy.io import savemat

from jaxnet.data import faces as load
from jaxnet.data import prepare
from jaxnet.data.builders import olivetti
from jaxnet.data.builders.olivetti import faces


def matlab(images, **others):
    """A file in the form of the public one: a column for each picture, downwards first."""
    columns = images.transpose(0, 2, 1).reshape(len(images), -1).T
    out = io.BytesIO()
    savemat(out, {"faces": columns, "p": np.full((1, 40), 0.25), **others}, do_compression=True)
    return out.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_pictures_stand_upright(dtype):
    images = np.arange(3 * 64 * 64).reshape(3, 64, 64) % 251
    np.testing.assert_array_equal(faces(matlab(images.astype(dtype))), images)


def test_prepared_and_read_back(site, tmp_path, monkeypatch):
    """Three people with ten pictures each: seven for training, three for test, in order."""
    images = np.random.default_rng(0).integers(0, 256, (30, 64, 64), np.uint8)
    sha256 = site.put("5976027", matlab(images))
    archive = olivetti.ARCHIVE._replace(address=f"{site.address}/5976027", sha256=sha256)
    monkeypatch.setattr(olivetti, "ARCHIVE", archive)
    data = load(data_dir=tmp_path, download=True)
    assert data.name == "olivetti"
    rows = np.arange(30) % 10 < 7
    for (x, y), of in zip(data, (rows, ~rows), strict=True):
        np.testing.assert_allclose(x[..., 0], images[of] / 255, rtol=1e-6)
        np.testing.assert_array_equal(y, np.arange(30)[of] // 10)
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
    info = olivetti.builder()(data_dir=tmp_path).info
    assert "AT&T Laboratories Cambridge" in info.description


def test_another_file_is_refused(site, tmp_path, monkeypatch):
    archive = olivetti.ARCHIVE._replace(address=f"{site.address}/5976027")
    monkeypatch.setattr(olivetti, "ARCHIVE", archive)
    site.put("5976027", b"<html>")
    with pytest.raises(OSError, match="has the sha256"):
        prepare.prepare("test", "olivetti", tmp_path)
    small = io.BytesIO()
    savemat(small, {"faces": np.zeros((5, 3))})
    for data in (b"<html>", small.getvalue(), b""):
        with pytest.raises(ValueError, match=r'olivetti: .* "faces" of 4,096 rows'):
            faces(data)
