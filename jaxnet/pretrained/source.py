"""Where a published model lies: a folder, a file of llama.cpp, or a name of a hub."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnet.interop.weights import open_weights
from jaxnet.pretrained.gguf import read_gguf
from jaxnet.services.checks import check_type
from jaxnet.services.extras import extra
from jaxnet.services.files import exists, file_path

WANTED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
READ = {"allow_patterns": WANTED, "ignore_patterns": ["*/*"]}  # of a repository, no subfolders


def place_of(who: str, source: Any) -> Path:
    """Return the folder or the file of a model; a name is downloaded, or found in the cache."""
    check_type(who, "source", source, str | Path, "a folder, a .gguf file or a name")
    path = file_path(who, source, "source")
    if not exists(who, path) and re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        hub = extra("huggingface_hub", "huggingface-hub", who, "pretrained")
        return Path(hub.snapshot_download(str(source), **READ))
    return path


def config_and_weights(who: str, source: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return the configuration of a model, or its place, and its weights by name."""
    path = place_of(who, source)
    if path.suffix == ".gguf":
        return read_gguf(path)
    return path, open_weights(who, path)
