"""Streaming speech recognition with one exported file. The names in `__all__` are the public interface.

>>> from wenet_fusion_runtime import Recognizer, load_audio
>>> recognizer = Recognizer("final.zip")  # doctest: +SKIP
>>> with recognizer.create_stream() as stream:  # doctest: +SKIP
...     stream.accept_waveform(load_audio("recording.flac", recognizer.model.meta.sample_rate))
>>> stream.text  # doctest: +SKIP
'ONE TWO THREE'
"""

from wenet_fusion_runtime.audio.reader import AudioReader, load_audio
from wenet_fusion_runtime.engine.engine import Engine, EngineOptions
from wenet_fusion_runtime.engine.session import Backlog, Session, Unavailable, Update
from wenet_fusion_runtime.engine.statistics import EngineStatistics, Histogram
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.metadata import Meta
from wenet_fusion_runtime.model.model_file import load_model
from wenet_fusion_runtime.results.formats import make_writer, result_record
from wenet_fusion_runtime.results.formatters import load_formatter
from wenet_fusion_runtime.results.result import Endpoint, Hypothesis, Result, Token, Word
from wenet_fusion_runtime.results.vocabulary import Vocabulary
from wenet_fusion_runtime.results.words import joined_words
from wenet_fusion_runtime.search.grammar.grammar import Grammar, read_grammar
from wenet_fusion_runtime.search.hot_words import CheckedHotWords, HotWord, check_hot_words, read_hot_words
from wenet_fusion_runtime.search.language_models.language_model import LanguageModel, load_language_model
from wenet_fusion_runtime.search.modes import MODES
from wenet_fusion_runtime.stream.decoding_options import DecodingOptions, ResolvedOptions
from wenet_fusion_runtime.stream.endpoints import FILE_ENDPOINTS, LIVE_ENDPOINTS, EndpointRules
from wenet_fusion_runtime.stream.installed_model import InstalledModel, installed_model
from wenet_fusion_runtime.stream.offline import decode_rows, offline_step, transcribe_offline
from wenet_fusion_runtime.stream.recognizer import Recognizer
from wenet_fusion_runtime.stream.stream import Stream

__all__ = [
    "FILE_ENDPOINTS",
    "LIVE_ENDPOINTS",
    "MODES",
    "AcousticModel",
    "AudioReader",
    "Backlog",
    "CheckedHotWords",
    "DecodingOptions",
    "Endpoint",
    "EndpointRules",
    "Engine",
    "EngineOptions",
    "EngineStatistics",
    "Grammar",
    "Histogram",
    "HotWord",
    "Hypothesis",
    "InstalledModel",
    "LanguageModel",
    "Meta",
    "Recognizer",
    "ResolvedOptions",
    "Result",
    "Session",
    "Stream",
    "Token",
    "Unavailable",
    "Update",
    "Vocabulary",
    "Word",
    "check_hot_words",
    "decode_rows",
    "installed_model",
    "joined_words",
    "load_audio",
    "load_formatter",
    "load_language_model",
    "load_model",
    "make_writer",
    "offline_step",
    "read_grammar",
    "read_hot_words",
    "result_record",
    "transcribe_offline",
]
