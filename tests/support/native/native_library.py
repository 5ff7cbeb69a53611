"""Build runtime/native from the sources of this clone, once for all test processes."""

import fcntl
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = "wenet_fusion_kernels"
SOURCES = Path(__file__).parents[3] / "runtime" / "native"


def build_kernels(folder: Path, flags: Sequence[str] = ()) -> Path:
    """Return a folder for sys.path that holds wenet_fusion_kernels with its library; build it if it is missing.

    Args:
        folder: any folder; processes that share it wait for each other.
        flags: more flags of the compiler.
    """
    from conftest import absent  # here, because conftest imports this module

    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        absent(f"there is no C++ compiler ({compiler})", "WENET_FUSION_REQUIRE_COMPILER")
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        package = folder / "wenet_fusion_kernels"
        if not (package / "library.so").exists():
            shutil.copytree(SOURCES / "wenet_fusion_kernels", package, dirs_exist_ok=True)
            files = [str(path) for path in sorted((SOURCES / "src").glob("*.cpp"))]
            command = [compiler, "-shared", "-fPIC", *compiler_flags(), *flags, "-Wall", "-Wextra", "-Werror", *files]
            subprocess.run([*command, "-o", str(package / "library.part")], check=True)
            (package / "library.part").rename(package / "library.so")
    return folder


def compiler_flags() -> list[str]:
    """Return the flags with which setup.py compiles."""
    text = (SOURCES / "setup.py").read_text()
    line = next(line for line in text.splitlines() if line.startswith("FLAGS = "))
    found: list[str] = eval(line.removeprefix("FLAGS = "))
    return found


def import_kernels(folder: Path) -> ModuleType:
    """Import wenet_fusion_kernels from the folder of `build_kernels`, and remove it from sys.modules again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            patch.delitem(sys.modules, name)
        found = importlib.import_module(PACKAGE)
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
    return found
