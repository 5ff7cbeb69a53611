"""The worked example "Add a search" of CONTRIBUTING.md works: one file and one line give a new mode."""

import re
from pathlib import Path

import numpy as np
import pytest
import test_search_protocol
from support.runtime.fake_model import make_model
from wenet_fusion_runtime import DecodingOptions
from wenet_fusion_runtime.search.frame_scores import FrameScores
from wenet_fusion_runtime.search.modes import MODES, SEARCH_MODES, SearchMode
from wenet_fusion_runtime.stream.segment_decoder import SegmentDecoder

from wenet_fusion.evaluation.options import ALL_MODES

GUIDE = Path(__file__).parents[3] / "CONTRIBUTING.md"


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> str:
    """Add the example's mode to the table."""
    section = GUIDE.read_text(encoding="utf-8").partition("## Add a search\n")[2].partition("\n## ")[0]
    module, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    namespace: dict = {"SearchMode": SearchMode}
    exec(module, namespace)
    ((name, added),) = eval(f"{{{line}}}", namespace).items()
    monkeypatch.setitem(SEARCH_MODES, name, added)
    return name


def test_the_example_decodes_and_keeps_the_laws(mode: str) -> None:
    probabilities = np.array([[0.6, 0.4], [0.9, 0.1], [0.4, 0.35], [0.8, 0.2]])
    scores = FrameScores(np.log(probabilities), np.array([[3, 0], [0, 3], [4, 0], [5, 0]]), np.log(probabilities[:, 1]))
    model = make_model()
    decoder = SegmentDecoder(model, DecodingOptions(mode))
    decoder.accept(scores, np.zeros((1, 4, 2), np.float32))
    assert decoder.partial().committed == 2 and decoder.finish().text == "a c", "b has a confidence of 0.4"
    with pytest.raises(ValueError, match=f"{mode} keeps a single hypothesis"):
        DecodingOptions(mode, length_penalty=1.0).resolved(model.meta)
    test_search_protocol.test_cuts_change_nothing_and_stable_prefixes_stay(mode)
    test_search_protocol.test_a_commit_makes_exactly_the_tokens_before_its_frame_final(mode)


def test_evaluation_offers_every_mode_of_the_table() -> None:
    assert set(ALL_MODES) == {*MODES, "attention"}
