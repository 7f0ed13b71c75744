"""Optional packages, imported when they are used."""

import importlib
import importlib.metadata
from contextlib import suppress
from typing import Any


def extra(module: str, package: str, who: str, extras: str = "data") -> Any:
    """Return a module of an optional package.

    Args:
      module: Name of the module, such as "PIL.Image".
      package: Name of the package for pip.
      who: Name of the function, for the error.
      extras: Extras of jaxnet-toolkit that install the package.

    Raises:
      ImportError: If the package is not installed; the message has the command to install it.

    Example:
      >>> extra("nowhere", "nowhere-python", "photos")
      Traceback (most recent call last):
      ...
      ImportError: photos: needs nowhere-python (No module named 'nowhere'). Install it with
      pip install "jaxnet-toolkit[data] @ git+..."
    """
    try:
        importlib.import_module(module.partition(".")[0])
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who}: needs {package} ({error}). {command(extras)}") from error


def command(extras: str) -> str:
    """Return the sentence that says how to install extras.

    Args:
      extras: Extras of jaxnet-toolkit, separated by commas.

    Example:
      >>> command("viz")
      'Install it with pip install "jaxnet-toolkit[viz] @ git+https://github.com/jaxnet/jaxnet"'
    """
    address = ""
    with suppress(importlib.metadata.PackageNotFoundError, KeyError):  # a checkout, not installed
        lines = importlib.metadata.metadata("jaxnet-toolkit").get_all("Project-URL") or []
        address = f" @ git+{dict(line.split(', ', 1) for line in lines)['Repository']}"
    return f'Install it with pip install "jaxnet-toolkit[{extras}]{address}"'
