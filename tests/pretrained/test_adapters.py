"""Adapters in files: there and back, into the merged net, in PEFT's names, damaged."""

import json
import time
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxnet as jn
from jaxnet.pretrained import load_adapter, save_adapter
from jaxnet.pretrained.loading import described
from jaxnet.services.trees import flat
from jaxnet.transforms.kernels import replaced
from tests.helpers import HANGS, KEY, close, jit_apply, jit_init, shapes
from tests.pretrained.hostile_adapters import variants
from tests.pretrained.test_loading import LLAMA

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
TEXT = np.arange(12).reshape(2, 6) % 11
GPT2 = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2}
PHI3 = LLAMA | {"model_type": "phi3", "pad_token_id": 0}


def decoder(config=LLAMA):
    return jn.models.decoder(**jn.pretrained.decoder_config(config))


def conv():
    return jn.serial(jn.conv(4, 3), jax.nn.relu, jn.flatten(), jn.dense(3, name="head"))


def stack(name="transformer_block"):
    block = jn.transformer_block(2, causal=True, name=name)
    return jn.serial(jn.embedding(11, 8), jn.repeat(block, 3), jn.dense(11, name="head"))


NETS = {
    "llama": (decoder, TEXT, {"where": "*/kernel"}),
    "gpt2": (lambda: decoder(GPT2), TEXT, {"where": "block*/kernel"}),
    "conv": (conv, jnp.ones((2, 5, 5, 1)), {"where": "conv/kernel", "trainable": "head/*"}),
    "repeat": (stack, TEXT, {}),
    "repeat in a block": (lambda: stack("block_0"), TEXT, {}),
}


def adapted(net, x, rank=3, scale=0.5, **options):
    """An adapted net with params as after training, and the params of the net alone."""
    lora = jn.lora(net, rank, scale=scale, **options)
    own, state = jit_init(net, KEY, x)
    params, _ = jax.device_get(jit_init(lora, jax.random.key(1), x))

    def wave(leaf):
        return 0.1 * np.cos(np.arange(leaf.size)).reshape(leaf.shape)

    params = jax.tree.map(lambda leaf: (leaf + wave(leaf)).astype(leaf.dtype), params)

    def trains(path):
        return "_lora_" in path or "head/" in path and "trainable" in options

    kept = {path: leaf for path, leaf in flat(own) if not trains(path)}
    return lora, replaced(params, kept), own, state


@pytest.mark.parametrize(("make", "x", "options"), [
    pytest.param(*given, id=name, marks=[] if name == "conv" else pytest.mark.slow)
    for name, given in NETS.items()
])  # fmt: skip
def test_there_and_back(tmp_path, make, x, options):
    net = make()
    lora, params, own, state = adapted(net, x, **options)
    save_adapter(tmp_path / "new", lora, params)
    for given in own, params:
        again = load_adapter(tmp_path / "new", lora, given)
        jax.tree.map(np.testing.assert_array_equal, again, params)
    merged = load_adapter(tmp_path / "new", net, own)
    assert jax.tree.structure(merged) == jax.tree.structure(own)
    run = jax.jit(lambda params: net.apply(params, state, x)[0])
    y = run(merged)
    np.testing.assert_allclose(jit_apply(lora, params, state, x)[0], y, rtol=1e-4, atol=1e-5)
    assert not np.allclose(run(own), y, atol=1e-3)


@pytest.mark.slow
def test_a_matrix_is_there_and_back(tmp_path):
    lora, params, own, _ = adapted(decoder(), TEXT, where="*/mlp_in/kernel")
    save_adapter(tmp_path, lora, params)
    jax.tree.map(np.testing.assert_array_equal, load_adapter(tmp_path, lora, own), params)


