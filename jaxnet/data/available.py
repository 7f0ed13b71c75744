"""Data from where they can be had: the network, or what is there without one."""

from collections.abc import Callable
from typing import Any


def first_available(*loaders: Callable[[], Any]) -> Any:
    """What the first loader gives whose data can be had; prints a line for each that cannot.

    For what has to run anywhere, such as notebooks: a large set first, last one that needs no
    network. A record of figures should name its data, and fail where they are not there.

    Args:
      loaders: functions without arguments, at least one.

    Raises:
      ValueError: for no loader.
      ImportError, OSError: of the last loader, where none has its data.

    Example:
      >>> from functools import partial
      >>> from jaxnet.data import digits, mnist
      >>> (x, y), test = first_available(partial(mnist, data_dir="/nowhere"), digits)
      mnist is not here (tfds.load: 'mnist' is not in /nowhere...
      >>> x.shape
      (1438, 8, 8, 1)
    """
    if not loaders:
        raise ValueError("first_available: needs at least one loader, such as jn.data.digits")
    for loader in loaders[:-1]:
        try:
            return loader()
        except (ImportError, OSError) as error:
            name = getattr(getattr(loader, "func", loader), "__name__", str(loader))
            print(f"{name} is not here ({error})")
    return loaders[-1]()
