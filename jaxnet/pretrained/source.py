"""Where a published model is: a folder, a file of llama.cpp, or a name of a hub."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxnet.interop.weights import open_weights
from jaxnet.pretrained.gguf import read_gguf
from jaxnet.services.checks import check_options, check_type
from jaxnet.services.extras import extra
from jaxnet.services.files import exists, file_path

NAME = re.compile(r"[\w.-]+/[\w.-]+")
SMALL = ["*.json", "*.model", "*.jinja", "*.txt"]
WEIGHTS = "*.safetensors"
# Subfolders hold the same weights in other formats, and weights of nets around the model.
LEFT_OUT = ["*/*/*", "*/*.safetensors", "onnx/*", "openvino/*", "original/*"]


def place_of(
    who: str,
    source: Any,
    download: bool = False,
    revision: str | None = None,
    *,
    weights: bool = True,
) -> Path:
    """Return the folder or the file of a model. Without `download`, nothing is asked of a hub.

    Args:
      who: Name of the function, for messages.
      source: Folder, file, or name of a repository.
      download: Whether the files of a name that the cache lacks are downloaded.
      revision: Branch, tag or commit of a name; None is its main branch.
      weights: Whether the weights are wanted too.

    Raises:
      ImportError: If a name is given without huggingface_hub.
      OSError: If there is no such folder, and the cache has no model of that name.
    """
    check_type(who, "source", source, str | Path, "a folder, a .gguf file or a name")
    check_type(who, "revision", revision, str | None, "a branch, a tag or a commit")
    check_options(who, download=download)
    path = file_path(who, source, "source")
    if exists(who, path):
        return path
    named = NAME.fullmatch(str(source)) and not isinstance(source, Path)
    if not named or path.suffix == ".gguf":
        raise FileNotFoundError(f"{who}: there is no folder or file {str(path)!r}")
    hub = extra("huggingface_hub", "huggingface-hub", who, "pretrained")
    wanted = [*SMALL, WEIGHTS] if weights else SMALL
    options = {"allow_patterns": wanted, "ignore_patterns": LEFT_OUT, "revision": revision}
    try:
        found = hub.snapshot_download(str(source), local_files_only=not download, **options)
    except hub.errors.LocalEntryNotFoundError as error:
        if download:
            raise OSError(f"{who}: {source} cannot be downloaded: {error}") from error
        raise FileNotFoundError(
            f"{who}: there is no folder {str(source)!r}, and the cache has no model of that name; "
            "write download=True to download one"
        ) from None
    return Path(found)


def config_and_weights(
    who: str, source: Any, download: bool = False, revision: str | None = None
) -> tuple[Path, Any, Mapping[str, Any]]:
    """Return the place of a model, its configuration or where it is, and its weights by name."""
    path = place_of(who, source, download, revision)
    if path.suffix == ".gguf":
        return path, *read_gguf(path)
    return path, path, open_weights(who, path)
