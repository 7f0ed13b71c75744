"""A comparison with another library that skips is an error where it should have run."""

from types import SimpleNamespace

import pytest

from tests.compared import libraries
from tests.test_workers import run

SKIPS = """
import pytest
def test_skips(): pytest.importorskip("torch", minversion="9999")
"""
RUNS = """
import pytest
def helper(wanted=False):
    if wanted: import captum
@pytest.fixture
def found(): return helper()
def test_by_a_fixture(found): pass
@pytest.mark.parametrize("name", ["torch", "numpy"])
def test_by_a_parameter(name): pytest.importorskip("numpy")
@pytest.mark.skipif(False, reason="needs the extra onnx: jax2onnx")
def test_by_a_reason(): pass
@pytest.mark.long
def test_by_an_import():
    def inside(): import onnxruntime
def test_of_ours(): assert "torch"
"""
WHOLE = 'import pytest\npytest.importorskip("torch", minversion="9999")\ndef test_whole(): pass'
# The name is put together, so that no code shows it.
HIDDEN = """
import pytest
def test_hidden(): pytest.importorskip("".join(["to", "rch"]), minversion="9999")
"""


def compared(folder, text: str, *options: str) -> str:
    (folder / "test_it.py").write_text(text)
    done = run("-p", "tests.compared", "-q", "-rA", *options, str(folder))
    return f"{done.returncode} {done.stdout}"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_comparison_that_skips_fails(workers, tmp_path):
    assert "1 skipped" in compared(tmp_path, SKIPS, workers)
    out = compared(tmp_path, SKIPS, workers, "--compared")
    assert out.startswith("1 ") and "1 failed" in out
    assert "skips, but has to compare with torch. Install what it names" in out


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_module_that_skips_fails(workers, tmp_path):
    assert "1 skipped" in compared(tmp_path, WHOLE, workers)
    out = compared(tmp_path, WHOLE, workers, "--compared")
    assert out[0] in "12" and "skips, but has to compare with a library" in out


@pytest.mark.slow
def test_a_comparison_that_is_not_seen_fails_where_it_skips(tmp_path):
    out = compared(tmp_path, HIDDEN, "-n0")
    assert out.startswith("1 ") and "skips for want of torch, but tests/compared.py does not" in out


@pytest.mark.slow
def test_what_is_compared_and_what_is_said_of_it(tmp_path):
    out = compared(tmp_path, RUNS, "-n0", "--compared")
    assert out.startswith("0 ") and "4 passed, 2 deselected" in out
    assert "test_by_a_parameter[torch]" in out and "test_of_ours" not in out
    said = out.partition("COMPARED with jax ")[2]
    for name in ("captum", "torch", "jax2onnx", "onnxruntime"):
        assert name in said.partition("NOT COMPARED")[0]
    assert "peft" in said.partition("NOT COMPARED in this run: ")[2]


def test_an_example_of_a_docstring_compares_with_nothing():
    assert libraries(SimpleNamespace()) == []
