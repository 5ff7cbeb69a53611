"""A language model of order 3 in ARPA format, and its scores."""

import math
from pathlib import Path

from wenet_fusion_runtime.search.language_models.language_model import NgramModel, load_language_model

ARPA = r"""\data\
ngram 1=5
ngram 2=4
ngram 3=1

\1-grams:
-1.0	<unk>
-99	<s>	-0.5
-0.7	</s>
-0.6	a	-0.4
-0.8	b	-0.3

\2-grams:
-0.2	<s> a	-0.1
-0.5	a b	-0.2
-0.9	b </s>
-0.3	b a

\3-grams:
-0.05	<s> a b

\end\
"""


def load(folder: Path, text: str | bytes, name: str = "lm.arpa") -> NgramModel:
    """Write and load a model."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_language_model(path)


def scores(model: NgramModel, words: list[str]) -> list[float]:
    """Return log10 of each word and of the end."""
    state, found = model.start(), []
    for word in words:
        log_prob, state = model.advance(state, word)
        found.append(log_prob / math.log(10))
    return [*found, model.finish(state) / math.log(10)]
