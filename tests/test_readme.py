"""The README: its blocks run, and its example prints the output shown."""

import re

import jax
import jax.numpy as jnp
import pytest

import jaxnet as jn
from tests.pages import ROOT, blocks

README = (ROOT / "README.md").read_text()
BLOCKS = [block.code for block in blocks(ROOT / "README.md")]


@pytest.mark.long
def test_the_example_learns(capsys):
    names: dict = {}
    exec(BLOCKS[0], names)  # our own text
    epoch = names["epoch"]
    assert epoch.number == 8 and 0.95 < epoch.test["accuracy"] < 1.0
    shown = re.findall(r"```\n(epoch.*?)\n```", README, re.S)[0].splitlines()
    printed = capsys.readouterr().out.strip().splitlines()
    bare = [
        [re.sub(r"\S+(?= s$)|\d+\.\d+", "x", line) for line in lines] for lines in (shown, printed)
    ]
    assert bare[0] == bare[1] and len(shown) == 8
    [accuracy] = re.findall(r"test .*accuracy ([\d.]+)", shown[-1])
    assert abs(epoch.test["accuracy"] - float(accuracy)) < 0.03


@pytest.mark.long
def test_the_contract_runs(capsys):
    names: dict = {}
    exec("import jax, optax\nimport jax.numpy as jnp\nimport jaxnet as jn\n", names)
    for block in BLOCKS[1:4]:
        exec(block, names)
    assert names["y"].shape == (32, 10)
    params, _ = jax.eval_shape(
        names["net"].init, jax.random.key(0), names["jn"].spec((2, 32, 32, 3))
    )
    assert params["block_1"]["conv"]["kernel"].shape == (4, 3, 3, 16, 16)
    assert params["block_2"]["gain"].shape == (32,)
    assert "total" in capsys.readouterr().out.lower()
    images = jax.random.uniform(jax.random.key(1), (5, 8, 8, 1))
    train_state, metrics = names["trainer"].step(
        names["trainer"].init(jax.random.key(0), images), images
    )
    assert sorted(metrics) == ["kl", "loss"] and metrics["loss"] > metrics["kl"] > 0


def test_the_error_shown_is_raised():
    net = jn.serial(jn.dense(10))
    params = {"dense": {"kernel": jnp.ones((100, 10)), "bias": jnp.ones(10)}}
    with pytest.raises(jn.Misfit) as error:
        net.apply(params, {}, jnp.ones((32, 784)))
    raised = "\n".join(["jaxnet.Misfit: " + str(error.value), *error.value.__notes__])
    [shown] = re.findall(r"```\n(jaxnet.Misfit.*?)\n```", README, re.S)
    assert raised.split() == shown.split()


@pytest.mark.long
def test_pictures_and_export_run(capsys):
    names: dict = {}
    exec("import jax\nimport jax.numpy as jnp\nimport jaxnet as jn\n" + BLOCKS[4], names)
    assert names["heat"].shape == names["images"].shape
    trunk = names["few"].init(jax.random.key(2), names["images"])[0]["resnet"]
    assert jax.tree.map(jnp.shape, trunk) == jax.tree.map(jnp.shape, names["params"]["resnet"])
    for model, shape in (("segmenter", (2, 64, 96, 11)), ("detector", (2, 4, 6, 13))):
        given = jax.eval_shape(names[model].init, jax.random.key(0), names["images"])
        y, _ = jax.eval_shape(names[model].apply, *given, names["images"])
        assert y.shape == shape
    exec(BLOCKS[5], names)
    assert capsys.readouterr().out.strip() == re.findall(r"print\(program\)  # (.*)", README)[0]


@pytest.mark.long
def test_many_runs_and_pretraining_run(capsys):
    names: dict = {}
    exec("import jax, optax\nimport jaxnet as jn\ntrain_data, test_data = jn.data.digits()", names)
    exec(BLOCKS[6], names)
    assert "learning_rate" in capsys.readouterr().out
    assert names["params"]["dense"]["kernel"].shape == (64, 64)
