"""What all tests share."""

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest

import tests.helpers
from jaxnet.services.jax_versions import enable_x64


def _renew_keys(module):
    for name, value in list(vars(module).items()):
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            setattr(module, name, jax.random.clone(value))


@pytest.fixture(autouse=True)
def keys_are_used_once(request):
    """A key used twice is an error: a step that returned its old key would pass every other test.

    A module that compares two uses of one key sets `KEYS_MAY_REPEAT = True`. JAX marks a key that
    was used, and tests share `KEY`: each test begins with copies of the keys that its module names.
    """
    for module in (request.module, tests.helpers):
        _renew_keys(module)
    with jax.debug_key_reuse(not getattr(request.module, "KEYS_MAY_REPEAT", False)):
        yield


@pytest.fixture
def x64():
    """float64 as the default dtype of one test."""
    with enable_x64(True):
        yield


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="compares with PyTorch")


@pytest.fixture
def names_are_those_of_this_program():
    """JAX's cache of programs on disk leaves names out of its keys by default."""
    option = "jax_compilation_cache_include_metadata_in_key"
    before = getattr(jax.config, option)
    jax.config.update(option, True)
    yield
    jax.config.update(option, before)


def _with_devices(count: int) -> dict[str, str]:
    """The environment of a process with simulated devices, compiled as quickly as the tests are."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    paths = os.pathsep.join(sys.path)
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}


IMPORTS = """
import jax, jax.numpy as jnp, numpy as np, optax, jaxnet as jn
from jax.sharding import PartitionSpec as P
"""


@pytest.fixture
def on_devices():
    """Runs a program on a number of simulated devices and returns what it printed.

    It begins with imports: the program finds `jax`, `jnp`, `np`, `optax`, `jn` and `P`.
    """

    def run(program: str, devices: int) -> str:
        command = [sys.executable, "-c", IMPORTS + program]
        environment = _with_devices(devices)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def on_processes():
    """Runs a program in several processes of one `jax.distributed`, with four devices in all.

    The program finds `port`, `count` and `index`, and prints its result as the last line. With
    `expect`, all are to fail, the last one with this exit code.
    """

    def run(program: str, count: int, expect: int | None = None) -> list[str]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        environment = _with_devices(4 // count)
        running = []
        for index in range(count):
            start = f"port, count, index = {port}, {count}, {index}\n{program}"
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            command = [sys.executable, "-c", start]
            running.append(subprocess.Popen(command, env=environment, **pipes))
        try:
            with ThreadPoolExecutor(count) as threads:  # a full pipe would stop its process
                said = list(threads.map(lambda process: process.communicate(timeout=240), running))
        finally:
            for process in running:
                process.kill()
        codes = tuple(process.returncode for process in running)
        wrong = "\n".join(errors[-3000:] for _, errors in said)
        if expect is None:
            assert not any(codes), wrong
        else:
            assert codes[-1] == expect and all(codes), (codes, wrong)
        return [out.splitlines()[-1] if out.strip() else "" for out, _ in said]

    return run


@pytest.fixture
def tfds_data_dir() -> str:
    """The folder of prepared TFDS datasets; a test without one is skipped."""
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not os.path.isdir(folder):
        pytest.skip("TFDS_DATA_DIR names no folder of prepared datasets")
    return folder


@pytest.fixture
def few_examples(tfds_data_dir, monkeypatch):
    """Cuts every split that is loaded to its first examples: decoding all of them takes seconds."""
    from jaxnet.data import tfds

    load = tfds.load

    def cut(train: int, test: int):
        def some(name, split, **options):
            return load(name, f"{split}[:{train if split == 'train' else test}]", **options)

        monkeypatch.setattr(tfds, "load", some)
        return tfds_data_dir

    return cut
