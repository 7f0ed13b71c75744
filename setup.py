"""Builds the kernels in C where there is a compiler; pyproject.toml has all the rest.

The library is loaded with ctypes and does not use Python's headers, so one file fits each Python of
a platform: its name and the wheel's tag do not name one. Windows loads a kernels.so too.

JAXNET_PLATFORM, such as win_amd64, is the tag of a wheel for another platform. CC must compile for
it; .ci/release sets both.
"""

import os
import shlex
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = "jaxnet/ops/native"
PLATFORM = os.environ.get("JAXNET_PLATFORM")


class Build(build_ext):
    def get_ext_filename(self, name):
        return f"{name.replace('.', '/')}.so"

    def get_export_symbols(self, ext):
        return ext.export_symbols  # no PyInit function

    def build_extension(self, ext):
        if not PLATFORM:
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


setup(
    cmdclass={"build_ext": Build, "bdist_wheel": Wheel},
    ext_modules=[
        Extension(
            "jaxnet.ops.native.kernels",
            [f"{FOLDER}/kernels.c"],
            depends=[str(path) for path in Path(FOLDER).glob("*.h")],
            extra_compile_args=["-std=gnu11", "-O3", "-g0", "-Wno-psabi", "-fno-math-errno"],
            optional=not PLATFORM,
        )
    ],
)
