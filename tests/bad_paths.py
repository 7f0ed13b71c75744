"""Paths that cannot be read or written, and every public function that takes a path.

Each form makes a path in an empty folder. Each row of `readers` and `writers` calls one function
with it. `tests/test_bad_paths.py` crosses them.
"""

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxnet as jn
from jaxnet.interop import export
from jaxnet.services import files
from jaxnet.training import append_log
from tests import readers as usual

SECONDS = 10  # what blocks takes longer, and nothing else does on a busy machine
LONG = 300  # letters; systems allow 255 bytes in a name
NET = jn.dense(3)
X = np.ones((4, 5), np.float32)
PARAMS, STATE = NET.init(jax.random.key(0), X)
IDS = np.ones((1, 4), np.int32)


def missing(folder: Path, name: str) -> Path:
    return folder / "nowhere" / name


def long_name(folder: Path, name: str) -> Path:
    return folder / ("a" * LONG + name)


def long_folder(folder: Path, name: str) -> Path:
    return folder / ("a" * LONG) / name


def long_path(folder: Path, name: str) -> Path:
    return folder.joinpath(*["a" * 100] * 50, name)


def zero_byte(folder: Path, name: str) -> str:
    return f"{folder}/a\0{name}"


def half_a_character(folder: Path, name: str) -> str:
    return f"{folder}/\ud800{name}"


def no_name(folder: Path, name: str) -> str:
    return ""


def unknown_user(folder: Path, name: str) -> str:
    return f"~nobody_of_this_name/{name}"


def of_bytes(folder: Path, name: str) -> bytes:
    return os.fsencode(folder / name)


def below_a_file(folder: Path, name: str) -> Path:
    (folder / "file").write_bytes(b"abc")
    return folder / "file" / name


def loop(folder: Path, name: str) -> Path:
    (folder / name).symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / name)
    return folder / name


def below_a_loop(folder: Path, name: str) -> Path:
    return loop(folder, "a") / name


def broken_link(folder: Path, name: str) -> Path:
    (folder / name).symlink_to(folder / "gone")
    return folder / name


def pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


def a_socket(folder: Path, name: str) -> Path:
    before = os.getcwd()
    os.chdir(folder)  # its path may have 100 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(name)
    os.chdir(before)
    return folder / name


def endless(folder: Path, name: str) -> Path:
    return Path("/dev/zero")


