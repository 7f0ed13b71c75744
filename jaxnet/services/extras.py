"""Optional packages, imported when they are used."""

import importlib
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
