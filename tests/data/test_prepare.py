"""The command, and datasets as the public repositories have them."""

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnet.data import prepare, tfds
from jaxnet.data.builders import (
    BUILDERS,
    ORIGINS,
    camvid,
    cifar10,
    free_spoken_digits,
    mnist,
    movielens_100k,
    multi30k,
    olivetti,
)

# The command catches a missing package and says it, so the rule that skips does not see it.
pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")


def test_the_command_prepares_once(site, tmp_path, monkeypatch, capsys):
    site.multi30k(monkeypatch)
    place = tmp_path / "new" / "datasets"
    assert prepare.main(["multi30k", "--data-dir", str(place)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "multi30k: 31,014 captions of photographs, in German and English",
        f"  from https://github.com/multi30k/dataset (1 MB), into {place}",
        "  terms: non-commercial research and education; the captions describe photographs of "
        "Flickr",
        "multi30k is prepared",
    ]
    assert os.listdir(place) == ["multi30k"]
    assert tfds.prepared(place) == ["multi30k"]
    shutil.rmtree(site.folder)  # it is not asked again
    assert prepare.main(["multi30k", "--data-dir", str(place)]) == 0
    assert capsys.readouterr().out == f"multi30k is already in {place}\n"


def test_a_terminal_of_ascii_gets_what_it_can_show(site, tmp_path, monkeypatch):
    site.multi30k(monkeypatch)
    place = tmp_path / "Größen"
    for words in ("is prepared", "is already in"):
        terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", terminal)
        assert prepare.main(["multi30k", "--data-dir", str(place)]) == 0
        terminal.flush()
        printed = terminal.buffer.getvalue().decode()
        assert words in printed and "Gr??en" in printed


def test_a_loader_prepares(site, tmp_path, monkeypatch):
    site.multi30k(monkeypatch)
    with pytest.raises(FileNotFoundError, match="run python -m jaxnet.data.prepare multi30k"):
        tfds.load("multi30k", "test", data_dir=tmp_path)
    data = tfds.load("multi30k", "test", data_dir=tmp_path, download=True)
    assert sorted(data["en"]) == ["Nothing", "Street"]
    assert len(tfds.source("multi30k:1.0.0", "train", data_dir=tmp_path, download=True)) == 3


def fails(capsys, *arguments):
    """The one line that the command prints about an error."""
    assert prepare.main(list(arguments)) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "multi30k" in x or "prepare" in x]
    return line


def test_a_wrong_checksum_leaves_nothing(site, tmp_path, monkeypatch, capsys):
    site.multi30k(monkeypatch)
    site.put("val.en.gz", b"changed")
    place = tmp_path / "new"
    assert "val.en.gz has the sha256" in fails(capsys, "multi30k", "--data-dir", str(place))
    assert not place.exists()


def test_unknown_names(tmp_path, capsys):
    words = "prepare: unknown dataset minst, camvit; choose from bccd, camvid, cifar10"
    assert fails(capsys, "minst", "camvid", "camvit", "--data-dir", str(tmp_path)).startswith(words)
    assert not os.listdir(tmp_path)
    with pytest.raises(ValueError, match="there is no dataset 'minst' here; jaxnet has camv"):
        tfds.load("minst", "train", data_dir=tmp_path, download=True)


@pytest.mark.parametrize("installed", [True, False])
def test_datasets_that_need_tensorflow_to_be_listed(installed, tmp_path, monkeypatch):
    """TensorFlow Datasets leaves out those whose modules import it, such as glue."""
    monkeypatch.setattr(prepare, "find_spec", lambda name: name if installed else None)
    with pytest.raises(ValueError, match="there is no dataset 'minst' here") as error:
        tfds.load("minst", "train", data_dir=tmp_path, download=True)
    assert ("run pip install tensorflow once" in str(error.value)) == (not installed)


@pytest.mark.parametrize(("name", "other"), [
    ("orl_faces", "olivetti"), ("jester", "movielens_100k"), ("movielens", "movielens_100k"),
])  # fmt: skip
def test_what_to_prepare_instead(name, other, tmp_path, capsys):
    """Of data that cannot be downloaded; each message names a command that works."""
    line = fails(capsys, name, "--data-dir", str(tmp_path))
    assert line.startswith(f"prepare: unknown dataset {name}; ")
    assert line.endswith(f" Instead of {name}, prepare {other}.")
    assert other in BUILDERS
    if name == "movielens":  # which the catalog has, in other forms
        return
    with pytest.raises(FileNotFoundError, match=f"python -m jaxnet.data.prepare {other}$"):
        tfds.load(name, "train", data_dir=tmp_path)
    with pytest.raises(ValueError, match=f"Instead of {name}, prepare {other}.$"):
        tfds.load(name, "train", data_dir=tmp_path, download=True)


