"""Where a model is: nothing is asked of a hub unless one says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jaxnet.pretrained.source import place_of

ROOT = Path(__file__).parents[2]
# Prints what a process of its own does with sockets, since a hook cannot be removed.
PROGRAM = """
import json, sys
import huggingface_hub
import jaxnet as jn

seen, told = set(), []
sys.addaudithook(lambda event, args: seen.add(event))
for function in (jn.pretrained.load, jn.pretrained.tokenizer):
    for options in ({}, {"revision": "main"}, {"download": False})[: 3 if len(sys.argv) < 2 else 1]:
        options = options | ({"download": True} if len(sys.argv) > 1 else {})
        try:
            function("nobody/nothing", **options)
        except OSError as error:
            told.append(str(error))
print(json.dumps([sorted(e for e in seen if e.startswith(("socket.", "urllib."))), told]))
"""


def asked(tmp_path, *words):
    environment = {"HF_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody answers
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_nothing_is_asked_of_a_hub(tmp_path):
    """The audit sees each socket that Python opens, whoever opens it."""
    pytest.importorskip("huggingface_hub")
    events, told = asked(tmp_path)
    assert events == []
    assert len(told) == 6
    for words in told:
        assert "there is no folder 'nobody/nothing'" in words
        assert "write download=True" in words


@pytest.mark.long
def test_the_audit_sees_what_is_asked(tmp_path):
    pytest.importorskip("huggingface_hub")
    events, told = asked(tmp_path, "download")
    assert "socket.connect" in events
    assert "load: nobody/nothing cannot be downloaded" in told[0]


def cached(folder, name, revision, files):
    """Write files as the cache of huggingface_hub has them."""
    place = folder / f"models--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / revision).write_text("a" * 40)
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


@pytest.mark.parametrize("revision", [None, "v2", "a" * 40])
def test_the_cache_serves_without_a_network(revision, tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("huggingface_hub.constants")
    snapshot = cached(tmp_path, "one/model", revision or "main", ["config.json"])
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = place_of("load", "one/model", False, revision)
    assert found.resolve() == snapshot.resolve()
    with pytest.raises(FileNotFoundError, match="the cache has no model of that name"):
        place_of("load", "one/model", False, "v3")


@pytest.mark.parametrize(("weights", "wanted"), [(True, True), (False, False)])
def test_only_what_is_read_is_downloaded(weights, wanted, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = {}
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **how: asked.update(how) or ".")
    place_of("load", "one/model", True, "v2", weights=weights)
    assert asked["revision"] == "v2"
    assert asked["local_files_only"] is False
    assert ("*.safetensors" in asked["allow_patterns"]) == wanted
    files = [
        "config.json", "model.safetensors", "1_Pooling/config.json", "modules.json",
        "additional_chat_templates/tool_use.jinja", "onnx/config.json", "original/params.json",
        "checkpoint/model.safetensors", "pytorch_model.bin", "a/b/c.json",
    ]  # fmt: skip
    how = {name: asked[name] for name in ("allow_patterns", "ignore_patterns")}
    kept = list(hub.utils.filter_repo_objects(files, **how))
    assert kept == [files[0], *files[1 : 1 + wanted], *files[2:5]]


@pytest.mark.parametrize(("source", "error"), [
    ("models/gemma-3-typo/x", "there is no folder or file 'models/gemma-3-typo/x'"),
    ("typo", "there is no folder or file 'typo'"), ("./a/b", "there is no folder or file"),
    ("a/b.gguf", "there is no folder or file 'a/b.gguf'"),
    (Path("a/b"), "there is no folder or file 'a/b'"),
    ("a/b", "there is no folder 'a/b', and the cache has no model of that name; write download="),
])  # fmt: skip
def test_a_mistyped_folder_is_named(source, error):
    pytest.importorskip("huggingface_hub")
    with pytest.raises(FileNotFoundError, match=f"load: {error}"):
        place_of("load", source)


@pytest.mark.parametrize(("given", "error"), [
    ({"source": 3}, "source must be a folder"), ({"download": 1}, "download must be True or False"),
    ({"revision": 2}, "revision must be a branch, a tag or a commit"),
])  # fmt: skip
def test_wrong_arguments_are_told(given, error):
    with pytest.raises(TypeError, match=f"load: {error}"):
        place_of("load", **({"source": "."} | given))
