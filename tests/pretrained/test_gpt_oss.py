"""The experts of gpt-oss in mxfp4; test_recorded.py and test_published.py compare its outputs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxnet as jn
from jaxnet.pretrained import gpt_oss, load, save
from tests.pretrained.test_decoders import PUBLISHED
from tests.pretrained.test_encoders import slopes_agree
from tests.pretrained.test_loading import SIZES, outputs, published
from tools import families

CONFIG = SIZES | {
    "model_type": "gpt_oss", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_local_experts": 3, "num_experts_per_tok": 2, "architectures": ["GptOssForCausalLM"],
    "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip
IDS = np.random.default_rng(0).integers(3, 97, (2, 12))
EVERY = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), (1, 256, 16, 16))
SCALES = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (1, 256, 16))


def number(bits, scale):
    """A sign, two bits of an exponent, one of a fraction, and the power of two."""
    exponent, half = bits >> 1 & 3, (bits & 1) / 2
    size = 2.0 ** (exponent - 1) * (1 + half) if exponent else half
    return (-size if bits & 8 else size) * 2.0 ** (int(scale) - 127)


def decoded(blocks, scales):
    rows = blocks.reshape(-1, blocks.shape[-1]).tolist()
    found = [
        [number(bits, scale) for byte in row for bits in (byte & 15, byte >> 4)]
        for row, scale in zip(rows, scales.ravel(), strict=True)
    ]
    with np.errstate(over="ignore"):
        array = np.array(found, np.float32)
    return array.reshape(*blocks.shape[:2], -1).mT


def packed(folder, change=lambda weights: None, **entries):
    """A folder with random weights, the kernels of the experts in mxfp4."""
    config, ids = CONFIG | entries, jnp.asarray(IDS)
    net = jn.models.decoder(**jn.pretrained.decoder_config(config))
    params, state = net.init(jax.random.key(0), ids)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    save(folder, net, params, state, config=config)
    weights = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    for name in [name for name in weights if name.endswith("_proj") and "experts" in name]:
        experts, wide, outs = weights.pop(name).shape
        blocks = rng.integers(0, 256, (experts, outs, wide // 32, 16), dtype=np.uint8)
        weights[f"{name}_blocks"] = blocks
        weights[f"{name}_scales"] = rng.integers(121, 126, blocks.shape[:3], dtype=np.uint8)
    change(weights)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def test_every_byte_at_every_scale():
    found = gpt_oss.mxfp4(EVERY, SCALES)
    assert found.shape == (1, 512, 256)
    assert found.dtype == jnp.bfloat16
    wanted = decoded(EVERY, SCALES)
    np.testing.assert_array_equal(found.astype(np.float32), wanted)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))


@pytest.mark.slow
def test_packed_experts_are_read_and_saved_as_floats(tmp_path):
    weights = packed(tmp_path)
    net, params, state = load(tmp_path)
    for i, (name, theirs) in enumerate((("mlp_in", "gate_up_proj"), ("mlp_out", "down_proj"))):
        first = f"model.layers.{i}.mlp.experts.{theirs}"
        wanted = decoded(weights[f"{first}_blocks"], weights[f"{first}_scales"])
        found = params[f"block_{i}"]["moe"]["experts"][name]
        np.testing.assert_array_equal(found["kernel"], wanted)
        np.testing.assert_array_equal(found["bias"], weights[f"{first}_bias"])
    assert families.SAVED["gpt_oss"] == "as floats"
    save(tmp_path / "plain", net, params, state)
    config = json.loads((tmp_path / "plain/config.json").read_text())
    assert "quantization_config" not in config
    assert config["torch_dtype"] == "float32"
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "plain")[1], params)


FIRST = "model.layers.1.mlp.experts.down_proj"


@pytest.mark.parametrize(("part", "change", "words"), [
    ("blocks", lambda a: a[..., :8], "mxfp4 fails for .{0}_blocks.* expected .experts, out"),
    ("blocks", lambda a: a[:, :9], "mxfp4 fails for .{0}_blocks"),
    ("scales", lambda a: a[0], "mxfp4 fails for .{0}_blocks.* and .{0}_scales"),
    ("scales", lambda a: a.astype(np.int8), "{0}_scales.* bytes .uint8., got uint8 and int8"),
    ("scales", lambda a: None, "the weights have no .{0}_scales"),
    ("bias", lambda a: a[:, 1:], r"got \(3, 31\) from .{0}_bias"),
    (None, lambda a: a[1:], r"got \(2, 64, 32\) from .{0}_blocks.* and .{0}_scales"),
])  # fmt: skip
def test_damaged_arrays_are_named(tmp_path, part, change, words):
    def damaged(weights):
        for each in [part] if part else ["blocks", "scales"]:
            array = change(weights.pop(f"{FIRST}_{each}"))
            weights |= {} if array is None else {f"{FIRST}_{each}": np.ascontiguousarray(array)}

    packed(tmp_path, damaged)
    with pytest.raises(ValueError, match=words.format(FIRST)):
        load(tmp_path)


@pytest.mark.slow
def test_other_numbers_of_few_bits_are_an_error(tmp_path):
    packed(tmp_path)
    config = CONFIG | {"quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="quantization_config must be an .* mxfp4, got {'quant_m"):
        load(tmp_path)


def test_a_config_without_entries_has_those_of_the_published_models():
    configs = PUBLISHED["gpt-oss-20b"], {"model_type": "gpt_oss", "num_hidden_layers": 24}
    options = [jn.pretrained.decoder_config(config) for config in configs]
    assert options[0]["windowed"] == options[1]["windowed"] == [True, False] * 12
    usual, found = (each["rotary"].keywords for each in options)
    angles = 1.5e5 ** (-np.arange(32) / 32)
    np.testing.assert_array_equal(found["scaling"](angles), usual["scaling"](angles))
    assert np.isclose(angles[-1] / found["scaling"](angles)[-1], 32)
    assert found["factor"] == usual["factor"]
    assert np.isclose(found["factor"], 1.34657)


@pytest.mark.slow
def test_mxfp4_is_that_of_transformers(tmp_path):
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    for dtype in (torch.float32, torch.bfloat16):
        given = (torch.tensor(np.array(array)) for array in (EVERY, SCALES))
        wanted = convert_moe_packed_tensors(*given, dtype=dtype).float().numpy()
        np.testing.assert_array_equal(gpt_oss.mxfp4(EVERY, SCALES).astype(np.float32), wanted)
    packed(tmp_path)
    model = transformers.GptOssForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32
    )
    wanted = outputs(torch, model, {"input_ids": IDS}).detach()
    net, params, state = load(tmp_path)
    found, _ = net.apply(params, state, jnp.asarray(IDS))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_gradients_are_those_of_transformers(tmp_path):
    torch, model = published("gpt_oss", tmp_path)
    net, params, state = load(tmp_path)
    (outputs(torch, model, {"input_ids": IDS}) ** 2).mean().backward()

    def loss(params):
        return (net.apply(params, state, jnp.asarray(IDS))[0] ** 2).mean()

    grads = jax.grad(loss)(params)
    slopes_agree(model, net, grads, state, tmp_path, 1e-5)
