"""Fallback to the first available dataset."""

from collections.abc import Callable
from typing import Any

from jaxnet.services.checks import a_function
from jaxnet.services.table import printable


def first_available(*loaders: Callable[[], Any]) -> Any:
    """Load the first available dataset, and print a line for each unavailable one.

    Use it in code that has to run anywhere, such as notebooks: pass a large dataset first, and a
    dataset that needs no network last. An experiment should name its dataset instead, and fail
    without it.

    Args:
      loaders: Functions without arguments, at least one.

    Returns:
      The result of the first loader that does not raise ImportError or OSError.

    Raises:
      TypeError: If a loader is not a function.
      ValueError: If `loaders` is empty.
      ImportError, OSError: If none of the datasets is available; the error of the last loader.

    Example:
      >>> def photos():
      ...     raise OSError("'photos' is not in /nowhere")
      >>> (x, y), test = first_available(photos, jn.data.digits)
      photos is not available ('photos' is not in /nowhere)
      >>> x.shape
      (1438, 8, 8, 1)
    """
    if not loaders:
        raise ValueError("first_available: expected at least one loader, such as jn.data.digits")
    for i, loader in enumerate(loaders):
        a_function("first_available", f"loader {i}", loader, "()")
    for loader in loaders[:-1]:
        try:
            return loader()
        except (ImportError, OSError) as error:
            name = getattr(getattr(loader, "func", loader), "__name__", str(loader))
            print(printable(f"{name} is not available ({error})"))
    return loaders[-1]()