@pytest.mark.slow
def test_the_names_are_those_of_peft(tmp_path):
    lora, params, _, _ = adapted(decoder(), TEXT)
    save_adapter(tmp_path, lora, params)
    first = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
    arrays = shapes(load_file(tmp_path / WEIGHTS))
    assert (arrays[f"{first}A.weight"], arrays[f"{first}B.weight"]) == ((3, 8), (8, 3))
    assert len(arrays) == 2 * 2 * 2
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["target_modules"] == ["self_attn.q_proj", "self_attn.v_proj"]
    assert (config["r"], config["lora_alpha"]) == (3, 1.5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT about transformers
@pytest.mark.parametrize("where", [
    "block*/kernel", "*/(query|value|mlp_gate)/kernel", "*/value/kernel"
])  # fmt: skip
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_against_peft(tmp_path, family, where):
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    given = {"llama": LLAMA, "gpt2": GPT2, "phi3": PHI3}[family]
    if family == "gpt2":
        where = where.replace("mlp_gate", "mlp_in")
    config = transformers.AutoConfig.for_model(**given)
    theirs = transformers.AutoModelForCausalLM.from_config(config)
    theirs.eval().save_pretrained(tmp_path / "base")
    net, own, state = jn.pretrained.load(tmp_path / "base")
    lora, params, *_ = adapted(net, TEXT, where=where)
    save_adapter(tmp_path / "ours", lora, params)
    factors = {path: leaf for path, leaf in flat(params) if "_lora_" in path}
    params = load_adapter(tmp_path / "ours", lora, own)
    again = {path: leaf for path, leaf in flat(params) if "_lora_" in path}
    jax.tree.map(np.testing.assert_array_equal, again, factors)
    both = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours")
    y = both(torch.tensor(TEXT)).logits.detach().numpy()
    found = jit_apply(lora, params, state, TEXT)[0]
    assert abs(found - jit_apply(net, own, state, TEXT)[0]).max() > 1e-3
    np.testing.assert_allclose(found, y, rtol=0, atol=2e-5)
    for leaf in both.parameters():
        leaf.data *= 1.5
    both.save_pretrained(tmp_path / "theirs")
    theirs = dict(flat(load_adapter(tmp_path / "theirs", lora, own)))
    for path, leaf in factors.items():
        close(theirs[path], 1.5 * leaf, 1e-5, 0)


def of_peft(tmp_path, config, targets, **options):
    """A model of transformers with a random adapter of PEFT: its logits, our net and its params."""
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**config)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path / "base")
    options = {"r": 2, "lora_alpha": 6, "target_modules": targets, **options}
    both = peft.get_peft_model(theirs, peft.LoraConfig(init_lora_weights=False, **options))
    both.save_pretrained(tmp_path / "theirs")
    net, own, state = jn.pretrained.load(tmp_path / "base")
    return both(torch.tensor(TEXT)).logits.detach().numpy(), net, own, state


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of PEFT
@pytest.mark.parametrize(("config", "targets", "options"), [
    pytest.param(GPT2, None, {}, id="gpt2 as PEFT has it"),
    pytest.param(GPT2, ["c_attn", "c_proj"], {"fan_in_fan_out": True}, id="gpt2"),
    pytest.param(PHI3, ["qkv_proj", "gate_up_proj"], {"use_rslora": True}, id="phi3"),
    pytest.param(LLAMA, ["q_proj", "o_proj"], {"layers_to_transform": [1]}, id="one block"),
    pytest.param(
        LLAMA, ["q_proj", "o_proj"],
        {"rank_pattern": {"self_attn.q_proj": 4}, "alpha_pattern": {"q_proj": 12}}, id="ranks",
    ),
    pytest.param(
        GPT2, ["c_attn"], {"rank_pattern": {"c_attn": 6}, "alpha_pattern": {"c_attn": 18}},
        id="gpt2 with the rank of three",
    ),
    pytest.param(LLAMA, r".*(self_attn|mlp)\.(k|up)_proj", {}, id="a pattern"),
    pytest.param(LLAMA, "all-linear", {"exclude_modules": ["v_proj"]}, id="all but one"),
])  # fmt: skip
def test_adapters_of_peft_are_loaded(tmp_path, config, targets, options):
    y, net, own, state = of_peft(tmp_path, config, targets, **options)
    merged = load_adapter(tmp_path / "theirs", net, own)
    found = jit_apply(net, merged, state, TEXT)[0]
    assert abs(found - jit_apply(net, own, state, TEXT)[0]).max() > 1e-2
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=2e-5)


