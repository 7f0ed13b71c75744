import pytest

from jaxnet.data import prepare, tfds
from jaxnet.data.builders import multi30k


def test_prepared_and_read_back(site, tmp_path, monkeypatch):
    pairs = site.multi30k(monkeypatch)
    prepare.prepare("test", "multi30k", tmp_path)
    for part, expected in pairs.items():
        data = tfds.load("multi30k", part, data_dir=tmp_path)
        assert set(data) == {"de", "en"}
        assert sorted(zip(data["de"], data["en"], strict=True)) == sorted(expected)


def test_files_of_different_lengths(site, tmp_path, monkeypatch):
    import gzip

    site.multi30k(monkeypatch)
    monkeypatch.setitem(
        multi30k.SHA256, "val.de.gz", site.put("val.de.gz", gzip.compress(b"eins\nzwei\n"))
    )
    with pytest.raises(ValueError, match="multi30k"):
        prepare.prepare("test", "multi30k", tmp_path / "new")
    assert not (tmp_path / "new").exists()
