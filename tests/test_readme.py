"""The README: its blocks run, and its example prints the output shown."""

import re

import jax
import numpy as np
import pytest

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
    assert len(printed) == 8 and shown[1] == "..."
    for line, now in zip(shown[::2], printed[::7], strict=True):
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
    assert params["block"]["conv"]["kernel"].shape == (4, 3, 3, 16, 16)
    assert params["block"]["gain"].shape == (4, 16)
    assert "total" in capsys.readouterr().out.lower()


def test_it_fits_on_one_screen():
    assert 400 < len(README.split()) <= 700
    pictures = re.findall(r'<img src="([^"]+)"', README)
    links = [path for path in re.findall(r"\]\(([^)#]+)", README) if "://" not in path]
    assert len(pictures) == 3 and len(links) > 10
    for path in [*pictures, *links]:
        assert (ROOT / path).exists(), path
