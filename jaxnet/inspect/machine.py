"""The versions and the devices of a program, in one line."""

import os
import platform

import jax


def machine() -> str:
    """Versions and devices in one line, for the head of a record or a notebook.

    On CPU the number of cores is given, elsewhere the number of devices and their kind.

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
