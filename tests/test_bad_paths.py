"""A path that cannot be read or written gets an error of ours, in every public function."""

import contextlib
import importlib
import inspect
import itertools
import os
import re
import shutil
from functools import cache

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxnet as jn
from tests import bad_paths
from tests.test_api import PARTS, members

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes, pipes and limits are of Unix")
DEEP = 100_000
KEYS_MAY_REPEAT = True  # each call is made many times
PACKAGES = "PIL", "gguf", "jinja2", "matplotlib", "tensorflow_datasets", "tokenizers", "flatbuffers"
# Forms that a reader of checkpoints takes for the folder of a new run.
NEW = {"missing", "broken_link", "a_folder"}
# Modules that users import next to the parts of `jaxnet`.
MODULES = "data.prepare", "data.tfds", "interop.export", "interop.onnx", "interop.torch"
# Public functions whose path is the way to a layer, or that hand theirs to one of the table.
OTHERS = {
    "prepare": "python -m jaxnet.data.prepare calls it, with a folder that `folder` returns",
    "prepared": "tfds.load",
}


@cache
def table():
    for package in PACKAGES:
        pytest.importorskip(package)
    return bad_paths.read_files() | bad_paths.read_folders() | bad_paths.writers()


READ = [
    "load", "Vocabulary.load", "read_image", "read_pages", "load_exported", "decoder_config",
    "decoder_table", "from_torch", "to_torch", "by_names", "by_names of a list", "load of a .gguf",
    "tokenizer of a .gguf", "image_folder", "pretrained.load", "tokenizer", "chat", "load_adapter",
    "by_names of a folder", "processor", "time_by_layer", "Checkpoints", "bccd", "camvid",
    "cifar10", "faces", "mnist", "spoken_digits", "tfds.load", "tfds.source",
]  # fmt: skip
WRITTEN = [
    "save", "Vocabulary.save", "viz.save", "Program.save", "to_onnx", "append_log",
    "pretrained.save", "save_adapter", "Checkpoints.save",
]  # fmt: skip
NAMES = READ + WRITTEN


def row_of(name):
    if name == "to_onnx":
        pytest.importorskip("jax2onnx")
    return table()[name]


def wrong(call, path, *contexts):
    """Say what is wrong with the error of a call; "" for an error of ours, None for a value."""
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(bad_paths.in_time())
            for context in contexts:
                stack.enter_context(context)
            call(path)
    except (bad_paths.TooLong, Exception) as error:
        words = f"{type(error).__name__}: {error}"[:300]
        if not re.match(r"(torch weights|(\w+\.)?\w+): \S", str(error)) or "[Errno" in str(error):
            return words
        return "" if isinstance(error, OSError | TypeError | ValueError) else words
    return None


def test_the_table_is_complete():
    assert sorted(table()) == sorted(NAMES)


def test_every_public_function_with_a_path_is_in_the_table():
    names = {name.split(" of ")[0].rpartition(".")[2] for name in NAMES}
    for where, name, parameter in paths_of_the_api():
        last = name.rpartition(".")[2]
        assert last in names or last in OTHERS, f"{where}.{name}: {parameter}"


def paths_of_the_api():
    """The part, name and parameter of all public functions whose annotation names a path."""
    parts = [(part, members(part)) for part in PARTS]
    for name in MODULES:
        module = importlib.import_module(f"jaxnet.{name}")
        own = (getattr(v, "__module__", "") == module.__name__ for v in vars(module).values())
        found = itertools.compress(vars(module).items(), own)
        parts.append((name, {n: v for n, v in found if not n.startswith("_")}))
    for part, found in parts:
        for name, value in found.items():
            if not str(getattr(value, "__module__", "")).startswith("jaxnet."):
                continue
            functions = {name: value}
            if inspect.isclass(value):
                methods = {k: v for k, v in vars(value).items() if not k.startswith("_")}
                functions |= {f"{name}.{k}": getattr(v, "__func__", v) for k, v in methods.items()}
            for full, function in functions.items():
                if callable(function):
                    for parameter in inspect.signature(function).parameters.values():
                        if re.search(r"Path|FilePath", str(parameter.annotation)):
                            yield part, full, parameter.name


