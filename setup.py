"""Builds the kernels in C where there is a compiler; pyproject.toml has all the rest.

The library is loaded with ctypes and does not use Python's headers, so one file fits each Python of
a platform: its name and the wheel's tag do not name one. Windows loads a kernels.so too.

Its units are compiled side by side. An install leaves out those for AVX-512 if the processor does
not have it; a wheel for others has all.

JAXNET_PLATFORM, such as win_amd64, is the tag of a wheel for others. CC must compile for it;
.ci/release sets both.
"""

import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = "jaxnet/ops/native"
PLATFORM = os.environ.get("JAXNET_PLATFORM")
# Those that take the longest come first, so that all processors end together.
UNITS = ["gemv", "tiles", "loops"]
WIDE = [f"{FOLDER}/avx512_{unit}.c" for unit in UNITS]
OTHERS = [f"{FOLDER}/{name}_{unit}.c" for unit in UNITS for name in ("avx2", "neon")]


def has_avx512():
    about = Path("/proc/cpuinfo")  # of Linux
    return not about.exists() or "avx512f" in about.read_text(encoding="utf-8").split()


def side_by_side(compile_in_turn):
    """Returns a function that compiles each source in a process of its own."""

    def compile_all(sources, **options):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = [pool.submit(compile_in_turn, [source], **options) for source in sources]
        return [file for done in made for file in done.result()]

    return compile_all


class Build(build_ext):
    def get_ext_filename(self, name):
        return f"{name.replace('.', '/')}.so"

    def get_export_symbols(self, ext):
        return ext.export_symbols  # no PyInit function

    def build_extension(self, ext):
        if not PLATFORM:
            self.compiler.compile = side_by_side(self.compiler.compile)
            return super().build_extension(ext)
        file = Path(self.get_ext_fullpath(ext.name))
        file.parent.mkdir(parents=True, exist_ok=True)  # without this machine's flags for Python
        compiler = [*shlex.split(os.environ["CC"]), *ext.extra_compile_args, "-w", "-s", "-shared"]
        self.spawn([*compiler, *ext.sources, "-o", str(file)])
        file.with_suffix(".lib").unlink(missing_ok=True)  # Zig's, for linkers of Windows


class Wheel(bdist_wheel):
    def run(self):
        """Makes a wheel for all platforms if the library cannot be built here."""
        self.run_command("build_ext")
        build = self.get_finalized_command("build_ext")
        if not all(Path(file).exists() for file in build.get_outputs()):
            self.distribution.ext_modules = []
            self.root_is_pure = True
        super().run()

    def get_tag(self):
        tag = super().get_tag()
        return tag if self.root_is_pure else ("py3", "none", PLATFORM or tag[2])


wide = bool(PLATFORM) or has_avx512()
setup(
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
    ext_modules=[
        Extension(
            "jaxnet.ops.native.kernels",
            [*(WIDE if wide else []), *OTHERS, f"{FOLDER}/kernels.c"],
            depends=[str(path) for path in Path(FOLDER).glob("*.[ch]")],  # all are in the sources
            extra_compile_args=[
                "-std=gnu11",
                "-O3",
                "-g0",
                "-Wno-psabi",
                "-fno-math-errno",
                *([] if wide else ["-DWITHOUT_AVX512"]),
            ],
            optional=not PLATFORM,
        )
    ],
)
