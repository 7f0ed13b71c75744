"""Tests the kernels in C on random shapes, without JAX and beside pages they must not touch.

    python -m tools.native --cases 2000

Compiles native.c with the kernels and runs it once as it is, once with the sanitizers of addresses
and undefined behavior, and once with the sanitizer of threads. Needs GCC or Clang under Linux. NEON
runs in an emulator, with Debian's packages gcc-aarch64-linux-gnu and qemu-user:

    CC=aarch64-linux-gnu-gcc python -m tools.native --builds pages --under qemu-aarch64
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from jaxnet.ops import native

SOURCE = Path(__file__).parent / "native.c"  # which includes kernels.c
UNITS = sorted(set(native.LIBRARY.parent.glob("*.c")) - {native.LIBRARY.with_name("kernels.c")})
BUILDS = {
    "pages": ["-O3"],
    "addresses": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "threads": ["-O1", "-fsanitize=thread"],
}


def run(build: str, cases: int, seed: int = 0, under: str = "") -> str:
    """What one build prints about its cases.

    Args:
      build: A name of `BUILDS`.
      cases: Number of random cases of each kernel.
      seed: Seed of the cases.
      under: Command that runs the program, such as an emulator.

    Raises:
      RuntimeError: If a case fails, with what the program printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "native"
        options = ["-std=gnu11", "-g", "-Wno-psabi", "-fno-math-errno", *BUILDS[build]]
        if under:
            options.append("-static")
        compiler = shlex.split(os.environ.get("CC", "gcc"))
        subprocess.run(
            [*compiler, *options, SOURCE, *UNITS, "-o", program, "-lpthread", "-lm"], check=True
        )
        command = [*shlex.split(under), program, str(cases), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{done.stdout}{done.stderr[-3000:]}" or "no message"
        raise RuntimeError(f"{build}: exit status {done.returncode}: {said}")
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--builds", nargs="+", default=list(BUILDS), choices=BUILDS)
    parser.add_argument("--under", default="", help="a command that runs the program")
    given = parser.parse_args()
    for build in given.builds:
        try:
            print(f"{build}: {run(build, given.cases, given.seed, given.under)}", flush=True)
        except RuntimeError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
