"""Streaming speech recognition with one exported file. Knows nothing of training and never imports wenet_fusion."""

from wenet_fusion_runtime.audio.reader import AudioReader, load_audio
from wenet_fusion_runtime.engine.engine import Engine, EngineOptions
from wenet_fusion_runtime.engine.session import Backlog, Session, Unavailable, Update
from wenet_fusion_runtime.engine.statistics import EngineStatistics, Histogram
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.results.result import Endpoint, Hypothesis, Result, Token, Word
from wenet_fusion_runtime.results.words import joined_words
from wenet_fusion_runtime.search.hot_words import HotWord, check_hot_words, read_hot_words
from wenet_fusion_runtime.search.language_model import LanguageModel, load_language_model
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions
from wenet_fusion_runtime.stream.endpoints import EndpointRules
from wenet_fusion_runtime.stream.recognizer import Recognizer, Stream

__all__ = [
    "AcousticModel",
    "AudioReader",
    "Backlog",
    "DecodingOptions",
    "Endpoint",
    "EndpointRules",
    "Engine",
    "EngineOptions",
    "EngineStatistics",
    "Histogram",
    "HotWord",
    "Hypothesis",
    "LanguageModel",
    "Meta",
    "Recognizer",
    "Result",
    "Session",
    "Stream",
    "Token",
    "Unavailable",
    "Update",
    "Word",
    "check_hot_words",
    "joined_words",
    "load_audio",
    "load_language_model",
    "load_model",
    "read_hot_words",
]
