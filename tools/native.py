"""Tests the kernels in C on random shapes, without JAX and beside pages they must not touch.

    python -m tools.native --cases 2000
    python -m tools.native --cases 1000 --builds addresses --kernels product winograd gemv

Compiles native.c with the kernels and runs it once as it is, once with the sanitizers of addresses
and undefined behavior, and once with the sanitizer of threads. Needs GCC or Clang under Linux. NEON
runs in an emulator, with Debian's packages gcc-aarch64-linux-gnu and qemu-user:

    CC=aarch64-linux-gnu-gcc python -m tools.native --builds pages --under qemu-aarch64

The loops for AVX-512, but those of bfloat16, run on every processor with AVX2:

    python -m tools.native --builds wide
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxnet.ops import native

SOURCE = Path(__file__).parent / "native.c"  # which includes kernels.c
UNITS = sorted(set(native.LIBRARY.parent.glob("*.c")) - {native.LIBRARY.with_name("kernels.c")})
SANITIZERS = "address,undefined,float-cast-overflow"
BUILDS = {
    "pages": ["-O3"],
    "addresses": ["-O1", f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all"],
    "threads": ["-O1", "-fsanitize=thread"],
    "wide": ["-O1", "-w", "-include", str(SOURCE.with_name("avx512.h"))],
}
USUAL = ("pages", "addresses", "threads")
# What makes the kernels take the instructions of avx512.h for those of a processor.
AS_AVX2 = {
    r'"avx512f(,avx512bw,avx512vnni)?"': '"avx2,fma,f16c"',
    r"INLINE __attribute__\S+ __m512 two_products.*?#define TWO_PRODUCTS[^\n]*": "",
    r"static int find_level\(void\) {": "int processor_level(void);\nstatic int find_level(void) "
    "{\n  return 3;\n}\nint processor_level(void) {",
    r"static atomic_int vnni = -1;": "static atomic_int vnni = 1;",
}


KERNELS = (
    "convolution", "product", "winograd", "fused", "lstm", "rnn", "gemv", "attention",
    "attention_one", "norm", "moments", "pool", "keep", "script",
)  # fmt: skip
# New memory is NaN throughout, so that reading what nobody wrote shows in the results.
MEMORY = "malloc_fill_byte=255:max_malloc_fill_size=1000000000"


def sources_of(build: str, folder: Path) -> list[Path]:
    """Return the files to compile, in a folder where a build has files of its own."""
    if build != "wide":
        return [SOURCE, *UNITS]
    kernels = shutil.copytree(native.LIBRARY.parent, folder / "jaxnet" / "ops" / "native")
    source = folder / "tools" / SOURCE.name
    source.parent.mkdir()
    shutil.copy(SOURCE, source)
    for path in (*kernels.glob("*.h"), *kernels.glob("*.c")):
        text = path.read_text(encoding="utf-8")
        for pattern, instead in AS_AVX2.items():
            text = re.sub(pattern, instead, text, flags=re.DOTALL)
        path.write_text(text, encoding="utf-8")
    return [source, *(kernels / unit.name for unit in UNITS)]


def run(build: str, cases: int, seed: int = 0, under: str = "", kernels: Sequence[str] = ()) -> str:
    """What one build prints about its cases.

    Args:
      build: A name of `BUILDS`.
      cases: Number of random cases of each kernel.
      seed: Seed of the cases.
      under: Command that runs the program, such as an emulator.
      kernels: Names of `KERNELS`; all if there are none.

    Raises:
      RuntimeError: If a case fails, with what the program printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "native"
        options = ["-std=gnu11", "-g", "-Wno-psabi", "-fno-math-errno", *BUILDS[build]]
        if under:
            options.append("-static")
        compiler = shlex.split(os.environ.get("CC", "gcc"))
        sources = sources_of(build, Path(folder))
        subprocess.run(
            [*compiler, *options, *sources, "-o", program, "-lpthread", "-lm"], check=True
        )
        command = [*shlex.split(under), program, str(cases), str(seed), *kernels]
        env = {**os.environ, "ASAN_OPTIONS": MEMORY}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        said = f"{done.stdout}{done.stderr[-3000:]}" or "no message"
        raise RuntimeError(f"{build}: exit status {done.returncode}: {said}")
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--builds", nargs="+", default=list(USUAL), choices=BUILDS)
    parser.add_argument("--under", default="", help="a command that runs the program")
    parser.add_argument("--kernels", nargs="+", default=[], choices=KERNELS)
    given = parser.parse_args()
    for build in given.builds:
        try:
            said = run(build, given.cases, given.seed, given.under, given.kernels)
            print(f"{build}: {said}", flush=True)
        except RuntimeError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