def test_the_search_for_paths_finds_them():
    found = {name for _, name, _ in paths_of_the_api()}
    assert found >= {"load", "save", "Vocabulary.save", "Program.save", "image_folder", "to_onnx"}
    assert len(found) > 25


@pytest.mark.fast_cases("load", "by_names", "mnist", "append_log", "save_adapter")
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_path_gets_an_error_of_ours(name, tmp_path):
    row = row_of(name)
    found = {}
    for form in bad_paths.FORMS[row.kind]:
        folder = tmp_path / form.__name__
        folder.mkdir()
        path = form(folder, row.name)
        said = wrong(row.call, path, bad_paths.without_rights())
        if said != "" and not (said is None and name == "Checkpoints" and form.__name__ in NEW):
            found[form.__name__] = said
    assert found == {}


DATASETS = "bccd", "camvid", "cifar10", "faces", "mnist", "spoken_digits"
READERS = [name for name in READ if name not in DATASETS]


def put_pipe(path):
    os.mkfifo(path)


def put_folder(path):
    path.mkdir()


def put_loop(path):
    path.symlink_to(path)


def put_nothing(path):
    path.symlink_to(path.with_name("gone"))


def put_locked(path):
    path.touch(0)


def put_deep_json(path):
    path.write_text('{"a":' * DEEP + "1" + "}" * DEEP, encoding="utf-8")


def put_deep_notes(path):
    deep = "[" * DEEP + "]" * DEEP
    save_file({"a": np.ones(2)}, path, {"jaxnet": deep, "config": deep, "format": "jaxnet 1"})


PUTS = [
    put_pipe, put_folder, put_loop, put_nothing, put_locked, put_deep_json, put_deep_notes,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_file_in_a_folder_that_is_something_else_gets_an_error_of_ours(name, put, tmp_path):
    row = row_of(name)
    usual = tmp_path / "usual"
    usual.mkdir()
    row.write(usual)
    files = [usual / row.usual] if row.usual else sorted(p for p in usual.rglob("*") if p.is_file())
    if name == "tfds.source" and put in (put_deep_json, put_deep_notes):
        files = [file for file in files if file.suffix == ".json"]  # records are read by the user
    found = {}
    for i, file in enumerate(files):
        folder = tmp_path / str(i)
        shutil.copytree(usual, folder)
        path = folder / file.relative_to(usual)
        path.unlink()
        put(path)
        said = wrong(row.call, path if row.usual else folder, bad_paths.without_rights())
        if said:  # some do not need every file
            found[str(file.relative_to(usual))] = said
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_vanishes_gets_an_error_of_ours(name, tmp_path):
    row = row_of(name)
    usual = tmp_path / "usual"
    usual.mkdir()
    row.write(usual)
    path = usual / row.usual
    with contextlib.suppress(Exception):
        row.call(path)  # packages are imported when they are first used
    said = wrong(row.call, path, bad_paths.vanishing(path))
    assert not said
    assert not path.exists()


@pytest.mark.fast_cases("save", "append_log", "Checkpoints.save")
@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_gets_an_error_of_ours(name, tmp_path):
    row = row_of(name)
    row.call(tmp_path / row.name)
    assert wrong(row.call, tmp_path / "new" / row.name, bad_paths.full_disk()) == ""


@pytest.mark.fast_cases("save", "append_log")
@pytest.mark.parametrize("name", WRITTEN)
def test_names_as_long_as_the_system_allows_are_written(name, tmp_path):
    row = row_of(name)
    end = row.name[1:]
    row.call(tmp_path / ("a" * (255 - len(end)) + end))
    row.call(tmp_path / ("ä" * ((255 - len(end)) // 2) + end))
    kept = [path for path in tmp_path.iterdir() if path.suffix != ".part"]
    assert len(kept) == 2 == len(list(tmp_path.iterdir()))


def test_a_bare_error_is_seen(tmp_path):
    assert wrong(open, tmp_path / "nowhere").startswith("FileNotFoundError: [Errno 2]")
    (tmp_path / "a").touch(0)
    assert "Permission denied" in wrong(open, tmp_path / "a", bad_paths.without_rights())
    assert wrong(jn.load, tmp_path / "nowhere") == ""


def test_a_wait_is_seen(tmp_path):
    os.mkfifo(tmp_path / "a")
    assert wrong(open, tmp_path / "a", bad_paths.in_time(0.1)).startswith("TooLong")
