"""Which places of the code are broken on purpose, and which tests look for such a mutant."""

import ast
import importlib

import pytest

from tools import mutation

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
    assert found["operator: x * factor  ->  x / factor"] == SOURCE.replace(
        "x * f", "(x / f"
    ).replace("/ factor", "/ factor)")
    assert len(found) == 3


@pytest.mark.slow
def test_tests_are_those_of_the_file_the_room_and_the_rows_that_run_it():
    file = "jaxnet/layers/response_norm.py"
    rows = sorted(mutation.rows_by_file()[file])
    assert rows == ["local_response_norm"]
    oracles = mutation.oracles_by_room()["jaxnet/layers"]
    assert "layers.spatial_dropout" in oracles
    chosen = mutation.Chosen(file, rows, oracles)
    own = ["tests/layers/test_response_norm.py", file]
    seeing = ["tests/test_oracles.py", "tests/test_laws.py", "tests/test_api.py"]
    assert chosen.tests == [*own, *seeing, "tests/layers"]
    assert "tests/test_laws.py" not in mutation.Chosen("jaxnet/data/warp.py", [], []).tests


def test_a_copy_is_broken_and_the_module_is_not():
    module = importlib.import_module("jaxnet.ops.resample")
    broken = mutation.mutated(module, "1 - abs(distance)", "2 - abs(distance)")
    assert broken.triangle(0.5) == 1.5 and module.triangle(0.5) == 0.5
    with pytest.raises(AssertionError, match="occurs 0 times"):
        mutation.mutated(module, "no such text", "")
