"""What is installed: the version of jaxnet, and optional packages, imported when they are used."""

import importlib
import importlib.metadata
import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlparse


def version() -> str:
    """Return the version of the installed distribution; "unknown" for a folder without one."""
    try:
        return importlib.metadata.version("jaxnet-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def extra(module: str, package: str, who: str, extras: str = "data") -> Any:
    """Return a module of an optional package.

    Args:
      module: Name of the module, such as "PIL.Image".
      package: Name of the package for pip.
      who: Name of the function, for the error.
      extras: Extras of jaxnet-toolkit that install the package.

    Returns:
      The module.

    Raises:
      ImportError: If the package is not installed; the message has the command to install it.

    Example:
      >>> extra("nowhere", "nowhere-python", "photos")
      Traceback (most recent call last):
      ...
      ImportError: photos: needs nowhere-python (No module named 'nowhere'). Install it with
      pip install ...[data]...
    """
    if not isinstance(module, str):
        raise TypeError(f"extra: module must be a name such as 'PIL.Image', got {module!r:.60}")
    try:
        importlib.import_module(module.partition(".")[0])
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who}: needs {package} ({error}). {command(extras)}") from error


def command(extras: str) -> str:
    """Return the sentence that says how to install extras, from where jaxnet was installed.

    Args:
      extras: Extras of jaxnet-toolkit, separated by commas.

    Returns:
      The sentence: with the address, the folder or the wheel that pip noted, or else the project's
      address.

    Example:
      >>> command("viz")
      'Install it with pip install ...[viz]...'
    """
    need = f"jaxnet-toolkit[{extras}]"
    with suppress(importlib.metadata.PackageNotFoundError, KeyError):  # a checkout, not installed
        installed = importlib.metadata.distribution("jaxnet-toolkit")
        noted = json.loads(installed.read_text("direct_url.json") or "{}")
        if noted.get("dir_info", {}).get("editable"):
            from urllib.request import url2pathname  # takes milliseconds, which no import needs

            folder = url2pathname(urlparse(noted["url"]).path)
            return f'Install it with pip install -e "{folder}[{extras}]"'
        lines = installed.metadata.get_all("Project-URL") or []
        url = f"git+{dict(line.split(', ', 1) for line in lines)['Repository']}"
        if noted:
            vcs = noted.get("vcs_info", {}).get("vcs")
            url = f"{vcs}+{noted['url']}" if vcs else noted["url"]
        need += f" @ {url}"
    return f'Install it with pip install "{need}"'