def test_kernels_beside_each_other_have_columns_of_their_own(tmp_path):
    net = described(decoder(PHI3), PHI3)
    lora, params, own, _ = adapted(net, TEXT, where="*/(query|value)/kernel")
    save_adapter(tmp_path, lora, params)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["target_modules"] == ["self_attn.qkv_proj"]
    assert (config["r"], config["rank_pattern"]) == (3, {"self_attn.qkv_proj": 9})
    assert (config["lora_alpha"], config["alpha_pattern"]) == (1.5, {"self_attn.qkv_proj": 4.5})
    factor = load_file(tmp_path / WEIGHTS)[f"{LAYER}.self_attn.qkv_proj.lora_B.weight"]
    there = [[bool(block.any()) for block in np.split(rows, 3, 1)] for rows in by_part(factor, own)]
    assert there == [[True, False, False], [False] * 3, [False, False, True]]
    jax.tree.map(np.testing.assert_array_equal, load_adapter(tmp_path, lora, own), params)
    every = jn.lora(net, 3, where="*/(query|key)/kernel", scale=0.5)
    with pytest.raises(ValueError, match="block_0/attention/key/kernel .*has no adapter"):
        load_adapter(tmp_path, every, own)


LAYER = "base_model.model.model.layers.1"


def by_part(factor, own):
    """The rows of a second factor, divided among queries, keys and values."""
    attention = own["block_1"]["attention"]
    sizes = [attention[part]["kernel"][0].size for part in ("query", "key", "value")]
    return np.split(factor, np.cumsum(sizes)[:2])


@pytest.mark.parametrize(("pattern", "words"), [
    ({"rank_pattern": {"qkv_proj": 6}, "alpha_pattern": {"qkv_proj": 3}}, "rank 9, but r is 6"),
    ({"alpha_pattern": {}}, r"qkv_proj.lora_A.weight. has the scale 0.166667, and others 0.5"),
    ({"r": 9, "lora_alpha": 4.5}, r"needs jn.lora\(net, 9, scale=0.5\)"),
])  # fmt: skip
def test_ranks_of_modules_that_do_not_fit(pattern, words, tmp_path):
    lora, params, own, _ = adapted(described(decoder(PHI3), PHI3), TEXT)
    save_adapter(tmp_path, lora, params)
    config = json.loads((tmp_path / CONFIG).read_text()) | pattern
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"(?s)load_adapter: .*{words}"):
        load_adapter(tmp_path, lora, own)


def test_joined_factors_are_divided(tmp_path):
    """The second factor of GPT-2's c_attn holds those of queries, keys and values."""
    net = decoder(GPT2)
    own, _ = jit_init(net, KEY, TEXT)
    rng = np.random.default_rng(0)
    stored = {}
    for i in range(2):
        name = f"base_model.model.transformer.h.{i}.attn.c_attn.lora_"
        a, b = rng.normal(size=(2, 8)), rng.normal(size=(24, 2))
        stored |= {f"{name}A.weight": a.astype("f"), f"{name}B.weight": b.astype("f")}
    save_file(stored, tmp_path / WEIGHTS)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["c_attn"]}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    merged = load_adapter(tmp_path, net, own)
    lora = jn.lora(net, 2, where="*/(query|key|value)/kernel", scale=2.0)
    factors = load_adapter(tmp_path, lora, own)["block_1"]["attention"]
    for i, part in enumerate(("query", "key", "value")):
        own_kernel = own["block_1"]["attention"][part]["kernel"]
        added = 2 * (b[8 * i : 8 * i + 8] @ a).T.reshape(own_kernel.shape)
        kernel = merged["block_1"]["attention"][part]["kernel"]
        np.testing.assert_allclose(kernel, own_kernel + added, rtol=1e-4, atol=1e-5)
        close(factors[part]["kernel_lora_a"], a.T, 1e-6, 0)
    save_file(stored | {f"{name}B.weight": np.ones((23, 2), "f")}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"block_1/attention/query/kernel .*c_attn.lora_B"):
        load_adapter(tmp_path, net, own)


