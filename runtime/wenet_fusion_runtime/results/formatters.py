"""Rewrite the text of closed segments, e.g. numbers and dates, with a library or a user's function."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from wenet_fusion_runtime.results.result import Result

_LOG = logging.getLogger(__name__)

Formatter = Callable[[str], str]

_WETEXT, _NEMO, _ITN = "wetext", "nemo", "itn"
_ITN_LANGUAGES = {"zh": "chinese", "en": "english", "ja": "japanese"}
_PACKAGES = {_WETEXT: "wetext", _NEMO: "nemo_text_processing", _ITN: "WeTextProcessing"}


class SafeFormatter:
    """Calls a formatter, one call at a time, and returns the text unchanged if the formatter fails.

    The first failure is logged as a warning.

    Args:
        formatter: rewrites the text of a closed segment.

    >>> formatter = SafeFormatter(str.capitalize)
    >>> formatter("it is ten")
    'It is ten'
    """

    def __init__(self, formatter: Formatter) -> None:
        self._formatter = formatter
        self._lock, self._has_failed = threading.Lock(), False

    def __call__(self, text: str) -> str:
        """Return the formatted text on one line; the text itself if the formatter fails or returns no text."""
        if not text:
            return text
        with self._lock:  # the libraries' objects are not thread-safe
            try:
                found: object = self._formatter(text)
                if isinstance(found, str) and found.strip():
                    return " ".join(found.split())
                problem = f"it returned {'an empty text' if isinstance(found, str) else type(found).__name__}"
            except Exception as error:  # a formatter may raise any type
                problem = f"{type(error).__name__}: {error}"
            if not self._has_failed:
                self._has_failed = True
                _LOG.warning("the formatter failed (%s); texts that it fails on stay as they are", problem)
            return text


def formatted(result: Result, formatter: Formatter) -> Result:
    """Return a closed segment with its text formatted; words and tokens stay as recognised."""
    return replace(result, text=formatter(result.text)) if result.tokens else result


def load_formatter(name: str) -> Formatter:
    """Return the formatter with this name.

    Args:
        name: `wetext`, `nemo` or `itn` (inverse text normalisation by the packages wetext, nemo_text_processing and
            WeTextProcessing), with a language such as `wetext:zh` (default: en; for itn: zh); or `MODULE:FUNCTION`.
    Raises:
        ValueError: the name has none of these forms, or there is no such function, or no such language of itn.
        ImportError: the package or the module cannot be imported.

    >>> load_formatter("textwrap:dedent")(" one")
    'one'
    """
    library, _, rest = name.partition(":")
    if library not in _PACKAGES:
        return _imported(name, library, rest)
    try:
        if library == _WETEXT:
            return _lower(_wetext(rest or "en"))
        return _lower(_nemo(rest or "en") if library == _NEMO else _itn(rest or "zh"))
    except ImportError as error:
        package = _PACKAGES[library]
        raise ImportError(f"the formatter {name} needs {package}: pip install {package} ({error})") from None


def _imported(name: str, module: str, function: str) -> Formatter:
    if not module or not function:
        raise ValueError(
            f"'{name}' is not a formatter, expected {', '.join(_PACKAGES)} or a function of yours as MODULE:FUNCTION"
        )
    try:
        formatter = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise ImportError(f"the formatter '{name}': {error}; is the module's folder in PYTHONPATH?") from None
    if not callable(formatter):
        raise ValueError(f"the formatter '{name}': the module {module} has no function {function}")
    return formatter


def _wetext(language: str) -> Formatter:
    return importlib.import_module("wetext").Normalizer(lang=language, operator="itn").normalize


def _nemo(language: str) -> Formatter:
    module = importlib.import_module("nemo_text_processing.inverse_text_normalization.inverse_normalize")
    normalizer = module.InverseNormalizer(lang=language)
    return lambda text: normalizer.inverse_normalize(text, verbose=False)


def _itn(language: str) -> Formatter:
    if language not in _ITN_LANGUAGES:
        raise ValueError(f"the formatter itn has the languages {', '.join(_ITN_LANGUAGES)}, found '{language}'")
    module = importlib.import_module(f"itn.{_ITN_LANGUAGES[language]}.inverse_normalizer")
    return module.InverseNormalizer().normalize


def _lower(formatter: Formatter) -> Formatter:
    """Pass text in capitals to a library in lower case, because its grammars expect lower case."""
    return lambda text: formatter(text.lower() if text.isupper() else text)
