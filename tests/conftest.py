"""What all tests share."""

import os

import jax
import pytest

# A key used twice is an error: a step that returned its old key would pass every other test.
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture
def x64():
    """float64 as the default dtype of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def tfds_data_dir() -> str:
    """The folder of prepared TFDS datasets; a test without one is skipped."""
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if not os.path.isdir(folder):
        pytest.skip("TFDS_DATA_DIR names no folder of prepared datasets")
    return folder
