"""What all tests share."""

import os
import subprocess
import sys

import jax
import pytest


@pytest.fixture(autouse=True)
def keys_are_used_once(request):
    """A key used twice is an error: a step that returned its old key would pass every other test.

    A module that compares two uses of one key sets `KEYS_MAY_REPEAT = True`.
    """
    with jax.debug_key_reuse(not getattr(request.module, "KEYS_MAY_REPEAT", False)):
        yield


@pytest.fixture
def x64():
    """float64 as the default dtype of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def on_devices():
    """Runs a program on a number of simulated devices, which is fixed when JAX starts."""

    def run(program: str, devices: int):
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

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
