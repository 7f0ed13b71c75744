"""Published models against what transformers computed, recorded by `tools.published`."""

import json
import sys
from fnmatch import fnmatch
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxnet as jn
from jaxnet.interop import to_names
from jaxnet.pretrained import decoder_table, load
from tests.pretrained.test_loading import MODELS, outputs
from tools import families, published
from tools.published import FAMILIES

RECORDED, HEADER = jn.load(published.FILE)
CONFIGS, DEFAULTS = HEADER["configs"], HEADER["defaults"]


def loaded(name, folder):
    weights = RECORDED[name]["weights"].items()
    weights = {key: np.asarray(a, np.float32) for key, a in weights}
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    save_file(weights, folder / "model.safetensors")
    return *load(folder), weights


@pytest.mark.fast_cases(
    "clip", "convnext", "distilbert", "gemma2", "llama", "modernbert", "t5", "vit", "whisper",
    "xlm-roberta",
)  # fmt: skip
@pytest.mark.parametrize("name", published.ROWS)
def test_outputs(name, tmp_path):
    net, params, state, _ = loaded(name, tmp_path)
    given = [*RECORDED[name]["given"].values()]
    wanted = RECORDED[name]["outputs"]
    found, _ = jax.jit(net.apply)(params, state, tuple(given) if given[1:] else given[0])
    found = np.where(np.isnan(wanted), wanted, found)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=4e-4)


@pytest.mark.fast_cases("convnext", "gemma2", "vit")
@pytest.mark.parametrize("name", published.ROWS)
def test_optimized_for_inference_it_answers_the_same(name, tmp_path):
    net, params, state, _ = loaded(name, tmp_path)
    given = [*RECORDED[name]["given"].values()]
    x = tuple(given) if given[1:] else given[0]
    wanted, _ = jax.jit(net.apply)(params, state, x)
    found = jn.optimize_for_inference(net, params, state)(x)
    largest = np.nanmax(abs(np.asarray(wanted)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * largest)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers
@pytest.mark.parametrize("name", published.ROWS)
def test_the_record_is_what_transformers_computes(name, tmp_path):
    """Its newest version, from the recorded weights."""
    torch = pytest.importorskip("torch", reason="compares with transformers")
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    loaded(name, tmp_path)
    kind = getattr(transformers, CONFIGS[name]["architectures"][0])
    model = kind.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32)
    wanted, (_, given) = RECORDED[name]["outputs"], published.questions(published.ROWS[name][0])
    with torch.no_grad():
        found = outputs(torch, model.eval(), given).numpy()
    found = np.where(np.isnan(wanted), wanted, found)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=4e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_text_and_the_way_back(name, tmp_path):
    net, params, state, weights = loaded(name, tmp_path)
    ids = RECORDED[name]["given"]["0"]
    made = jn.decoding.generate(net, params, ids, length=published.WRITTEN, temperature=0)
    np.testing.assert_array_equal(made.tokens, RECORDED[name]["text"])
    names = to_names(net, params, state, jnp.asarray(ids), decoder_table(CONFIGS[name]))
    head = {"lm_head.weight"}  # of a tied model it is the table
    assert set(names) - head == set(weights) - head
    for key in set(names) & set(weights):
        np.testing.assert_allclose(names[key], weights[key], atol=1e-6)


# Weights that no output depends on, which are dropped when a model is read.
DROPPED = {"dinov2": {"dinov2.embeddings.mask_token"}}


@pytest.mark.fast_cases("distilbert", "gpt2")
@pytest.mark.parametrize("family", families.SAVED)
def test_a_saved_model_is_the_one_that_was_read(family, tmp_path):
    """So says the table that `tools.families` writes."""
    rows = [name for name in published.ROWS if CONFIGS[name]["model_type"] == family]
    assert rows
    for name in rows:
        folder = tmp_path / name
        folder.mkdir()
        net, params, state, weights = loaded(name, folder)
        jn.pretrained.save(folder / "again", net, params, state)
        again = load_file(folder / "again" / "model.safetensors")
        assert weights.keys() - again.keys() == DROPPED.get(family, set())
        for key, array in again.items():
            np.testing.assert_array_equal(array, weights[key], err_msg=key)
        config = json.loads((folder / "again" / "config.json").read_text())
        for entries in (config, given := dict(CONFIGS[name])):
            for entry in ("dtype", "torch_dtype"):
                entries.pop(entry, None)
        assert config == given


@pytest.mark.slow
def test_a_name_is_a_repository_whose_own_files_are_downloaded(tmp_path, monkeypatch):
    """By a stand-in of the client: no code, no pickle, no weights in another form in a folder."""
    name = "gpt2"
    there = tmp_path / "there"
    here = tmp_path / "cache"
    there.mkdir(), here.mkdir()
    _, wanted, *_ = loaded(name, there)
    (there / "original").mkdir()
    for more in ("modeling.py", "pytorch_model.bin", "original/model.safetensors"):
        (there / more).write_bytes(b"?")

    def snapshot_download(
        repository, *, allow_patterns, ignore_patterns, revision, local_files_only
    ):
        assert repository == "owner/gpt2" and revision is None and not local_files_only
        for file in sorted(there.rglob("*")):
            path = file.relative_to(there).as_posix()
            fits = [any(fnmatch(path, p) for p in ps) for ps in (allow_patterns, ignore_patterns)]
            if file.is_file() and fits == [True, False]:
                (here / path).write_bytes(file.read_bytes())
        return str(here)

    errors = SimpleNamespace(LocalEntryNotFoundError=FileNotFoundError)
    client = SimpleNamespace(snapshot_download=snapshot_download, errors=errors)
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    _, params, *_ = load("owner/gpt2", download=True)
    assert {file.name for file in here.iterdir()} == {"config.json", "model.safetensors"}
    jax.tree.map(np.testing.assert_array_equal, params, wanted)


def test_every_model_is_recorded():
    assert set(RECORDED) == set(CONFIGS) == set(published.ROWS)
    assert set(DEFAULTS) == set(FAMILIES)


# Null if `use_sliding_window` is false; and what the files of mT5 mean, older than transformers 5.
OTHERS = {"qwen2 sliding_window", "qwen3 sliding_window", "qwen3_moe sliding_window"}
OTHERS |= {"mt5 tie_word_embeddings"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_without_entries_means_what_it_means_there(family):
    ours, theirs = FAMILIES[family].defaults, DEFAULTS[family]
    given = {name for name in theirs if f"{family} {name}" not in OTHERS}
    assert {name: ours[name] for name in given} == {name: theirs[name] for name in given}


@pytest.mark.parametrize("case", HEADER["rotations"], ids=lambda case: case[0]["rope_type"])
def test_rotations(case):
    rope, speeds, factor = case
    options = jn.pretrained.decoder_config(
        {"model_type": "llama", "rope_parameters": rope, **published.ROTATED}
    )
    turn = options["rotary"].keywords
    angles = turn["base"] ** (-np.arange(8) / 8)
    np.testing.assert_allclose(turn["scaling"](angles), speeds, rtol=1e-6)
    assert np.isclose(turn.get("factor", 1.0), factor)