def test_a_module_that_is_targeted_must_be_in_the_file(tmp_path):
    net = decoder()
    lora, params, own, _ = adapted(net, TEXT)
    save_adapter(tmp_path, lora, params)
    arrays = load_file(tmp_path / WEIGHTS)
    kept = {name: array for name, array in arrays.items() if "layers.0.self_attn.q" not in name}
    save_file(kept, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="block_0/attention/query/kernel .*has no adapter"):
        load_adapter(tmp_path, net, own)


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_changed_files_raise_or_say_the_same(tmp_path, family):
    where = {"llama": "*/kernel", "gpt2": "block*/kernel"}[family]
    net = NETS[family][0]()
    lora, params, own, _ = adapted(net, TEXT, where=where)
    save_adapter(tmp_path, lora, params)
    files = tmp_path / CONFIG, tmp_path / WEIGHTS
    merged = load_adapter(tmp_path, net, own)
    counts = Counter()
    for kind, *contents in variants(*(file.read_bytes() for file in files)):
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        for target, same in ((net, merged), (lora, params)):
            start = time.perf_counter()
            try:
                found = load_adapter(tmp_path, target, own)
            except (ValueError, OSError) as error:
                assert str(error).startswith("load_adapter: "), kind
                counts["raised"] += 1
            else:
                jax.tree.map(np.testing.assert_array_equal, found, same)
                counts["same"] += 1
            assert time.perf_counter() - start < HANGS, kind
    assert counts.total() >= 2 * 360
    assert counts["same"] < 40


@pytest.fixture
def saved(tmp_path):
    lora, params, own, _ = adapted(conv(), jnp.ones((2, 5, 5, 1)), where="conv/kernel")
    save_adapter(tmp_path, lora, params)
    return tmp_path, lora, params, own


@pytest.mark.parametrize(("change", "words"), [
    (lambda a: a.pop("conv/kernel_lora_b"), "conv/kernel .*there is only one of"),
    (lambda a: a.update({"conv/kernel_lora_b": np.ones((2, 4), "f")}), r"lora_b\" \(2, 4\)"),
    (lambda a: a.update({"conv/kernel_lora_b": np.ones((), "f")}), r"lora_b\" \(\)"),
    (lambda a: a.update({"conv/kernel_lora_b": np.ones((3, 4), int)}), "floats are needed"),
    (lambda a: a.update({"other": np.ones(3, "f")}), r'not used: "other" \(3,\)'),
    (lambda a: a.update({"head/bias": np.ones(4, "f")}), r"head/bias \(3,\): got \(4,\)"),
    (lambda a: a.clear(), "conv/kernel .*has no adapter in the file"),
    (lambda a: a["conv/kernel_lora_b"].fill(np.nan), "lora_b. holds NaN or infinite numbers"),
    (lambda a: a.update({"head/bias": np.full(3, -np.inf, "f")}), "head/bias .*holds NaN or inf"),
])  # fmt: skip
def test_weights_that_do_not_fit(saved, change, words):
    folder, lora, params, own = saved
    arrays = load_file(folder / WEIGHTS)
    change(arrays)
    save_file(arrays, folder / WEIGHTS)
    with pytest.raises(ValueError, match=f"(?s)load_adapter: .*{WEIGHTS} does not fit.*{words}"):
        load_adapter(folder, lora, own)


