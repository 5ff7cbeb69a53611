"""The native step under sanitizers and on ARM: no invalid memory access, and the same bits."""

import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from conftest import absent
from support.native.native_library import SOURCES, compiler_flags
from support.native.random_fused import recorded_call
from support.native.vectors import CACHED, CHECKSUMS, CHUNKS, vector

DRIVER = Path(__file__).parents[1] / "support" / "native" / "replay.cpp"


def build(compiler: str, output: Path, *flags: str) -> None:
    files = [str(path) for path in sorted((SOURCES / "src").glob("*.cpp"))]
    subprocess.run([compiler, *compiler_flags(), *flags, str(DRIVER), *files, "-o", str(output)], check=True)


def replay(kernels: ModuleType, folder: Path, *command: str) -> dict[int, dict[str, int]]:
    """Run the driver on every vector; return the checksum of each family, by seed."""
    found = {}
    for seed in CHECKSUMS:
        model, samples = vector(kernels, seed)
        (folder / "call").write_bytes(recorded_call(model, samples, CHUNKS, CACHED))
        lines = subprocess.run([*command, str(folder / "call")], check=True, capture_output=True, text=True).stdout
        found[seed] = {name: int(number) for name, number in map(str.split, lines.splitlines())}
    return found


def test_sanitizers_find_nothing(kernels: ModuleType, tmp_path: Path) -> None:
    """Check addresses and undefined behaviour in the code of every family that this processor can run."""
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    build("g++", tmp_path / "replay", *flags)
    for seed, found in replay(kernels, tmp_path, str(tmp_path / "replay")).items():
        assert found == dict.fromkeys(kernels.families(), CHECKSUMS[seed])


@pytest.mark.slow
def test_arm_computes_the_same_bits(kernels: ModuleType, tmp_path: Path) -> None:
    for program in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        if shutil.which(program) is None:
            absent(f"{program} is not installed", "WENET_FUSION_REQUIRE_COMPILER")
    build("aarch64-linux-gnu-g++", tmp_path / "replay", "-static")
    for seed, found in replay(kernels, tmp_path, "qemu-aarch64", "-cpu", "max", str(tmp_path / "replay")).items():
        assert found == dict.fromkeys(["neon", "portable"], CHECKSUMS[seed])
