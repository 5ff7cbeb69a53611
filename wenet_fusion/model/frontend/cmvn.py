"""Global mean and variance normalisation of features, and WeNet's `global_cmvn` file that holds the sums."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

VARIANCE_FLOOR = 1e-20


class GlobalCmvn(nn.Module):
    """(x - mean) / standard deviation, per mel bin. Part of the checkpoint: a model carries its statistics.

    Args:
        num_mel_bins: F.
    """

    def __init__(self, num_mel_bins: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_mel_bins))
        self.register_buffer("inverse_std", torch.ones(num_mel_bins))

    def forward(self, features_BTF: Tensor) -> Tensor:
        return (features_BTF - self.mean) * self.inverse_std

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Reads `{"mean_stat": sums, "var_stat": square sums, "frame_num": count}`.

        Raises:
            ValueError: if the file is not of that form or has another number of mel bins.
        """
        try:
            content = json.loads(path.read_text())
            total, squares = (torch.tensor(content[key], dtype=torch.float64) for key in ("mean_stat", "var_stat"))
            count = int(content["frame_num"])
        except (KeyError, TypeError, ValueError) as error:  # ValueError: no JSON, no UTF-8, no numbers
            raise ValueError(
                f"{path} is no global_cmvn file ({error!r}): write it with tools/data/compute_cmvn_stats.py"
            ) from None
        if not total.shape == squares.shape == self.mean.shape or count < 1:
            raise ValueError(
                f"{path} has {total.numel()} mel bins over {count} frames, the model has {self.mean.numel()}: "
                f"run tools/data/compute_cmvn_stats.py with the model's configuration"
            )
        mean = total / count
        self.mean.copy_(mean)
        self.inverse_std.copy_((squares / count - mean.square()).clamp(min=VARIANCE_FLOOR).rsqrt())


class CmvnStatistics:
    """Sums over features in float64, so that millions of frames lose nothing."""

    def __init__(self, num_mel_bins: int):
        self.total = torch.zeros(num_mel_bins, dtype=torch.float64)
        self.squares = torch.zeros(num_mel_bins, dtype=torch.float64)
        self.count = 0

    def add(self, features_TF: Tensor) -> None:
        features = features_TF.double()
        self.total += features.sum(0)
        self.squares += features.square().sum(0)
        self.count += features.size(0)

    def to_json(self) -> str:
        """WeNet's format.

        Raises:
            ValueError: if no frame was added or a sum is not finite.
        """
        sums = self.total.tolist() + self.squares.tolist()
        if self.count == 0 or not all(math.isfinite(x) for x in sums):
            raise ValueError(f"no usable statistics over {self.count} frames: the audio is empty or holds NaN")
        return json.dumps(
            {"mean_stat": self.total.tolist(), "var_stat": self.squares.tolist(), "frame_num": self.count}
        )
