"""The README's Python runs as it stands."""

import re
from pathlib import Path

import jax

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_learns(capsys):
    names: dict = {}
    exec(BLOCKS[0], names)  # our own text
    epoch = names["epoch"]
    assert epoch.number == 8 and 0.95 < epoch.test["accuracy"] < 1.0
    shown = README.split("```\nepoch")[1].split("```")[0].strip().splitlines()
    printed = capsys.readouterr().out.strip().splitlines()
    assert len(shown) == len(printed) == 8


def test_the_contract_runs(capsys):
    names: dict = {}
    exec("import jax\nimport jaxnet as jn\n" + BLOCKS[1] + BLOCKS[2], names)
    assert names["y"].shape == (32, 10)
    params, _ = jax.eval_shape(
        names["net"].init, jax.random.key(0), names["jn"].spec((2, 32, 32, 3))
    )
    assert params["block_1"]["conv"]["kernel"].shape == (4, 3, 3, 16, 16)
    assert "total" in capsys.readouterr().out.lower()
