"""The versions and the devices of a program, in one line."""

import os
import platform

import jax

from jaxnet.ops import native
from jaxnet.services.version import version


def machine() -> str:
    """Return versions and devices in one line, for the head of a record or a notebook.

    On CPU it names the number of cores and how convolutions run: in C with an instruction set, or
    in XLA's form. Elsewhere it names the number of devices and their kind.

    Example:
      >>> print(machine())
      jaxnet ..., jax ..., Python 3... on ...
    """
    devices = jax.devices()
    backend, kind = jax.default_backend(), devices[0].device_kind
    words = f"{len(devices)} of {kind}"
    if backend == "cpu":
        words = f"{os.cpu_count()} cores, convolutions by {native.instructions() or 'XLA'}"
    versions = f"jaxnet {version()}, jax {jax.__version__}"
    return f"{versions}, Python {platform.python_version()} on {backend} ({words})"
