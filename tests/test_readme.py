"""The README: its blocks run, and its example prints the output shown."""

import re

import jax
import jax.numpy as jnp
import numpy as np
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
    assert epoch.number == 8 and 0.95 < epoch.evaluation["accuracy"] < 1.0
    shown = re.findall(r"```\n(epoch.*?)\n```", README, re.S)[0].splitlines()
    printed = capsys.readouterr().out.strip().splitlines()
    assert len(shown) == len(printed) == 8
    for line, now in zip(shown, printed, strict=True):
        (words, numbers), (words_now, numbers_now) = map(parts, (line, now))
        assert words == words_now
        # Rounding differs between versions of JAX: by 0.01 after eight epochs.
        np.testing.assert_allclose(numbers_now, numbers, rtol=0, atol=0.03, err_msg=now)


def parts(line: str) -> tuple[str, list[float]]:
    """The words of a line, and its numbers without the seconds."""
    line = re.sub(r"\S+(?= s$)", "x", line)
    return re.sub(r"\d+\.\d+", "x", line), [float(n) for n in re.findall(r"\d+\.\d+", line)]


@pytest.mark.long
def test_the_model_runs(capsys):
    names: dict = {}
    exec("import jax\nimport jaxnet as jn\n" + BLOCKS[1], names)
    params, _ = jax.eval_shape(
        names["net"].init, jax.random.key(0), names["jn"].spec((2, 32, 32, 3))
    )
    assert params["block_1"]["conv"]["kernel"].shape == (4, 3, 3, 16, 16)
    assert params["block_2"]["gain"].shape == (32,)
    assert "total" in capsys.readouterr().out.lower()


@pytest.mark.long
def test_the_language_model_runs():
    names: dict = {}
    exec("import jax\nimport jaxnet as jn\n" + BLOCKS[2], names)
    assert names["text"].tokens.shape == (2, 20)
    adapted, _ = jax.eval_shape(
        names["adapted"].init, jax.random.key(0), jn.spec((1, 2), jnp.int32)
    )
    assert "kernel_lora_a" in adapted["block_0"]["attention"]["query"]


def test_the_error_shown_is_raised():
    net = jn.serial(jn.dense(10))
    params = {"dense": {"kernel": jnp.ones((100, 10)), "bias": jnp.ones(10)}}
    with pytest.raises(jn.Misfit) as error:
        net.apply(params, {}, jnp.ones((32, 784)))
    raised = "\n".join(["jaxnet.Misfit: " + str(error.value), *error.value.__notes__])
    [shown] = re.findall(r"```\n(jaxnet.Misfit.*?)\n```", README, re.S)
    assert raised.split() == shown.split()
