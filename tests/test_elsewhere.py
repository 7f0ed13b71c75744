"""Programs compiled for machines that are not here, where their compilers are installed."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from tests.pages import ROOT
from tools import elsewhere


def compile_for(target, *programs):
    """What the tool prints; the compilers take minutes to install, so that is not done here."""
    platform = elsewhere.target_of(target).platform
    if not elsewhere.folder(platform).joinpath("ready").exists():
        pytest.skip(f"needs a compiler: python -m tools.elsewhere {target} 'MLP 3x64'")
    command = [sys.executable, "-m", "tools.elsewhere", target, *programs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


def test_names_of_targets():
    assert elsewhere.target_of("v5e:4x2") == ("v5e", (4, 2), elsewhere.V5E)
    assert elsewhere.target_of("t4").platform == "cuda"


@pytest.mark.parametrize("name", ["v6e", "v5e:4", "t4:x"])
def test_a_target_that_does_not_exist(name):
    with pytest.raises(SystemExit, match="expected t4, a100, h100, v5e or v5e:4x4"):
        elsewhere.target_of(name)


def test_what_a_program_contains():
    x = jnp.ones((512, 1024))
    seen = elsewhere.look(jax.jit(lambda x: (x @ x.T, jnp.sin(x).sum())).lower(x).compile(), 1.5)
    assert seen.held == 2**21
    assert seen.wide >= 2**20
    assert sum(seen.launches.values()) >= 2
    words = elsewhere.table({"two": seen}, elsewhere.target_of("t4"))
    assert words.startswith("two: 2.1 MB of arguments")
    assert "fits into 15.6 GB" in words
    large = {"two": seen._replace(held=2**40)}
    assert "DOES NOT FIT" in elsewhere.table(large, elsewhere.target_of("t4"))


@pytest.mark.long
@pytest.mark.parametrize("target", ["h100", "a100"])
def test_cudnn_computes_attention_with_each_mask_that_it_takes(target):
    lines = compile_for(target, "attention").splitlines()
    assert len(lines) == 18
    assert all("cudnn$fmha" in line for line in lines[1::2])


@pytest.mark.long
def test_a_t4_has_no_attention_of_cudnn():
    assert "fmha" not in compile_for("t4", "attention")


@pytest.mark.long
@pytest.mark.parametrize("target", ["t4", "v5e"])
def test_long_attention_needs_a_tenth_of_the_memory_of_all_scores(target):
    printed = compile_for(target, "long attention")
    blocks, scores = re.findall(r"([\d.]+ .)B of temporaries", printed)[:2]
    assert blocks[-1] == "M"
    assert scores[-1] == "G"
    assert float(blocks[:-1]) < 100 * float(scores[:-1])


@pytest.mark.long
def test_a_small_step_launches_as_few_kernels_as_linens():
    """But for the one that counts steps, which Linen's program does not do."""
    printed = compile_for("h100", "MLP 3x64", "--peers", "ours", "linen")
    ours, linen = map(int, re.findall(r"; (\d+) kernels", printed))
    assert ours <= linen + 1


@pytest.mark.long
@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize("target", ["t4", "h100", "v5e"])
def test_each_layer_and_its_gradient_compile(target, part):
    printed = compile_for(target, f"catalogue {part}/6")
    assert f"part {part} of 6" in printed and " s, 0 fail" in printed, printed


@pytest.mark.long
def test_what_a_sharded_decoder_and_a_ring_over_time_send():
    printed = compile_for("v5e:4x4", "small", "small ring")
    summed = [float(n) for n in re.findall(r"all-reduce ([\d.]+) MB", printed)]
    # The gradient of the embedding is added up whole; 110 if those of all kernels are.
    assert len(summed) == 2
    assert max(summed) < 40
    sent = [float(n) for n in re.findall(r"collective-permute ([\d.]+) MB", printed)]
    expected = [float(n) for n in re.findall(r"\(([\d.]+) MB by the formula", printed)]
    assert sent[1] - sent[0] == pytest.approx(expected[1] - expected[0], rel=0.01)
