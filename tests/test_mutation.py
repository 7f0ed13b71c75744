"""Which places of the code are broken on purpose, and which tests look for such a mutant."""

import ast
import importlib
from pathlib import Path

import pytest

from tools import mutation

SOURCE = '''
def scale(x, factor=2.0, *, name="scale", progress=True):
    """Returns 3 times x."""
    if factor <= 0:
        raise ValueError(f"{name}: factor must be above {1 - 1}")
    within(name, "factor", factor + 1)
    return x * factor
'''


def places(folder: Path, arithmetic: bool) -> set[str]:
    path = folder / "scale.py"
    path.write_text(SOURCE)
    nodes = list(ast.walk(ast.parse(SOURCE)))
    return {ast.unparse(nodes[i]) for i, _, _ in mutation.places_of(path, arithmetic)}


def test_arithmetic_is_what_changes_a_value(tmp_path, monkeypatch):
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    (folder := tmp_path / "jaxnet").mkdir()
    assert places(folder, True) == {"2.0", "x * factor"}
    assert {"factor <= 0", "factor + 1", "True"} <= places(folder, False)


@pytest.mark.slow
def test_tests_are_those_of_the_file_the_room_and_the_rows_that_run_it():
    own, oracles, rooms, laws = mutation.chosen("jaxnet/layers/response_norm.py")
    assert own == ["tests/layers/test_response_norm.py", "jaxnet/layers/response_norm.py"]
    assert oracles[0] == "tests/test_oracles.py" and "spatial_dropout" in oracles[2]
    assert rooms == ["tests/layers"]
    assert laws == ["tests/test_laws.py", "-k", "local_response_norm"]
    assert not mutation.chosen("jaxnet/data/warp.py")[3]


def test_a_copy_is_broken_and_the_module_is_not():
    module = importlib.import_module("jaxnet.ops.resample")
    broken = mutation.mutated(module, "1 - abs(distance)", "2 - abs(distance)")
    assert broken.triangle(0.5) == 1.5 and module.triangle(0.5) == 0.5
    with pytest.raises(AssertionError, match="occurs 0 times"):
        mutation.mutated(module, "no such text", "")
