"""Which places of the code are broken on purpose, and which tests look for such a mutant."""

import ast
import importlib
import os
import subprocess
import sys

import numpy as np
import pytest

from tools import mutation, scenarios
from tools import onnx_cases as cases

SOURCE = '''
Pair = tuple[int, int] | None
def scale(x, factor=2.0, *, name="scale", progress=True):
    """Returns 3 times x."""
    if factor <= 0:
        raise ValueError(f"{name}: factor must be above {1 - 1}")
    within(name, "factor", factor + 1)
    dtype = jnp.result_type(x, factor)
    return x * factor
'''


def test_arithmetic_is_what_changes_a_value(tmp_path, monkeypatch):
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    (folder := tmp_path / "jaxnet").mkdir()
    (path := folder / "scale.py").write_text(SOURCE)
    nodes = list(ast.walk(ast.parse(SOURCE)))
    assert {ast.unparse(nodes[i]) for i, _ in mutation.places_of(path)} == {"2.0", "x * factor"}
    found = {mutant.what: mutant.source for mutant in mutation.draw(9, seed=0)}
    divided = SOURCE.replace("x * f", "(x / f").replace("/ factor", "/ factor)")
    assert found["operator: x * factor  ->  x / factor"] == divided
    assert len(found) == 3


@pytest.mark.slow
def test_tests_are_those_of_the_file_the_room_and_the_rows_that_run_it():
    file = "jaxnet/layers/response_norm.py"
    rows = sorted(mutation.rows_by_file()[file])
    assert rows == ["local_response_norm"]
    oracles = mutation.oracles_by_room()["jaxnet/layers"]
    assert "layers.spatial_dropout" in oracles
    own = ["tests/layers/test_response_norm.py", file]
    names = "oracles", "golden", "laws", "api"
    seeing = [f"tests/test_{name}.py" for name in names]
    assert mutation.Chosen(file, rows, oracles).tests == [*own, *seeing, "tests/layers"]
    assert "tests/test_laws.py" not in mutation.Chosen("jaxnet/data/warp.py", [], []).tests


def test_a_copy_is_broken_and_the_module_is_not():
    module = importlib.import_module("jaxnet.ops.resample")
    broken = mutation.mutated(module, "1 - abs(distance)", "2 - abs(distance)")
    assert broken.triangle(0.5) == 1.5
    assert module.triangle(0.5) == 0.5
    with pytest.raises(AssertionError, match="occurs 0 times"):
        mutation.mutated(module, "no such text", "")


def test_wrong_outputs_are_seen():
    """The comparison itself: a wrong value, a wrong shape and a missing output."""
    x = np.ones((2, 3), np.float32)
    w = np.full((3, 4), 2, np.float32)
    assert cases.say("Gemm", {}, [x, w], [x @ w]) == 0
    assert cases.say("Gemm", {}, [x, w], [x @ w + 0.01]) > 10
    with pytest.raises(AssertionError):
        cases.say("Gemm", {}, [x, w], [(x @ w)[:1]])
    with pytest.raises(cases.Unsaid, match="an output that the layer does not give"):
        cases.say("Dropout", {}, [x], [x, x > 0])


@pytest.mark.slow
def test_all_cases_that_can_be_said_agree(capsys):
    pytest.importorskip("onnx", reason="the cases are those of onnx 1.23")
    assert cases.main([]) == 0
    said, of = capsys.readouterr().out.split("in all")[1].split(";")[0].split("of")
    assert int(said) >= 314
    assert int(of) >= 368


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kill_in_save", "two_writers", "reader"])
def test_no_checkpoint_is_lost(name, tmp_path):
    scenarios.SCENARIOS[name](tmp_path / "runs", 2, 1)


@pytest.mark.slow
def test_no_checkpoint_is_lost_on_a_full_disk():
    command = [sys.executable, "-m", "tools.kills", "--scenario", "full_disk", "--runs", "3"]
    options = {"env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, "text": True}
    said = subprocess.run(command, cwd=scenarios.ROOT, capture_output=True, **options)
    assert said.returncode == 0 and "3 runs, nothing lost" in said.stdout, said.stderr[-3000:]
