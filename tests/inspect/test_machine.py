"""The line that tells versions, devices and memory."""

import importlib
import os
import platform
from types import SimpleNamespace

import jax
import pytest

import jaxnet as jn
from jaxnet.ops.native import instructions

VERSIONS = f"jaxnet {jn.__version__}, jax {jax.__version__}, Python {platform.python_version()}"
SIZES = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 13 * 10**9 // 4096}


@pytest.fixture
def cpu(monkeypatch):
    """A machine with seven cores, whose JAX may take any device."""
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr(os, "sysconf", SIZES.get, raising=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    before = jax.config.jax_platforms  # type: ignore[attr-defined]
    jax.config.update("jax_platforms", None)
    yield f"{VERSIONS} on cpu (7 cores, 13 GB, convolutions by {instructions() or 'XLA'})"
    jax.config.update("jax_platforms", before)


@pytest.fixture
def found(monkeypatch):
    """Tells which commands and files a machine has."""
    module = importlib.import_module("jaxnet.inspect.machine")

    def found(command, file):
        monkeypatch.setattr(module, "which", lambda name: name == command)
        monkeypatch.setattr(module, "glob", lambda name: [file] if name[:8] == file[:8] else [])

    return found


def test_versions_cores_and_memory(cpu, found):
    found("", "")
    assert jn.inspect.machine() == cpu


@pytest.mark.parametrize(("command", "file", "words"), [
    ("nvidia-smi", "", 'GPU: run pip install "jax[cuda12]==VERSION" and restart'),
    ("", "/dev/accel0", 'TPU: run pip install "jax[tpu]==VERSION" and restart'),
    ("", "/dev/vfio/0", 'TPU: run pip install "jax[tpu]==VERSION" and restart'),
])  # fmt: skip
def test_a_device_that_jax_does_not_use(command, file, words, cpu, found):
    found(command, file)
    words = words.replace("VERSION", jax.__version__)
    assert jn.inspect.machine() == f"{cpu}; JAX does not use the {words}"
    jax.config.update("jax_platforms", "cpu")  # as it was told
    assert jn.inspect.machine() == cpu


def test_other_devices_by_kind(monkeypatch):
    t4 = SimpleNamespace(
        device_kind="Tesla T4", memory_stats=lambda: {"bytes_limit": 11_800_000_000}
    )
    monkeypatch.setattr(jax, "devices", lambda: [t4] * 3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert jn.inspect.machine().endswith(" on gpu (3 of Tesla T4, 12 GB)")


@pytest.mark.parametrize("stats", [None, {}])
def test_a_device_that_tells_no_memory(stats, monkeypatch):
    device = SimpleNamespace(device_kind="Chip", memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert jn.inspect.machine().endswith(" on tpu (1 of Chip)")
