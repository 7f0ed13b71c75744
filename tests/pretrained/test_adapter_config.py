"""The configuration of an adapter: what it targets, and what is refused."""

import json

import pytest

from jaxnet.pretrained.adapter_config import read_adapter_config

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "mlp.c_proj"]}


def read(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(CONFIG | changes))
    return read_adapter_config("load_adapter", path)


def test_the_scale_is_that_of_the_rank(tmp_path):
    assert read(tmp_path)[:2] == (4, 2.0)
    assert read(tmp_path, use_rslora=True)[:2] == (4, 4.0)


@pytest.mark.parametrize(("changes", "module", "block", "is_target"), [
    ({}, "model.layers.0.self_attn.q_proj", 0, True),
    ({}, "model.layers.0.self_attn.k_proj", 0, False),
    ({}, "model.layers.0.self_attn.my_q_proj", 0, False),
    ({}, "h.0.mlp.c_proj", 0, True),
    ({}, "h.0.attn.c_proj", 0, False),
    ({"exclude_modules": ["q_proj"]}, "h.0.q_proj", 0, False),
    ({"exclude_modules": r".*\.0\..*"}, "h.0.q_proj", 0, False),
    ({"layers_to_transform": [1, 2]}, "h.0.q_proj", 0, False),
    ({"layers_to_transform": 1}, "h.1.q_proj", 1, True),
    ({"layers_to_transform": [1]}, "q_proj", None, True),
    ({"target_modules": "all-linear"}, "anything", 0, True),
    ({"target_modules": r".*(self_attn|mlp)\.(k|up)_proj"}, "h.0.mlp.up_proj", 0, True),
    ({"target_modules": r".*(self_attn|mlp)\.(k|up)_proj"}, "h.0.mlp.up_projs", 0, False),
])  # fmt: skip
def test_modules_are_targeted_as_in_peft(tmp_path, changes, module, block, is_target):
    assert read(tmp_path, **changes).targets(module, block) == is_target


@pytest.mark.parametrize("changes", [
    {"modules_to_save": None, "rank_pattern": {}, "use_dora": False, "new_option": None},
    {"init_lora_weights": "gaussian", "lora_dropout": 0.1, "eva_config": {"rho": 2.0}},
    {"base_model_name_or_path": "a/b", "inference_mode": True, "runtime_config": {}},
])  # fmt: skip
def test_what_is_off_or_of_the_training_changes_nothing(tmp_path, changes):
    assert read(tmp_path, **changes)[:2] == read(tmp_path)[:2]


@pytest.mark.parametrize(("changes", "words"), [
    ({"init_lora_weights": "lora_ga"}, "init_lora_weights is not supported, got 'lora_ga'"),
    ({"init_lora_weights": "OLoRA"}, "init_lora_weights is not supported, got 'OLoRA'"),
    ({"arrow_config": {"top_k": 3}}, "arrow_config is not supported"),
    ({"lora_ga_config": {"scale": "stable"}}, "lora_ga_config is not supported"),
    ({"bias": "all"}, "bias is not supported, got 'all'; it may be 'none'"),
    ({"use_rslora": "yes"}, "use_rslora is not supported, got 'yes'"),
    ({"alpha_pattern": {"q": "8"}}, "alpha_pattern must hold numbers by names of modules"),
    ({"alpha_pattern": {"q": float("nan")}}, "alpha_pattern must hold numbers by names of modules"),
    ({"rank_pattern": {"q": "4"}}, "rank_pattern must hold ranks by names of modules"),
    ({"rank_pattern": {"q": 0}}, "rank_pattern must hold ranks by names of modules"),
    ({"rank_pattern": {"q": 10**400}}, "rank_pattern must hold ranks by names of modules"),
    ({"rank_pattern": {"(a+)+b": 4}}, "rank_pattern must hold ranks by names of modules"),
    ({"alpha_pattern": ["q"]}, "alpha_pattern must hold numbers by names of modules"),
    ({"use_other": True}, "use_other is unknown, got True"),
    ({"target_modules": None}, "target_modules must be names of modules, got None"),
    ({"target_modules": "(a+)+b"}, "target_modules is a pattern that is not supported"),
    ({"target_modules": "(conv"}, "target_modules is a pattern that is not supported"),
    ({"layers_to_transform": ["1"]}, "layers_to_transform must be whole numbers"),
])  # fmt: skip
def test_what_peft_would_compute_otherwise_is_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=f"load_adapter: .*adapter_config.json: {words}"):
        read(tmp_path, **changes)


@pytest.mark.parametrize(("module", "form"), [
    ("h.0.attn.q_proj", (12, 2.0)), ("h.0.attn.my_q_proj", (4, 2.0)), ("q_proj", (12, 2.0)),
    ("h.0.mlp.c_proj", (8, 3.0)), ("h.0.attn.c_proj", (4, 2.0)), ("h.1.k_proj", (4, 0.25)),
])  # fmt: skip
def test_modules_have_forms_of_their_own(module, form, tmp_path):
    ranks = {"q_proj": 12, "mlp.c_proj": 8}
    alphas = {"mlp.c_proj": 24, "q_proj": 24, "k_proj": 1}
    config = read(tmp_path, rank_pattern=ranks, alpha_pattern=alphas)
    assert config.form_of(module) == form
