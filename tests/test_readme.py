"""The README's Python runs as it stands."""

import re

import jax
import jax.numpy as jnp
import pytest

from tests.pages import ROOT, blocks

README = (ROOT / "README.md").read_text()
BLOCKS = [block.code for block in blocks(ROOT / "README.md")]


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


@pytest.mark.slow
def test_pictures_and_export_run(capsys):
    names: dict = {}
    exec("import jax\nimport jax.numpy as jnp\nimport jaxnet as jn\n" + BLOCKS[3], names)
    assert names["heat"].shape == names["images"].shape
    trunk = names["few"].init(jax.random.key(2), names["images"])[0]["resnet"]
    assert jax.tree.map(jnp.shape, trunk) == jax.tree.map(jnp.shape, names["params"]["resnet"])
    for model, shape in (("segmenter", (2, 64, 96, 11)), ("detector", (2, 4, 6, 13))):
        given = jax.eval_shape(names[model].init, jax.random.key(0), names["images"])
        y, _ = jax.eval_shape(names[model].apply, *given, names["images"])
        assert y.shape == shape
    exec(BLOCKS[4], names)
    assert capsys.readouterr().out.strip() == re.findall(r"print\(program\)  # (.*)", README)[0]


@pytest.mark.slow
def test_many_runs_and_pretraining_run(capsys):
    names: dict = {}
    exec("import jax, optax\nimport jaxnet as jn\ntrain, test = jn.data.digits()", names)
    exec(BLOCKS[5], names)
    assert "learning_rate" in capsys.readouterr().out
    assert names["params"]["dense"]["kernel"].shape == (64, 64)
