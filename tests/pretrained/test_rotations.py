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


@pytest.fixture
def grown():
    """The rotation of a Llama of 64 positions whose base grows, and of one whose base does not."""
    config = LLAMA | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 9.0}}
    rotary = jn.pretrained.decoder_config(config)["rotary"]
    return rotary, lambda x, at, base=9.0: jn.rotary(x, at, base=base)


def test_dynamic_has_its_base_up_to_the_length_of_the_model(grown):
    rotary, usual = grown
    x = jnp.ones((2, 64, 1, 8))
    for at in (np.arange(64), jnp.broadcast_to(jnp.arange(64), (2, 64))):
        np.testing.assert_allclose(rotary(x, at), usual(x, at), 1e-5, 1e-5)


def test_dynamic_has_a_base_that_grows_beyond_it(grown):
    rotary, usual = grown
    x = jnp.ones((1, 96, 1, 8))
    base = 9 * (2 * 96 / 64 - 1) ** (8 / 6)
    np.testing.assert_allclose(rotary(x, np.arange(96)), usual(x, np.arange(96), base), 1e-5, 1e-5)


def test_each_row_of_a_stream_has_its_own_length(grown):
    rotary, usual = grown
    x, at = jnp.ones((2, 1, 1, 8)), jnp.array([[30], [95]])
    base = 9 * (2 * 96 / 64 - 1) ** (8 / 6)
    found = rotary(x, at)
    np.testing.assert_allclose(found[:1], usual(x[:1], at[:1]), 1e-5, 1e-5)
    np.testing.assert_allclose(found[1:], usual(x[1:], at[1:], base), 1e-5, 1e-5)


def test_longrope_is_that_of_the_length():
    entries = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "attention_factor": 1.0}
    options = {"rope_type": "longrope", "original_max_position_embeddings": 6}
    config = LLAMA | {"rope_parameters": options | entries}
    rotary = jn.pretrained.decoder_config(config)["rotary"]
    x = jnp.ones((2, 7, 1, 8))
    for length, by in ((6, 1), (7, 4)):
        at = np.arange(length)
        wanted = jn.rotary(x[:, :length], at / by)
        for given in (at, jnp.broadcast_to(at, (2, length))):
            np.testing.assert_allclose(rotary(x[:, :length], given), wanted, 1e-5, 1e-5)
    rows = rotary(x[:, :1], jnp.array([[5], [6]]))
    np.testing.assert_allclose(rows, jn.rotary(x[:, :1], jnp.array([[5], [1.5]])), 1e-5, 1e-5)


@pytest.mark.parametrize("kind", ["cubic", ["yarn"], 3], ids=str)
def test_another_kind_is_refused(kind):
    with pytest.raises(ValueError, match="rope_type must be default, linear, .* or longrope, got"):
        options_of(rope_type=kind)
