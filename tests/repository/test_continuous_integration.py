"""What continuous integration runs."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_seed_of_fuzzing_depends_on_the_committed_files_only(tmp_path: Path) -> None:
    """Each run of a commit tries the same inputs; the next commit tries other inputs."""
    (line,) = re.findall(r"^export WENET_FUSION_FUZZ_SEED=.*$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    environment = {name: value for name, value in os.environ.items() if name != "WENET_FUSION_FUZZ_SEED"}
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]

    def seed(**given: str) -> int:
        command = ["bash", "-c", f"{line}; echo $WENET_FUSION_FUZZ_SEED"]
        return int(
            subprocess.run(command, cwd=tmp_path, env=environment | given, capture_output=True, check=True).stdout
        )

    def commit(content: str) -> int:
        (tmp_path / "a").write_text(content)
        for arguments in (["init", "-q"], ["add", "a"], [*author, "commit", "-q", "--allow-empty", "-m", content]):
            subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
        return seed()

    first = commit("one")
    assert first == commit("one") != commit("two") and 0 <= first < 1 << 32
    assert seed(WENET_FUSION_FUZZ_SEED="7") == 7
