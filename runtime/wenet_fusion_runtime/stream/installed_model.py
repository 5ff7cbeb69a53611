"""Find the installed model: the package wenet_fusion_model or, without it, the model inside the runtime's package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from wenet_fusion_runtime.files import file_sha256, parse_json
from wenet_fusion_runtime.search.language_models.language_model import load_language_model
from wenet_fusion_runtime.search.modes import SEARCH_MODES
from wenet_fusion_runtime.stream.decoding_options import LANGUAGE_MODEL_WEIGHTS, DecodingOptions
from wenet_fusion_runtime.stream.recognizer import Recognizer

PACKAGE = "wenet_fusion_model"
DESCRIPTION = "model.json"
CARD = "README.md"
BUNDLED = Path(__file__).parents[1] / "bundled_model"
MISSING = (
    f"no model is installed (the package {PACKAGE}): name a file that wenet-fusion export wrote, or make a package of "
    "one with tools/make_model_package.py and install it"
)


@dataclass(frozen=True)
class InstalledModel:
    """The files and decoding weights of an installed model.

    >>> InstalledModel(Path("model.zip"), None, 0.5, 0.0, sha256=64 * "0").language_model is None
    True
    """

    path: Path  # exported file
    language_model: Path | None  # word n-gram model, used with the weights below; None: no language model
    lm_weight: float
    word_bonus: float
    sha256: str  # SHA-256 of the exported file when the package was made
    confidence_threshold: float = 0.0  # segments with a lower confidence get no text
    unknown_word_penalty: float = 0.0
    beam_size: int | None = None  # None: the search's default
    example: str = ""  # a sentence that the model understands, to be suggested to users; empty: none

    @property
    def card(self) -> Path | None:
        """The model card in Markdown; None if the model has none."""
        path = self.path.parent / CARD
        return path if path.is_file() else None

    def check_file(self) -> None:
        """Read the whole exported file and compare its SHA-256 with the description's.

        Raises:
            ValueError: the file has changed since the package was made.
            OSError: the file cannot be read.
        """
        if (found := file_sha256(self.path)) != self.sha256:
            raise ValueError(
                f"{self.path}: its SHA-256 is {found}, but {DESCRIPTION} beside it says {self.sha256}: the file was "
                f"changed or is damaged; {_again(self.path.parent)}"
            )

    def language_model_for(self, mode: str | None) -> Path | None:
        """Return the language model; None if there is none, or if it cannot change the text in this search mode.

        Args:
            mode: one of MODES; None: the model's default.
        """
        return self.language_model if mode is None or SEARCH_MODES[mode].has_alternatives else None

    def recognizer(self, options: DecodingOptions = DecodingOptions()) -> Recognizer:
        """Load the model with its confidence threshold, its beam size, and its language model and weights.

        A threshold or a beam size in the options is used instead. So is a language model in the options, together with
        the weights in the options. See also `language_model_for`.

        Raises:
            OSError, ValueError, ImportError: see `Recognizer` and `load_language_model`.
        """
        if options.confidence_threshold is None:
            options = replace(options, confidence_threshold=self.confidence_threshold)
        if options.beam_size is None:
            options = replace(options, beam_size=self.beam_size)
        path = self.language_model_for(options.mode)
        if path is not None and options.language_model is None:
            loaded = load_language_model(path)
            weights = {name: getattr(self, name) for name in LANGUAGE_MODEL_WEIGHTS}
            options = replace(options, language_model=loaded, **weights)
        return Recognizer(self.path, options)


def installed_model() -> InstalledModel:
    """Return the model of the package `wenet_fusion_model` if it is installed, else the runtime's own.

    Raises:
        FileNotFoundError: there is neither, or a file of the model is missing; the message says what to do.
        ValueError: the model's description is damaged.

    >>> from wenet_fusion_runtime import installed_model
    >>> recognizer = installed_model().recognizer()  # doctest: +SKIP
    """
    spec = find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
    elif BUNDLED.is_dir():
        folder = BUNDLED
    else:
        raise FileNotFoundError(MISSING)
    path = folder / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; {_again(folder)}")
    try:
        record = parse_json(path.read_bytes())
        language_model = record["language_model"]
        found = InstalledModel(
            folder / str(record["file"]),
            None if language_model is None else folder / str(language_model),
            float(record["lm_weight"]),
            float(record["word_bonus"]),
            str(record["sha256"]),
            float(record.get("confidence_threshold", 0.0)),
            float(record.get("unknown_word_penalty", 0.0)),
            None if record.get("beam_size") is None else int(record["beam_size"]),
            str(record.get("example", "")),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is damaged ({error}); {_again(folder)}") from None
    for file in (found.path, found.language_model):
        if file is not None and not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; {_again(folder)}")
    return found


def _again(folder: Path) -> str:
    return f"install {'wenet-fusion-runtime' if folder == BUNDLED else PACKAGE} again"
