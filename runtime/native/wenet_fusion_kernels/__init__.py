"""The streaming step of a fused int8 FusionFormer, as one call of a native library.

The results for a stream are bit for bit the same on every processor and in every batch: products of integers are
exact, and float operations always have the same order.

Shapes: B streams, N samples, T encoder frames, C cached frames, D width, K best tokens of a frame.

>>> from wenet_fusion_kernels import families
>>> families()[-1]
'portable'
"""

from wenet_fusion_kernels.fused_model import FusedModel, Output, chosen_family, families, is_measured, multiply
from wenet_fusion_kernels.sizes import Sizes, expected_ranges, expected_tensors
from wenet_fusion_kernels.state import State

__all__ = [
    "FusedModel",
    "Output",
    "Sizes",
    "State",
    "chosen_family",
    "expected_ranges",
    "expected_tensors",
    "families",
    "is_measured",
    "multiply",
]
__version__ = "0.1.0"
