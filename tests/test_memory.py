"""Memory that is kept: page faults of a fresh process, counted by the system."""

import subprocess
import sys

import pytest

import jaxnet as jn
from jaxnet import memory

PROGRAM = """
import resource
import jax, jax.numpy as jnp
import jaxnet as jn
if KEEP:
    assert jn.reuse_memory()
step = jax.jit(lambda x: jnp.sort(x)[::-1] + 1)
x = jnp.arange(12_000_000.0)  # 48 MB
for i in range(6):
    x = step(x).block_until_ready()
    if i == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not memory._glibc(), reason="glibc alone has this setting")
def test_pages_are_used_again():
    def faults(keep):
        run = [sys.executable, "-c", PROGRAM.replace("KEEP", str(keep))]
        done = subprocess.run(run, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert 0 < faults(True) < 0.5 * faults(False)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_happens(platform, monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # would raise
    assert jn.reuse_memory() is False


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.os, "confstr", lambda name: None)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    assert jn.reuse_memory() is False
