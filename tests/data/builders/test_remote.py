import os
from pathlib import Path

import pytest

from jaxnet.data.builders.remote import Remote, contents


def test_a_file(site, tmp_path):
    sha256 = site.put("words.txt", b"abc")
    # by hand: sha256sum
    assert sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    found = contents("words", Remote(f"{site.address}/words.txt", sha256), tmp_path, 3)
    assert found == {"words.txt": b"abc"}
    assert not os.listdir(tmp_path)


def test_the_used_files_of_an_archive_in_order(site, tmp_path):
    files = {"data/b.txt": b"bb", "README.md": b"no", "data/a.txt": b"a", "data/deep/c.txt": b"c"}
    used = {path: files[path] for path in ("data/a.txt", "data/b.txt")}
    sha256 = site.archive("used.tar.gz", used)
    site.archive("all.tar.gz", files)
    remote = Remote(f"{site.address}/all.tar.gz", sha256, inside=r"data/\w+\.txt")
    assert list(contents("data", remote, tmp_path, None).items()) == list(used.items())


def test_an_archive_packed_by_another_program_is_the_same(site, tmp_path):
    files = {"b.txt": b"bb", "a.txt": b"a"}
    one = site.archive("one.tar.gz", files)
    other = site.archive("other.tar.gz", dict(reversed(files.items())))
    data = [(site.folder / name).read_bytes() for name in ("one.tar.gz", "other.tar.gz")]
    assert one == other
    assert data[0] != data[1]
    for name in ("one", "other"):
        remote = Remote(f"{site.address}/{name}.tar.gz", one, inside=r".*")
        assert contents("data", remote, tmp_path, 9)["b.txt"] == b"bb"


def test_a_download_that_breaks_off(site, tmp_path):
    sha256 = site.put("cut.txt", bytes(5000))
    with pytest.raises(OSError, match="stopped after 2,500 of 5,000 bytes; try again"):
        contents("words", Remote(f"{site.address}/cut.txt", sha256), tmp_path, 5000)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kept", [0, 2000])
def test_a_truncated_archive(kept, site, tmp_path):
    sha256 = site.archive("half.tar.gz", {"a.txt": os.urandom(4000)})
    file = Path(site.folder, "half.tar.gz")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(OSError, match="half.tar.gz is not a whole archive .*; try again"):
        contents("words", Remote(f"{site.address}/half.tar.gz", sha256, ".*"), tmp_path, 4000)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name, files, words", [
    ("a.txt", None, "data: .*a.txt has the sha256 ca978112ca1b.*, expected 000"),
    ("all.tar.gz", {"a.txt": b"a", "b.txt": b"b"}, "has the sha256 .*, expected"),
    ("all.tar.gz", {"a.txt": b"bb", "b.txt": b"a"}, "has the sha256 .*, expected"),  # names count
    ("none.txt", None, r"^data: http\S+/none.txt answered 404 File not found$"),
    ("http://127.0.0.1:1/a", None, r"^data: cannot reach http://127.0.0.1:1/a: .*refused"),
])  # fmt: skip
def test_refusals(name, files, words, site, tmp_path):
    site.archive("all.tar.gz", {"a.txt": b"a", "b.txt": b"bb"})
    site.put("a.txt", b"a")
    sha256, inside = ("0" * 64, None) if files is None else (site.archive("b.tar.gz", files), ".*")
    address = name if ":" in name else f"{site.address}/{name}"
    with pytest.raises(OSError, match=words):
        contents("data", Remote(address, sha256, inside), tmp_path, 3)
