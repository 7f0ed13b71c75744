"""Memory that is kept: page faults of a fresh process, counted by the system."""

import os
import subprocess
import sys

import optax
import pytest

import jaxnet as jn
from jaxnet.services import memory

PROGRAM = """
import resource
import jax, jax.numpy as jnp, optax
import jaxnet as jn
CALL
step = jax.jit(lambda x, w: jnp.tanh(x @ w) @ w)
w = jnp.eye(64)
x = jnp.ones((MEGABYTES * 250_000 // 64, 64))
for i in range(26):
    x = step(x, w).block_until_ready()
    if i == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.long
@pytest.mark.skipif(not memory._glibc(), reason="glibc alone has this setting")
@pytest.mark.parametrize(
    "call, megabytes",
    [
        ("assert jn.reuse_memory()", 80),
        ("jn.trainer(jn.supervised(jn.dense(2), optax.l2_loss), optax.sgd(0.1))", 48),
    ],
)
def test_pages_are_used_again(call, megabytes):
    def faults(call):
        program = PROGRAM.replace("CALL", call).replace("MEGABYTES", str(megabytes))
        environment = os.environ | {"JAXNET_REUSE_MEMORY": "1"}
        run = [sys.executable, "-c", program]
        done = subprocess.run(run, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert 0 <= faults(call) < 0.1 * faults("")


@pytest.mark.parametrize("setting, calls", [(None, 1), ("1", 1), ("0", 0)])
def test_trainer_keeps_freed_memory_unless_switched_off(setting, calls, monkeypatch):
    if setting is None:
        monkeypatch.delenv("JAXNET_REUSE_MEMORY", raising=False)
    else:
        monkeypatch.setenv("JAXNET_REUSE_MEMORY", setting)
    called = []
    monkeypatch.setattr(memory, "keep_freed", lambda: called.append(True))
    jn.trainer(jn.supervised(jn.dense(2), optax.l2_loss), optax.sgd(0.1))
    assert len(called) == calls


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_happens(platform, monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # would raise
    assert jn.reuse_memory() is False


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.os, "confstr", lambda name: None)
    monkeypatch.setattr(memory.ctypes, "CDLL", None)
    assert jn.reuse_memory() is False
