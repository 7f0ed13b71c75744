"""How all tests run: compiled quickly, what belongs together on one worker, names for doctests."""

import doctest
import gc
import inspect
import os
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.quick import flags

if "XLA_FLAGS" not in os.environ:  # workers inherit it
    os.environ["XLA_FLAGS"] = flags()
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # a tenth of the time of tracing

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import pytest  # noqa: E402

import jaxnet as jn  # noqa: E402
from jaxnet.ops.native import conv  # noqa: E402
from tests.by_file import pytest_xdist_make_scheduler as pytest_xdist_make_scheduler  # noqa: E402

pytest_plugins = ["tests.parts", "tests.compared"]

# A second run finds the programs of the first, also in another clone. Most programs are single
# operations, so all are kept. JAX does not lock the folder: a program that another worker is
# writing counts as not found.
ROOT = Path(__file__).parent
CACHE = Path.home() / ".cache" / "jaxnet-tests"
jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE))
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# JAX keeps many objects alive, and each full collection goes through all of them: a tenth of a run.
gc.set_threshold(200_000, 50, 1000)

FULL = 2 * 2**30 // 4096  # pages of memory of a worker that is to be emptied

# Modules of the extra `full`: a test that finds one missing, in a fixture or a call, is skipped.
OPTIONAL = {
    "IPython", "equinox", "flax", "gguf", "grain", "haiku", "hmmlearn", "huggingface_hub",
    "librosa", "nbclient", "nbformat", "pycocotools", "sacrebleu", "statsmodels",
    "tensorflow_datasets", "tokenizers",
}  # fmt: skip
# Functions whose examples compile for more than a second.
LONG_EXAMPLES = {
    "alternate", "context_parallel", "contrastive_divergence", "cutmix", "decoder", "fit_dbn",
    "fit_sparse_autoencoder", "moe", "quantized", "rand_augment", "rnnsearch", "stream", "sweep",
    "time_by_layer", "unet",
}  # fmt: skip
collect_ignore = [] if find_spec("flax") else ["jaxnet/interop/flax.py"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with skipped_without_full():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with skipped_without_full():
        return (yield)


@contextmanager
def skipped_without_full():
    try:
        yield
    except Exception as error:
        cause = error.exc_info[1] if isinstance(error, doctest.UnexpectedException) else error
        while cause and not isinstance(cause, ModuleNotFoundError):
            cause = cause.__cause__ or cause.__context__
        name = (getattr(cause, "name", None) or "").partition(".")[0]
        if name not in OPTIONAL or name in sys.modules or find_spec(name):
            raise
        pytest.skip(f"needs {name}: pip install -e '.[full]'")


def pytest_collection_modifyitems(config, items):
    named = {}  # fast cases that are not found among the cases of their function
    for item in items:
        marks = {mark.name for mark in getattr(getattr(item, "function", None), "pytestmark", ())}
        if {"slow", "fast_cases"} <= marks:
            raise pytest.UsageError(f"{item.nodeid}: all cases are slow, so none is a fast case")
        if fast_cases := item.get_closest_marker("fast_cases"):
            unseen = named.setdefault(item.nodeid.partition("[")[0], set(fast_cases.args))
            unseen.discard(item.callspec.id)
        if item.get_closest_marker("long"):
            item.own_markers = [mark for mark in item.own_markers if mark.name != "slow"]
        elif is_slow(item):
            item.add_marker(pytest.mark.slow)
        if item.name.endswith(".from_nnx") and old_flax():
            item.add_marker(pytest.mark.skip(reason="from_nnx needs Flax 0.12"))
    if any(named.values()) and not any("::" in place for place in config.args):
        raise pytest.UsageError(f"no such case: { ({k: v for k, v in named.items() if v}) }")


def old_flax() -> bool:
    """Whether Flax is 0.11, as on Colab."""
    return find_spec("flax") is not None and not hasattr(import_module("flax.nnx"), "List")


def is_slow(item) -> bool:
    """Whether a rule makes a test slow that has no mark of its own."""
    fast_cases = item.get_closest_marker("fast_cases")
    is_further_case = fast_cases is not None and item.callspec.id not in fast_cases.args
    is_example = isinstance(item, pytest.DoctestItem)
    is_long_example = is_example and item.name.rpartition(".")[2] in LONG_EXAMPLES
    reads_real_data = "tfds_data_dir" in getattr(item, "fixturenames", ())
    return is_further_case or is_long_example or reads_real_data


def pytest_runtest_teardown(item, nextitem):
    """Drops what is compiled when it fills the memory, where each compilation takes longer."""
    statm = Path("/proc/self/statm")  # pages; on Linux
    elsewhere = nextitem is None or nextitem.path != item.path
    if elsewhere and statm.exists() and int(statm.read_text(encoding="utf-8").split()[1]) > FULL:
        jax.clear_caches()


# A decorated function belongs to the module of what it wraps: doctest would leave its example out.
of_module = doctest.DocTestFinder._from_module  # type: ignore[attr-defined]
doctest.DocTestFinder._from_module = lambda self, module, it: of_module(  # type: ignore[attr-defined]
    self, module, inspect.unwrap(it) if inspect.isfunction(it) else it
)


@pytest.fixture(autouse=True)
def names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np, optax=optax, jn=jn)


@pytest.fixture
def convolutions_by_xla(monkeypatch):
    """Convolutions are compiled in XLA's form, as where there are no kernels in C."""
    monkeypatch.setattr(conv, "supports", lambda *args, **options: False)
