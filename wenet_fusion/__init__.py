"""Streaming speech recognition with the FusionFormer: training, evaluation and export; knows nothing by itself."""

__version__ = "0.1.0"
