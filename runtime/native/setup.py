"""Build the native library: `pip install ./runtime/native`. Needs GCC 12 or clang 12, or later ones.

One wheel serves every Python from 3.10 on, because Python calls the library through ctypes.
"""

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Results would differ between processors if the compiler fused multiplications with additions.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi"]


class BuildLibrary(build_ext):
    """Builds library.so, and names the compilers that it needs if the build fails."""

    def get_ext_filename(self, name: str) -> str:
        """Return the file name of the library, without the version of Python."""
        return f"{name.replace('.', os.sep)}.so"

    def build_extension(self, extension: Extension) -> None:
        try:
            super().build_extension(extension)
        except Exception as error:
            needed = "wenet-fusion-kernels needs a C++ compiler: GCC 12, clang 12, or later"
            raise SystemExit(f"error: {error}\n{needed}") from None


setup(
    ext_modules=[
        Extension(
            "wenet_fusion_kernels.library",
            sorted(map(str, Path("src").glob("*.cpp"))),
            depends=sorted(map(str, Path("src").glob("*.hpp"))),
            extra_compile_args=FLAGS,
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