@pytest.mark.fast_cases("change2-r a whole number of at least 1")
@pytest.mark.parametrize(("change", "words"), [
    ("[]", "is not the config of an adapter"),
    ("[" * 100_000, "is not the config of an adapter"),
    ({"r": "3"}, "r a whole number of at least 1"),
    ({"peft_type": "IA3"}, "peft_type must be LORA"),
    ({"lora_alpha": float("nan")}, "lora_alpha must be a number"),
    ({"r": 2, "lora_alpha": 1}, r"have rank 3, but r is 2"),
    ({"lora_alpha": 7}, r"needs jn.lora\(net, 3, scale=2.33333\)"),
    ({"use_dora": True}, "use_dora is not supported"),
    ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens is not supported"),
    ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is not supported, got 'pissa_nit"),
    ({"use_rslora": True}, "needs jn.lora"),
    ({"r": 10**400}, "r a whole number of at least 1 and at most"),
    ({"lora_alpha": 10**400}, "lora_alpha must be a number"),
    ({"lora_alpha": float("inf")}, "lora_alpha must be a number"),
    ({"target_modules": ["other"]}, "conv/kernel .*is not among the target_modules"),
    ({"exclude_modules": ["conv"]}, "conv/kernel .*is not among the target_modules"),
])  # fmt: skip
def test_configs_that_do_not_fit(saved, change, words):
    folder, lora, _, own = saved
    if isinstance(change, dict):
        change = json.dumps(json.loads((folder / CONFIG).read_text()) | change)
    (folder / CONFIG).write_text(change)
    with pytest.raises(ValueError, match=f"(?s)load_adapter: .*{words}"):
        load_adapter(folder, lora, own)


@pytest.mark.fast_cases("0")
@pytest.mark.parametrize("size", [0, 5, 20, -1])
def test_a_file_that_was_cut_off(saved, size):
    folder, lora, _, own = saved
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:size])
    with pytest.raises(ValueError, match=f"load_adapter: .*{WEIGHTS} is not a safetensors"):
        load_adapter(folder, lora, own)


def test_a_missing_file(saved):
    folder, lora, _, own = saved
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="load_adapter: there is no file"):
        load_adapter(folder, lora, own)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_no_link_is_followed(saved, tmp_path_factory, name):
    folder, lora, params, _ = saved
    other = tmp_path_factory.mktemp("other") / "file"
    other.write_text("mine")
    (folder / name).unlink()
    (folder / name).symlink_to(other)
    with pytest.raises(OSError, match="save_adapter: .* must be a plain file"):
        save_adapter(folder, lora, params)
    assert other.read_text() == "mine"


def test_wrong_arguments(saved):
    folder, lora, params, own = saved
    with pytest.raises(TypeError, match="save_adapter: net must be made by jn.lora, got a serial"):
        save_adapter(folder, conv(), own)
    with pytest.raises(ValueError, match="save_adapter: params have no entries ending in"):
        save_adapter(folder, lora, own)
    with pytest.raises(ValueError, match=r"conv/kernel .*holds int8; load into"):
        load_adapter(folder, conv(), own | {"conv": {"kernel": np.ones((3, 3, 1, 4), np.int8)}})


def test_what_trains_beside_the_adapters_is_saved(tmp_path):
    lora = jn.lora(jn.serial(jn.dense(3), jn.dense(2, name="head")), 1, trainable="head/*")
    shapes = {"kernel": (4, 3), "bias": (3,), "kernel_lora_a": (4, 1), "kernel_lora_b": (1, 3)}
    dense = {name: np.ones(shape) for name, shape in shapes.items()}
    head = {"kernel": np.ones((3, 2)), "bias": np.ones(2)}
    save_adapter(tmp_path, lora, {"dense": dense, "head": head})
    saved = {name for name in load_file(tmp_path / WEIGHTS) if "lora" not in name}
    assert saved == {"head/kernel", "head/bias"}
