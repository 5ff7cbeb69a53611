"""Normalise features by the global mean and variance; read and write WeNet's `global_cmvn` file."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from wenet_fusion_runtime.files import parse_json

VARIANCE_FLOOR = 1e-20


class GlobalCmvn(nn.Module):
    """Normalises features: (x - mean) / standard deviation, per mel bin. Checkpoints contain the statistics.

    Args:
        num_mel_bins: F of features (B, T, F).

    >>> GlobalCmvn(2)(torch.ones(1, 1, 2))
    tensor([[[1., 1.]]])
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, num_mel_bins: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_mel_bins))
        self.register_buffer("inverse_std", torch.ones(num_mel_bins))

    def forward(self, features_BTF: Tensor) -> Tensor:
        """Return normalised features."""
        return (features_BTF - self.mean) * self.inverse_std

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Read a file of the form `{"mean_stat": sums, "var_stat": sums of squares, "frame_num": count}`.

        Raises:
            ValueError: the file has another form or another number of mel bins.
        """
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            total, squares = (torch.tensor(content[key], dtype=torch.float64) for key in ("mean_stat", "var_stat"))
            count = int(content["frame_num"])
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:  # not JSON, UTF-8 or numbers
            raise ValueError(
                f"{path} is not a global_cmvn file ({error!r}): write it with tools/data/compute_cmvn_stats.py"
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
    """Sums over features, in float64 to stay accurate over millions of frames.

    >>> statistics = CmvnStatistics(2)
    >>> statistics.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> statistics.to_json()
    '{"mean_stat": [4.0, 6.0], "var_stat": [10.0, 20.0], "frame_num": 2}'
    """

    def __init__(self, num_mel_bins: int):
        self.total = torch.zeros(num_mel_bins, dtype=torch.float64)
        self.squares = torch.zeros(num_mel_bins, dtype=torch.float64)
        self.count = 0

    def add(self, features_TF: Tensor) -> None:
        """Add frames."""
        features = features_TF.double()
        self.total += features.sum(0)
        self.squares += features.square().sum(0)
        self.count += features.size(0)

    def to_json(self) -> str:
        """Return the sums as the text of a `global_cmvn` file.

        Raises:
            ValueError: no frame was added, or a sum is not finite.
        """
        sums = self.total.tolist() + self.squares.tolist()
        if self.count == 0 or not all(math.isfinite(x) for x in sums):
            raise ValueError(f"no usable statistics over {self.count} frames: the audio is empty or holds NaN")
        return json.dumps(
            {"mean_stat": self.total.tolist(), "var_stat": self.squares.tolist(), "frame_num": self.count}
        )
