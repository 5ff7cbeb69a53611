"""Train, evaluate and export streaming speech recognisers with the FusionFormer.

The names in `__all__` are the public interface. Each is imported on first use, so importing the package is quick and
needs no torch.

>>> import wenet_fusion
>>> wenet_fusion.parse_chunking("16/4")
Chunking(size=16, left=4)
"""

import importlib
from typing import TYPE_CHECKING, Any

from wenet_fusion.provenance import __version__

if TYPE_CHECKING:
    from wenet_fusion.evaluation.data_check import check_data
    from wenet_fusion.evaluation.options import EvaluationOptions, Variant
    from wenet_fusion.evaluation.run import evaluate
    from wenet_fusion.evaluation.streaming_laws import check_model
    from wenet_fusion.export.flow import export_model
    from wenet_fusion.export.target import Exported, ExportOptions
    from wenet_fusion.model.asr_model import AsrModel, ModelConfig
    from wenet_fusion.model.chunking import FULL_CONTEXT, Chunking, parse_chunking
    from wenet_fusion.model.encoder import Encoder
    from wenet_fusion.model.encoder_config import EncoderConfig
    from wenet_fusion.model.layers.norm import fuse_norms
    from wenet_fusion.recipe import RecipeConfig, build_dataset, build_trainer, read_recipe
    from wenet_fusion.trained_model import TrainedModel, acoustic_model, average, load_trained

__all__ = [
    "FULL_CONTEXT",
    "AsrModel",
    "Chunking",
    "Encoder",
    "EncoderConfig",
    "EvaluationOptions",
    "ExportOptions",
    "Exported",
    "ModelConfig",
    "RecipeConfig",
    "TrainedModel",
    "Variant",
    "__version__",
    "acoustic_model",
    "average",
    "build_dataset",
    "build_trainer",
    "check_data",
    "check_model",
    "evaluate",
    "export_model",
    "fuse_norms",
    "load_trained",
    "parse_chunking",
    "read_recipe",
]

_HOMES = {
    "acoustic_model": "wenet_fusion.trained_model",
    "AsrModel": "wenet_fusion.model.asr_model",
    "average": "wenet_fusion.trained_model",
    "build_dataset": "wenet_fusion.recipe",
    "build_trainer": "wenet_fusion.recipe",
    "check_data": "wenet_fusion.evaluation.data_check",
    "check_model": "wenet_fusion.evaluation.streaming_laws",
    "Chunking": "wenet_fusion.model.chunking",
    "export_model": "wenet_fusion.export.flow",
    "Exported": "wenet_fusion.export.target",
    "ExportOptions": "wenet_fusion.export.target",
    "Encoder": "wenet_fusion.model.encoder",
    "EncoderConfig": "wenet_fusion.model.encoder_config",
    "evaluate": "wenet_fusion.evaluation.run",
    "EvaluationOptions": "wenet_fusion.evaluation.options",
    "FULL_CONTEXT": "wenet_fusion.model.chunking",
    "fuse_norms": "wenet_fusion.model.layers.norm",
    "load_trained": "wenet_fusion.trained_model",
    "ModelConfig": "wenet_fusion.model.asr_model",
    "parse_chunking": "wenet_fusion.model.chunking",
    "read_recipe": "wenet_fusion.recipe",
    "RecipeConfig": "wenet_fusion.recipe",
    "TrainedModel": "wenet_fusion.trained_model",
    "Variant": "wenet_fusion.evaluation.options",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