def a_folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def a_file(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(b"abc")
    return folder / name


def locked_file(folder: Path, name: str) -> Path:
    path = a_file(folder, name)
    path.chmod(0)
    return path


def locked_folder(folder: Path, name: str) -> Path:
    path = a_folder(folder, name)
    path.chmod(0)
    return path


def below_a_locked_folder(folder: Path, name: str) -> Path:
    return locked_folder(folder, "a") / name


ALWAYS = [
    long_name, long_folder, long_path, zero_byte, half_a_character, no_name, unknown_user, of_bytes,
    below_a_file, loop, below_a_loop, pipe, a_socket, endless, below_a_locked_folder,
]  # fmt: skip
FORMS = {
    "read a file": [*ALWAYS, missing, broken_link, a_folder, a_file, locked_file],
    "read a folder": [*ALWAYS, missing, broken_link, a_folder, a_file, locked_folder],
    "write a file": [*ALWAYS, a_folder],
    "write a folder": [*ALWAYS, a_file, locked_folder],
}


class Row:
    """A call of a public function.

    Args:
      kind: A key of `FORMS`.
      call: Function of the path.
      write: Function that writes the usual files of a reader into a folder, if the path is a
        folder, or its usual file is `usual`.
      usual: Its usual file.
      name: Name of the file for the forms, with the suffix that the function wants.
    """

    def __init__(self, kind: str, call: Callable, write: Callable | None = None, usual: str = ""):
        self.kind, self.call, self.write, self.usual = kind, call, write, usual
        self.name = f"a{Path(usual).suffix}"


def write_net(folder: Path) -> None:
    jn.save(folder / "net", PARAMS)


def write_names(folder: Path) -> None:
    jn.save(folder / "net", {"w": PARAMS["kernel"], "b": PARAMS["bias"]})


def named(weights: Any) -> Any:
    return jn.interop.by_names(NET, weights, X, {"kernel": "w", "bias": "b"})


def from_torch(path: Any) -> Any:
    from jaxnet.interop import torch

    return torch.from_torch(NET, path, X)


def to_torch(path: Any) -> Any:
    from jaxnet.interop import torch

    return torch.to_torch(NET, PARAMS, STATE, path, X)


def to_onnx(path: Any) -> Any:
    from jaxnet.interop.onnx import to_onnx

    return to_onnx(NET, PARAMS, STATE, X, path=path)


def figure(path: Any) -> Any:
    return jn.viz.save(jn.viz.images(np.zeros((1, 4, 4, 1))), path)


def save_model(folder: Any) -> Any:
    net = jn.models.decoder(**jn.pretrained.decoder_config(usual.LLAMA))
    params, state = net.init(jax.random.key(0), IDS)
    return jn.pretrained.save(folder, net, params, state, config=usual.LLAMA)


def save_checkpoint(folder: Any) -> None:
    trainer, train_state = usual.started()
    data = X, np.zeros((4, 2), np.float32)
    kept = jn.Checkpoints(folder)
    try:
        for epoch in jn.fit(trainer, train_state, data, epochs=1, progress=False):
            kept.save(epoch)
    finally:
        kept.close()


def read_files() -> dict[str, Row]:
    data, vocabulary = jn.data, jn.data.Vocabulary
    words, image, gguf = usual.write_vocabulary, usual.write_image, usual.write_gguf
    return {
        "load": Row("read a file", jn.load, write_net, "net"),
        "Vocabulary.load": Row("read a file", vocabulary.load, words, "subwords.json"),
        "read_image": Row("read a file", lambda p: data.read_image(p, 2), image, "class/image.png"),
        "read_pages": Row("read a file", data.read_pages, image, "class/image.tif"),
        "load_exported": Row(
            "read a file", export.load_exported, usual.write_program, "net.stablehlo"
        ),
        "decoder_config": Row(
            "read a file", jn.pretrained.decoder_config, usual.write_model, "config.json"
        ),
        "decoder_table": Row(
            "read a file", jn.pretrained.decoder_table, usual.write_model, "config.json"
        ),
        "from_torch": Row("read a file", from_torch, write_net, "net"),
        "to_torch": Row("read a file", to_torch, write_net, "net"),
        "by_names": Row("read a file", named, write_names, "net"),
        "by_names of a list": Row("read a file", lambda p: named([p]), write_names, "net"),
        "load of a .gguf": Row("read a file", jn.pretrained.load, gguf, "model.gguf"),
        "tokenizer of a .gguf": Row("read a file", jn.pretrained.tokenizer, gguf, "model.gguf"),
    }


def read_folders() -> dict[str, Row]:
    data, model, write_set = jn.data, jn.pretrained, usual.write_dataset
    sets = {
        name: lambda p, name=name: getattr(data, name)(data_dir=p)
        for name in ("bccd", "camvid", "cifar10", "faces", "mnist")
    }
    sets["spoken_digits"] = lambda p: data.spoken_digits("train", data_dir=p)
    sets["tfds.load"] = lambda p: data.tfds.load("pictures", "train", data_dir=p)
    sets["tfds.source"] = lambda p: data.tfds.source("pictures", "train", data_dir=p)[0]
    return {
        "image_folder": Row("read a folder", lambda p: data.image_folder(p, 2), usual.write_image),
        "pretrained.load": Row("read a folder", model.load, usual.write_model),
        "tokenizer": Row("read a folder", model.tokenizer, usual.write_model),
        "chat": Row("read a folder", lambda p: model.tokenizer(p).chat("Hi"), usual.write_model),
        "processor": Row("read a folder", model.processor, usual.write_processor),
        "load_adapter": Row(
            "read a folder", lambda p: model.load_adapter(p, *usual.adapted()), usual.write_adapter
        ),
        "by_names of a folder": Row("read a folder", usual.by_names, usual.write_weights),
        "time_by_layer": Row(
            "read a folder",
            lambda p: jn.profile.time_by_layer(usual.profiled(), p),
            usual.write_trace,
        ),
        "Checkpoints": Row("read a folder", usual.read_checkpoints, usual.write_checkpoints),
        **{name: Row("read a folder", call, write_set) for name, call in sets.items()},
    }


def writers() -> dict[str, Row]:
    program = export.export(NET, PARAMS, STATE, X)
    return {
        "save": Row("write a file", lambda p: jn.save(p, PARAMS)),
        "Vocabulary.save": Row("write a file", jn.data.characters("to be").save),
        "viz.save": Row("write a file", figure, usual="a.png"),
        "Program.save": Row("write a file", program.save),
        "to_onnx": Row("write a file", to_onnx),
        "append_log": Row("write a file", lambda p: append_log(p, {"step": 1, "loss": 0.5})),
        "pretrained.save": Row("write a folder", save_model),
        "save_adapter": Row(
            "write a folder", lambda p: jn.pretrained.save_adapter(p, *usual.adapted())
        ),
        "Checkpoints.save": Row("write a folder", save_checkpoint),
    }


class TooLong(BaseException):
    """The time is over."""


@contextlib.contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TooLong after some seconds, even if a pipe or a device blocks."""

    def stop(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("process", ctypes.c_int)]


class _Capabilities(ctypes.Structure):
    _fields_ = [(f"{kind}{i}", ctypes.c_uint32) for i in (0, 1) for kind in ("e", "p", "i")]


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Let root respect the modes of files, as other users do; in this thread and its new ones."""
    if os.geteuid() or not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, held, fewer = _Header(0x20080522, 0), _Capabilities(), _Capabilities()
    libc.capget(ctypes.byref(header), ctypes.byref(held))
    libc.capget(ctypes.byref(header), ctypes.byref(fewer))
    fewer.e0 &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    libc.capset(ctypes.byref(header), ctypes.byref(fewer))
    try:
        yield
    finally:
        libc.capset(ctypes.byref(header), ctypes.byref(held))


@contextlib.contextmanager
def full_disk(size: int = 20) -> Iterator[None]:
    """Let no file grow beyond some bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def vanishing(path: Path) -> Iterator[None]:
    """Remove a file or folder as soon as the library has looked at it."""
    looks = {f.__code__ for f in (files.readable, files.file_path, files.open_regular_file)}

    def look(frame: Any, event: str, _: Any) -> None:
        if event == "return" and frame.f_code in looks:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(before)
