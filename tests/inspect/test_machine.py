"""The line that tells versions and devices."""

import platform
from types import SimpleNamespace

import jax

import jaxnet as jn
from jaxnet.ops.native import instructions


def test_versions_and_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert jn.inspect.machine() == (
        f"jaxnet {jn.__version__}, jax {jax.__version__}, Python {platform.python_version()} "
        f"on cpu (7 cores, convolutions by {instructions() or 'XLA'})"
    )


def test_other_devices_by_kind(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="Tesla T4")] * 3)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert jn.inspect.machine().endswith(" on gpu (3 of Tesla T4)")
