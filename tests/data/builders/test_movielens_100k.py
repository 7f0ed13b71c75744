import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxnet.data import prepare, tfds
from jaxnet.data.builders import movielens_100k

RATED = {
    "ml-100k/ua.base": [(1, 1, 5), (1, 7, 3), (2, 1682, 1), (943, 2, 4)],
    "ml-100k/ua.test": [(1, 2, 2), (943, 1, 1)],
}


def test_prepared_and_read_back(site, tmp_path, monkeypatch):
    """Stars in the row of a person and the column of a movie, NaN elsewhere."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("ml-100k/u.item", "1|Toy Story (1995)|")
        for name, rows in RATED.items():
            lines = "".join(f"{a}\t{b}\t{c}\t8749657{a}\n" for a, b, c in rows)
            archive.writestr(name, lines)
    sha256 = site.put("ml-100k.zip", out.getvalue())
    address = f"{site.address}/ml-100k.zip"
    pinned = movielens_100k.ARCHIVE._replace(address=address, sha256=sha256)
    monkeypatch.setattr(movielens_100k, "ARCHIVE", pinned)
    assert prepare.main(["movielens_100k", "--data-dir", str(tmp_path)]) == 0
    data = tfds.load("movielens_100k", "train", data_dir=tmp_path)
    for name, rows in zip(("ratings", "held_out"), RATED.values(), strict=True):
        table = np.full((943, 1682), np.nan)
        for person, movie, stars in rows:
            table[person - 1, movie - 1] = stars
        found = data[name][np.lexsort(np.nan_to_num(data[name]).T)]  # people come in any order
        expected = table[np.lexsort(np.nan_to_num(table).T)]
        np.testing.assert_array_equal(found, expected.astype(np.float32))
    known = np.nan_to_num(data["ratings"][:, 0]) == 5
    assert data["held_out"][known, 1].tolist() == [2]  # the same person


def test_the_checksum_is_that_of_tfds():
    datasets = pytest.importorskip("tensorflow_datasets")
    listed = Path(datasets.__file__).parent / "url_checksums/movielens.txt"
    rows = [line.split() for line in listed.read_text().splitlines()]
    archive, size = movielens_100k.ARCHIVE, str(movielens_100k.ORIGIN.size)
    assert [archive.address, size, archive.sha256] in [row[:3] for row in rows]
