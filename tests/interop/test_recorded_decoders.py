"""Published decoders against what transformers computed, recorded by `tools.decoders`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxnet as jn
from jaxnet.interop import decoder_table, load, to_names
from tests.interop.test_published import MODELS
from tools import decoders

RECORDED, CONFIGS = jn.load(decoders.FILE)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_logits_text_and_the_way_back(name, tmp_path):
    recorded, ids = RECORDED[name], RECORDED[name]["ids"]
    weights = {key: np.asarray(a, np.float32) for key, a in recorded["weights"].items()}
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    save_file(weights, tmp_path / "model.safetensors")
    net, params, state = load(tmp_path)
    found, _ = jax.jit(net.apply)(params, state, ids)
    np.testing.assert_allclose(found, recorded["logits"], rtol=1e-4, atol=4e-4)
    made = jn.decoding.generate(net, params, ids, length=decoders.WRITTEN, temperature=0)
    np.testing.assert_array_equal(made.tokens, recorded["text"])
    names = to_names(net, params, state, jnp.asarray(ids), decoder_table(CONFIGS[name]))
    head = {"lm_head.weight"}  # of a tied model it is the table
    assert set(names) - head == set(weights) - head
    for key in set(names) & set(weights):
        np.testing.assert_allclose(names[key], weights[key], atol=1e-6)


def test_every_model_is_recorded():
    assert set(RECORDED) == set(CONFIGS) == set(MODELS)
