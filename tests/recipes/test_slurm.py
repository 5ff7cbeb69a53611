"""The SLURM script of the guide to training, run in a simulated allocation."""

import os
import re
import subprocess
from pathlib import Path

from support.recipes.recipe_clone import ROOT
from torch.distributed.run import config_from_args, parse_args


def test_the_script_for_slurm_starts_a_rank_per_gpu_on_every_host(tmp_path: Path) -> None:
    """The commands are replaced by ones that print their arguments; torchrun's own parser reads its arguments."""
    guide = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```\n(#!/bin/bash\n#SBATCH.*?)```", guide, re.S)
    for name, body in (
        ("scontrol", '[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"'),
        ("srun", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"'),
        ("torchrun", 'printf "%s\\n" "$@"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    allocation = {"NNODES": "2", "JOB_ID": "7", "JOB_NODELIST": "node[1-2]", "GPUS_ON_NODE": "8", "CPUS_PER_TASK": "32"}
    environment = {f"SLURM_{name}": value for name, value in allocation.items()}
    environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    config, _, arguments = config_from_args(parse_args(done.stdout.splitlines()))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.run_id) == (2, 2, 8, "7")
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "node1:29400")
    assert arguments[-4:] == ["-m", "wenet_fusion.cli", "train", "..."]
