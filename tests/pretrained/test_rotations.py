"""Rotations of published decoders: the scaling of each kind, by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn

LLAMA = {
    "model_type": "llama", "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 1, "intermediate_size": 16, "max_position_embeddings": 64,
}  # fmt: skip
TURN = 2 * math.pi


def options_of(**entries):
    """The options of the rotation of a Llama with a head of 8 features, by its entries."""
    config = LLAMA | {"rope_parameters": entries}
    return jn.pretrained.decoder_config(config)["rotary"].keywords


def test_linear_divides_all_angles():
    scaling = options_of(rope_type="linear", factor=4.0)["scaling"]
    np.testing.assert_allclose(scaling(np.array([1.0, 0.5])), [0.25, 0.125])


def test_the_default_scales_nothing():
    assert options_of(rope_theta=7.0) == {"base": 7.0, "scaling": None}


def test_llama3_divides_what_turns_less_than_once():
    entries = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    length = {"original_max_position_embeddings": 64}
    scaling = options_of(rope_type="llama3", **entries, **length)["scaling"]
    turns = np.array([0.5, 1.0, 2.5, 4.0, 8.0])  # within 64 positions
    angles = turns * TURN / 64
    halfway = (1 / 8 + 1) / 2
    np.testing.assert_allclose(scaling(angles) / angles, [1 / 8, 1 / 8, halfway, 1, 1])


def test_yarn_divides_slow_pairs_more():
    # Pair i turns 16 ** (1 - i / 4) times, so that pair 0 is at beta_fast.
    options = options_of(
        rope_type="yarn",
        rope_theta=16.0,
        factor=4.0,
        original_max_position_embeddings=16 * TURN,
        beta_fast=16.0,
        beta_slow=1.0,
        truncate=False,
    )
    found = options["scaling"](np.ones(4))
    np.testing.assert_allclose(found, [1, 0.75 + 0.25 / 4, 0.5 + 0.5 / 4, 0.25 + 0.75 / 4])
    assert options["factor"] == pytest.approx(0.1 * math.log(4) + 1)


def test_longrope_divides_each_pair_by_its_factor():
    short, long = [1.0, 2.0, 4.0, 8.0], [2.0, 2.0, 2.0, 2.0]
    options = options_of(
        rope_type="longrope",
        short_factor=short,
        long_factor=long,
        original_max_position_embeddings=8,
    )
    np.testing.assert_allclose(options["scaling"](np.ones(4)), [1, 0.5, 0.25, 0.125])
    np.testing.assert_allclose(options["longer"](np.ones(4)), [0.5, 0.5, 0.5, 0.5])
    assert options["limit"] == 8
    assert options["factor"] == pytest.approx(math.sqrt(2))  # 1 + log(64 / 8) / log(8) is 2


def test_dynamic_raises_beyond_the_length_of_the_model():
    config = LLAMA | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}
    rotary = jn.pretrained.decoder_config(config)["rotary"]
    x = jnp.ones((1, 65, 1, 8))
    assert rotary(x[:, :64], np.arange(64)).shape == (1, 64, 1, 8)
    with pytest.raises(ValueError, match="rotates up to 64 positions, got 65"):
        rotary(x, np.arange(65))


@pytest.mark.parametrize("kind", ["cubic", ["yarn"], 3], ids=str)
def test_another_kind_is_refused(kind):
    with pytest.raises(ValueError, match="rope_type must be default, linear, .* or longrope, got"):
        options_of(rope_type=kind)
