"""What a program runs on, in one line."""

import os
import platform

import jax


def machine() -> str:
    """The versions and the devices: the first line of a record, and of a notebook.

    On CPU the number is that of the cores, elsewhere that of the devices, with their kind.

    Example:
      >>> print(machine())
      jaxnet ..., jax ..., Python 3... on ...
    """
    import jaxnet  # which imports this module

    devices = jax.devices()
    backend, kind = jax.default_backend(), devices[0].device_kind
    words = f"{os.cpu_count()} cores" if backend == "cpu" else f"{len(devices)} of {kind}"
    versions = f"jaxnet {jaxnet.__version__}, jax {jax.__version__}"
    return f"{versions}, Python {platform.python_version()} on {backend} ({words})"
