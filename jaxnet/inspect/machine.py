"""The versions and the devices of a program, in one line."""

import os
import platform
from glob import glob
from shutil import which

import jax

from jaxnet.ops import native
from jaxnet.services.extras import version


def machine() -> str:
    """Return versions, devices and memory in one line, for the head of a record or a notebook.

    On CPU it names the number of cores and how convolutions run: in C with an instruction set, or
    in XLA's form. Elsewhere it names the number of devices and their kind. If the machine has a GPU
    or a TPU that JAX does not use, it says what to install.

    Returns:
      One line of text.

    Example:
      >>> print(machine())
      jaxnet ..., jax ..., Python 3... on ...
    """
    devices = jax.devices()
    backend, kind = jax.default_backend(), devices[0].device_kind
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    words = [f"{len(devices)} of {kind}"]
    if backend == "cpu":
        words = [f"{os.cpu_count()} cores", f"convolutions by {native.instructions() or 'XLA'}"]
        if hasattr(os, "sysconf"):
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory:
        words.insert(1, f"{memory / 1e9:.0f} GB")
    versions = f"jaxnet {version()}, jax {jax.__version__}, Python {platform.python_version()}"
    return f"{versions} on {backend} ({', '.join(words)}){_unused() if backend == 'cpu' else ''}"


def _unused() -> str:
    """Return what to do about an accelerator that JAX does not use, if it was not told so."""
    if jax.config.jax_platforms == "cpu":  # type: ignore[attr-defined]
        return ""
    for is_present, device, extra in (
        (which("nvidia-smi"), "GPU", "cuda12"),
        (glob("/dev/accel*") + glob("/dev/vfio/[0-9]*"), "TPU", "tpu"),
    ):
        if is_present:
            wanted = f'"jax[{extra}]=={jax.__version__}"'
            return f"; JAX does not use the {device}: run pip install {wanted} and restart"
    return ""
