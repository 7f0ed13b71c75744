"""Options with which XLA compiles quickly; imported before jax.

Most of the time of a test run is compilation of tiny programs, so XLA leaves out what takes longer
than these run. `XLA_FLAGS= pytest` compiles them as users have them.
"""

import os
import subprocess
import sys
from importlib.metadata import version

QUICK = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
)
OLD = "--xla_cpu_use_fusion_emitters=false"  # gone from the XLA of JAX 0.12


def flags() -> str:
    """Return the options that this XLA knows: an unknown one ends the process."""
    run = [sys.executable, "-c", "import jax; jax.devices()"]
    is_old = tuple(map(int, version("jax").split(".")[:2])) < (0, 12)
    for options in [(*QUICK, OLD), QUICK] if is_old else [QUICK]:
        choice = " ".join(options)
        env = os.environ | {"XLA_FLAGS": choice}
        if not subprocess.run(run, env=env, capture_output=True).returncode:
            return choice
    return ""
