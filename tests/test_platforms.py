"""Laptops that are not here: kernels compile for macOS and Windows, extras can be installed there,
and what the library does with files works without what only Unix has."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jaxnet.data import builders
from jaxnet.ops import native

ROOT = Path(__file__).parent.parent
RELEASE = (ROOT / ".ci" / "release").read_text()
(ZIG,) = re.findall(r"uvx --quiet --from ziglang==[\d.]+ python-zig", RELEASE)
TARGETS = re.findall(r"^wheel \w+ (\S+)$", RELEASE, re.M)
SOURCES = [path for path in native.LIBRARY.parent.glob("*.[ch]") if path.name != "xla_ffi.h"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_kernels_have_types_of_one_width(path):
    """A long has 32 bits on Windows, and is not an int64_t on macOS."""
    assert not re.findall(r"\b(?:long|unsigned|short|atomic_long|wchar_t)\b", path.read_text())


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compile(target, tmp_path):
    if shutil.which("uvx") is None or subprocess.run([*ZIG.split(), "version"]).returncode:
        pytest.skip("needs uv and the package ziglang")
    source, library = native.LIBRARY.with_name("kernels.c"), tmp_path / "kernels.so"
    options = ["-std=gnu11", "-O1", "-w", "-fno-math-errno", "-s", "-shared", "-o", library]
    subprocess.run([*ZIG.split(), "cc", "-target", target, *options, source], check=True)
    made = library.read_bytes()
    assert all(name.encode() in made for name in (*native.TARGETS, "jaxnet_use"))
    assert all(int(minor) <= 28 for minor in re.findall(rb"GLIBC_2\.(\d+)", made))
    if target.startswith(f"{os.uname().machine}-{sys.platform}"):
        level = ctypes.CDLL(str(library)).jaxnet_level()
        assert native.LEVELS[level] == native.instructions() or not native.instructions()


@pytest.mark.long
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("platform", [
    "x86_64-pc-windows-msvc", "aarch64-apple-darwin", "x86_64-manylinux_2_28",
])  # fmt: skip
def test_extras_can_be_installed(platform, version):
    if shutil.which("uv") is None:
        pytest.skip("needs uv")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    accelerators = {"cuda12", "cuda13", "tpu"}  # of Linux
    extras = [f"--extra={x}" for x in project["optional-dependencies"] if x not in accelerators]
    system = [f"--python-platform={platform}", f"--python-version={version}"]
    wheels = ["--only-binary=:all:", "--no-binary=promise"]  # TensorFlow Datasets', all in Python
    done = subprocess.run(
        ["uv", "pip", "compile", "--quiet", *extras, *system, *wheels, "pyproject.toml"],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},  # onnxruntime's
    )  # fmt: skip
    if re.search("error sending request|Failed to fetch|Connect|dns", done.stderr):
        pytest.skip("needs a package index")
    assert not done.returncode, done.stderr


def test_files_are_read_as_utf8():
    """Windows has another encoding by default."""
    for path in (ROOT / "jaxnet").rglob("*.py"):
        assert not re.search(
            r"^(?!.*>>>).*(?:read_text\(\)|write_text\([^,]*\)$)", path.read_text(), re.M
        ), path


def test_windows_is_told_that_it_cannot_read_array_records(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(builders, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^load: .* does not exist for Windows. Run this in WSL"):
        builders.datasets_package("load")


WITHOUT_UNIX = """
import os, pathlib, signal, sys, types
import jax, optax, safetensors, sklearn.datasets
locks = []
sys.modules["fcntl"] = sys.modules["resource"] = None
sys.modules["msvcrt"] = types.SimpleNamespace(
    LK_NBLCK=2, locking=lambda number, mode, size: locks.append((mode, size))
)
for name in ("fork", "fchown", "O_NOFOLLOW", "O_CLOEXEC", "sched_getaffinity"):
    delattr(os, name)
del signal.SIGALRM
sys.platform = "win32"

rename = pathlib.Path.rename
def rename_closed(path, to):  # Windows moves no file that is open or mapped
    links = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
    maps = pathlib.Path("/proc/self/maps").read_text().split()
    assert not [word for word in links + maps if word.startswith(f"{path}/")], path
    return rename(path, to)
pathlib.Path.rename = rename_closed

import jaxnet as jn
train, test = jn.data.digits()
trainer = jn.trainer(jn.supervised(
    jn.serial(jn.flatten(), jn.dense(10)), optax.softmax_cross_entropy_with_integer_labels
), optax.adam(1e-2))
for epochs in (3, 6):
    with jn.Checkpoints(sys.argv[1], keep=1) as kept:
        state, position = kept.newest(trainer.init(jax.random.key(0), train))
        for epoch in jn.fit(trainer, state, train, position=position, epochs=epochs):
            kept.save(epoch)
jn.save(sys.argv[1] + "/net.safetensors", state.params)
assert locks and {mode for mode, size in locks} == {2}
print(*sorted(os.listdir(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.long
def test_a_run_is_saved_without_what_only_unix_has(tmp_path):
    command = [sys.executable, "-c", WITHOUT_UNIX, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert not done.returncode, done.stderr
    assert done.stdout == ".lock 138 net.safetensors\n"
