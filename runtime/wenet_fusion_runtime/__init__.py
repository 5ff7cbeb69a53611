"""Streaming speech recognition with one exported file. Knows nothing of training and never imports wenet_fusion."""

from wenet_fusion_runtime.acoustic_model import AcousticModel
from wenet_fusion_runtime.context import HotWord, check_hot_words, read_hot_words
from wenet_fusion_runtime.decoding import DecodingOptions
from wenet_fusion_runtime.endpoint import Endpoint, EndpointRules
from wenet_fusion_runtime.engine import Engine, EngineOptions
from wenet_fusion_runtime.engine_statistics import EngineStatistics, Histogram
from wenet_fusion_runtime.fusion import LanguageModel
from wenet_fusion_runtime.language_model import load_language_model
from wenet_fusion_runtime.meta import Meta
from wenet_fusion_runtime.model_file import load_model
from wenet_fusion_runtime.recognizer import Recognizer, Stream
from wenet_fusion_runtime.result import Hypothesis, Result, Token, Word
from wenet_fusion_runtime.session import Backlog, Session, Unavailable, Update
from wenet_fusion_runtime.words import joined_words

__all__ = [
    "AcousticModel", "Backlog", "DecodingOptions", "Endpoint", "EndpointRules", "Engine", "EngineOptions",
    "EngineStatistics", "Histogram", "HotWord", "Hypothesis", "LanguageModel", "Meta", "Recognizer", "Result", "Session",
    "Stream", "Token", "Unavailable", "Update", "Word", "check_hot_words", "joined_words", "load_language_model",
    "load_model", "read_hot_words",
]
