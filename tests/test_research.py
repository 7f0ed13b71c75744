"""The research programs of the guide beside the same programs in Flax NNX: lines and results."""

import re

import numpy as np
import pytest

from tests.pages import ROOT, count_lines, run, sections

GUIDE = ROOT / "guide" / "research.md"
COUNTS = ROOT / "guide" / "migrating" / "flax_nnx.md"
NNX = ROOT / "tests" / "research_nnx.md"
THEIRS = {heading: found for heading, found in sections(NNX).items() if heading}


def before(found):
    """The blocks before a subheading, which shows what the other program does not do."""
    lines = GUIDE.read_text().splitlines()
    numbers = [int(block.where.split(":")[1]) for block in found]
    inner = [line.startswith("### ") for line in lines[numbers[0] : numbers[-1]]]
    last = numbers[0] + inner.index(True) if True in inner else numbers[-1]
    return [block for block, number in zip(found, numbers, strict=True) if number <= last]


def test_the_table_counts_the_lines():
    ours = sections(GUIDE)
    rows = re.findall(r"^\| (.+?) \| (\d+) \| (\d+) \|$", COUNTS.read_text(), re.M)
    assert [name for name, *_ in rows] == list(THEIRS)
    for name, here, there in rows:
        lines = count_lines(before(ours[name])), count_lines(THEIRS[name])
        assert (int(here), int(there)) == lines, name
        assert int(here) <= int(there), name


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # from Flax
@pytest.mark.parametrize("heading", THEIRS)
def test_nnx_programs_learn(heading, capsys):
    pytest.importorskip("flax.nnx")
    names: dict = {"__name__": "nnx"}
    start = [*sections(GUIDE)[""], *sections(NNX)[""]]
    for block in [*start, *THEIRS[heading]]:
        run(block, names)
    if heading == "A generative adversarial network":
        fake, real = np.asarray(names["fake"]), names["flat"]
        assert np.abs(fake.mean(0) - real.mean(0)).mean() < 0.1
        return
    losses = np.array(names["losses"])
    assert losses[-10:].mean() < 0.6 * losses[:10].mean()
