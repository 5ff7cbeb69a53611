"""Two hours of speech through a WeNet model: no word is lost, state and memory stay as they are."""

from pathlib import Path

import numpy as np
import psutil
import pytest
from support.wenet.fake_wenet import RATE, FakeWenet, Shape, speak
from support.wenet.wenet_exports import save_graphs, save_script
from wenet_fusion_runtime import DecodingOptions, Recognizer, load_model
from wenet_fusion_runtime.stream.endpoints import LIVE_ENDPOINTS

HOURS, WARM_HOURS = 2.0, 0.25
CHUNK, LEFT = 64, 2
GROWTH_MIB = 8.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("save", [save_script, lambda folder, model: save_graphs(folder, model, CHUNK, LEFT)])
def test_two_hours_lose_no_word_and_need_no_more_memory(tmp_path: Path, save) -> None:
    """180,000 frames are 36 times the positions of the model, which asserts its positions."""
    model = load_model(save(tmp_path, FakeWenet(Shape(layers=1, sharpness=4.0))))
    options = DecodingOptions("ctc_prefix_beam_search", 4, endpoint=LIVE_ENDPOINTS, commit_seconds=1.0)
    stream = Recognizer(model, options).create_stream(CHUNK, LEFT)
    sentences = [np.append(speak(text), np.zeros(2 * RATE, np.float32)) for text in ("abcd dcba", "d", "bca cab dad")]
    expected = ("abcddcba", "d", "bcacabdad")
    process, seconds, texts, begin = psutil.Process(), 0.0, [], 0.0
    while seconds < HOURS * 3600:
        for sentence in sentences:
            texts += [result.text for result in stream.accept_waveform(sentence) if result.text]
            seconds += len(sentence) / RATE
        stream.forget_finals()
        (state,) = stream.state
        assert state.att_cache.shape[2] <= CHUNK * LEFT and state.offset <= 5000
        if not begin and seconds > WARM_HOURS * 3600:
            begin = process.memory_info().rss / 2**20
    assert process.memory_info().rss / 2**20 - begin < GROWTH_MIB
    texts += [result.text for result in stream.finish() if result.text]
    assert len(texts) % 3 == 0 and tuple(texts) == expected * (len(texts) // 3)
