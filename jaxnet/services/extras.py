"""Optional packages, imported where they are used."""

import importlib
from typing import Any


def extra(module: str, package: str, who: str, extras: str = "data") -> Any:
    """A module of an optional package.

    Args:
      module: such as "PIL.Image".
      package: its name for pip.
      who: named in the error.
      extras: of jaxnet-toolkit that install it.

    Raises:
      ImportError: where the package is not installed; the message has the command to install it.

    Example:
      >>> extra("nowhere", "nowhere-python", "photos")
      Traceback (most recent call last):
      ...
      ImportError: photos: needs nowhere-python (No module named 'nowhere'); install the extra
      jaxnet-toolkit[data]: in a checkout, pip install -e ".[data]"
    """
    try:
        importlib.import_module(module.partition(".")[0])
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{who}: needs {package} ({error}); install the extra jaxnet-toolkit[{extras}]: "
            f'in a checkout, pip install -e ".[{extras}]"'
        ) from error