def test_another_version_of_what_cannot_be_downloaded(tmp_path, tfds_data_dir):
    if "orl_faces" not in tfds.prepared(tfds_data_dir):
        pytest.skip("orl_faces is not in TFDS_DATA_DIR")
    with pytest.raises(FileNotFoundError, match="another dataset: .*prepare olivetti$"):
        tfds.load("orl_faces:1.0.0", "train", data_dir=tfds_data_dir)


def test_a_place_that_is_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = fails(capsys, "multi30k", "--data-dir", str(tmp_path / "file" / "new"))
    assert line.startswith("prepare: multi30k cannot be prepared in ")
    assert "Not a directory" in line


def test_no_room(tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    line = fails(capsys, "camvid", "--data-dir", str(tmp_path))
    assert "the download has 187 MB, and" in line
    assert "only 1 MB of free space" in line


def test_the_catalogue_needs_tensorflow(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    line = fails(capsys, "bccd", "--data-dir", str(tmp_path))
    assert "which needs TensorFlow" in line
    assert "pip install tensorflow" in line
    assert not os.listdir(tmp_path)


def test_what_the_catalogue_raises_is_one_line(tmp_path, monkeypatch, capsys):
    import tensorflow_datasets

    class Broken:
        def download_and_prepare(self, **options):
            Path(tmp_path, "bccd").mkdir()
            raise RuntimeError("HTTP code: 404.\nTo debug, see a page.")

    monkeypatch.setitem(sys.modules, "tensorflow", np)
    monkeypatch.setattr(tensorflow_datasets, "builder", lambda name, **options: Broken())
    line = fails(capsys, "bccd", "--data-dir", str(tmp_path))
    assert line.endswith("RuntimeError: HTTP code: 404. To debug, see a page.")
    assert not os.listdir(tmp_path)


def test_without_tfds_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "[data]" in fails(capsys, "multi30k", "--data-dir", str(tmp_path))


@pytest.mark.parametrize("name", ["bccd", "cifar10", "mnist", "tiny_shakespeare"])
def test_sizes_are_those_of_tfds(name, tmp_path):
    import tensorflow_datasets

    infos = tensorflow_datasets.builder(name, data_dir=tmp_path).url_infos
    assert ORIGINS[name].size == sum(info.size for info in infos.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_the_public_files_give_the_prepared_sets(name, site, tmp_path, tfds_data_dir, monkeypatch):
    """Example for example. Not byte for byte: the order of features in a record is protobuf's and
    differs by its version; and other programs write other PNG files for the same mask.

    JAXNET_DOWNLOADS is a folder of the downloads, under the last part of their addresses.
    """
    folder = os.environ.get("JAXNET_DOWNLOADS", "")
    if not os.path.isdir(folder):
        pytest.skip("JAXNET_DOWNLOADS names no folder of downloads")
    if name not in tfds.prepared(tfds_data_dir):
        pytest.skip(f"{name} is not in TFDS_DATA_DIR")
    for file in Path(folder).iterdir():
        (site.folder / file.name).symlink_to(file.resolve())
    monkeypatch.setattr(multi30k, "RAW", site.address)
    monkeypatch.setattr(mnist, "ORIGIN", mnist.ORIGIN._replace(home=site.address))
    for module in (camvid, cifar10, free_spoken_digits, movielens_100k, olivetti):
        last = module.ARCHIVE.address.rpartition("/")[2]
        archive = module.ARCHIVE._replace(address=f"{site.address}/{last}")
        monkeypatch.setattr(module, "ARCHIVE", archive)
    prepare.prepare("test", name, tmp_path)
    parts = ("train", "validation", "test") if name in ("camvid", "multi30k") else ("train", "test")
    for part in parts:
        expected = tfds.load(name, part, data_dir=tfds_data_dir)
        found = tfds.load(name, part, data_dir=tmp_path)
        assert set(found) == set(expected)
        for feature, values in expected.items():
            assert len(found[feature]) == len(values) > 0
            for a, b in zip(found[feature], values, strict=True):
                assert type(a) is type(b)
                np.testing.assert_array_equal(a, b)
