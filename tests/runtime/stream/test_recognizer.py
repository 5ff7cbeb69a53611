"""Streams: any cut of the audio, any rate, the same text as offline, nothing lost."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.fake_model import (
    FRAME,
    SAMPLE_RATE,
    SAVERS,
    TAIL,
    make_model,
    meta_record,
    onnx_record,
    save_archive,
    speak,
)
from wenet_fusion_runtime import AcousticModel, DecodingOptions, Recognizer, Stream, load_model
from wenet_fusion_runtime.results.result import Result
from wenet_fusion_runtime.search.modes import MODES, PREFIX_BEAM
from wenet_fusion_runtime.stream.endpoints import EndpointRules
from wenet_fusion_runtime.stream.offline import transcribe_offline

TEXT = "abcd dcb aa"
SAMPLES = speak(TEXT)
SHORT_SEGMENTS = EndpointRules(rule3_seconds=0.4, rule3_silence_seconds=0.08, rule3_extra_seconds=0.2)


@pytest.fixture(scope="module", params=SAVERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AcousticModel:
    return load_model(SAVERS[request.param](tmp_path_factory.mktemp("model") / "model.zip"))


@pytest.fixture(scope="module")
def recognizers(model: AcousticModel) -> dict[str, Recognizer]:
    return {mode: Recognizer(model, DecodingOptions(mode, endpoint=SHORT_SEGMENTS)) for mode in MODES}


def run(stream: Stream, samples: np.ndarray, cuts: list[int], sample_rate: int | None = None) -> tuple[Result, ...]:
    returned = []
    for block in np.split(samples, sorted(cuts)):
        returned += stream.accept_waveform(block, sample_rate)
        assert stream.result.is_final is False
    returned += stream.finish()
    assert best_only(returned) == stream.finals
    assert stream.text == " ".join(result.text for result in stream.finals) and stream.result.is_final
    return tuple(returned)


def best_only(results: list[Result]) -> tuple[Result, ...]:
    """Return the closed segments that a stream keeps."""
    return tuple(replace(result, hypotheses=result.hypotheses[:1]) for result in results if result.tokens)


CUTS = st.lists(st.integers(0, len(SAMPLES)), max_size=30)


@settings(max_examples=30, deadline=None)
@given(
    cuts=CUTS, mode=st.sampled_from(MODES), chunk=st.sampled_from([(4, 4), (8, 2)]), length=st.integers(0, len(SAMPLES))
)
def test_any_cut_gives_the_results_of_one_offline_step(
    recognizers: dict[str, Recognizer], cuts: list[int], mode: str, chunk: tuple[int, int], length: int
) -> None:
    recognizer, samples = recognizers[mode], SAMPLES[:length]
    streamed = run(recognizer.create_stream(*chunk), samples, [cut for cut in cuts if cut <= length])
    offline = transcribe_offline(recognizer.model, samples, *chunk, recognizer.options)
    assert [(r.text, r.segment, r.start_seconds, r.end_seconds) for r in streamed] == [
        (r.text, r.segment, r.start_seconds, r.end_seconds) for r in offline
    ]
    assert [t[:4] for r in streamed for t in r.tokens] == [t[:4] for r in offline for t in r.tokens]


class LosesTheRest(Stream):
    """Seeded bug: keeps only what fills whole frames."""

    def push(self, samples: np.ndarray, sample_rate: int | None = None) -> None:
        super().push(samples[: len(samples) // FRAME * FRAME], sample_rate)


def test_the_law_catches_a_stream_that_loses_samples(model: AcousticModel) -> None:
    recognizer = Recognizer(model, DecodingOptions(PREFIX_BEAM))
    arguments = (model, recognizer.options, 8, 2, recognizer.create_stream().biasing)
    ends = [run(LosesTheRest(*arguments), SAMPLES, cuts)[-1].end_seconds for cuts in ([], [1000, 2500, 4000])]
    assert ends[0] != ends[1]


@pytest.mark.parametrize("length", [0, 1, FRAME - 1, FRAME, 8 * FRAME - TAIL, 8 * FRAME - TAIL + 1, 8 * FRAME, 5001])
def test_the_frames_cover_all_samples(recognizers: dict[str, Recognizer], length: int) -> None:
    finals = run(recognizers[PREFIX_BEAM].create_stream(), SAMPLES[:length], [length // 3])
    assert finals[-1].end_seconds == pytest.approx(-(-(length + TAIL) // FRAME) * 0.04)


def test_one_sample_at_a_time(recognizers: dict[str, Recognizer]) -> None:
    stream = recognizers[PREFIX_BEAM].create_stream()
    samples = SAMPLES[: 10 * FRAME]
    assert run(stream, samples, list(range(1, len(samples)))) == run(
        recognizers[PREFIX_BEAM].create_stream(), samples, []
    )


def test_int16_stereo_and_other_rates_read_the_same(recognizers: dict[str, Recognizer]) -> None:
    expected = " ".join(TEXT.replace(" ", ""))
    recognizer = recognizers[PREFIX_BEAM]
    pcm = (SAMPLES * 32767).astype(np.int16)
    stereo = np.stack([SAMPLES + 0.1, SAMPLES - 0.1], axis=1)
    for samples, rate in ((pcm, None), (stereo, SAMPLE_RATE)):
        stream = recognizer.create_stream()
        run(stream, samples, [777, 3000], rate)
        assert stream.text == expected


def test_another_rate_is_resampled_whatever_the_cut(recognizers: dict[str, Recognizer]) -> None:
    # A slow sine keeps its loudness through the resampler, unlike the noise of the other tests.
    sine = np.pi / 2 * np.sin(2 * np.pi * 500 * np.arange(3000) / 16000)  # its mean absolute value is 1
    tone = np.concatenate([np.zeros(3000), 0.2 * sine, 0.6 * sine]).astype(np.float32)
    recognizer = recognizers[PREFIX_BEAM]
    whole, cut = recognizer.create_stream(), recognizer.create_stream()
    assert run(cut, tone, [1, 50, 4000, 8999], 16000) == run(whole, tone, [], 16000)
    assert whole.text.startswith("a") and "c" in whole.text
    assert whole.result.end_seconds == pytest.approx(-(-(4500 + TAIL) // FRAME) * 0.04)


def test_partial_results_and_segments(model: AcousticModel) -> None:
    recognizer = Recognizer(
        model, DecodingOptions(endpoint=EndpointRules(rule3_seconds=1.0, rule3_silence_seconds=0.08))
    )
    with recognizer.create_stream() as stream:
        assert (stream.result.text, stream.text, stream.finals) == ("", "", ())
        partials, closed = [], []
        for block in np.array_split(speak("abcdabcdabcd"), 30):
            closed += stream.accept_waveform(block)
            partials.append(stream.text)
        assert stream.result.segment == len(stream.finals) > 0
    assert partials == sorted(partials, key=len) and len(set(partials)) > 5
    assert stream.text == "a b c d a b c d a b c d"
    assert stream.finals[: len(closed)] == best_only(closed) and stream.result == stream.finals[-1]
    assert [r.segment for r in stream.finals] == list(range(len(stream.finals)))


def test_silent_segments_are_not_kept(recognizers: dict[str, Recognizer]) -> None:
    stream = recognizers[PREFIX_BEAM].create_stream()
    returned = stream.accept_waveform(np.concatenate([speak("ab"), np.zeros(400 * FRAME), speak("c")]))
    returned += stream.finish()
    assert len(returned) > 30 and returned[-1].segment == len(returned) - 1
    assert 1 <= len(stream.finals) <= 3 and all(result.text for result in stream.finals)
    assert stream.text == "a b c"
    empty = recognizers[PREFIX_BEAM].create_stream()
    assert len(empty.finish()) == 1 and empty.finals == () and (empty.text, empty.result.is_final) == ("", True)


class Unread(str):
    def __len__(self) -> int:
        raise AssertionError("a partial read the text of a closed segment")


def test_a_partial_does_not_read_closed_segments(recognizers: dict[str, Recognizer]) -> None:
    stream = recognizers[PREFIX_BEAM].create_stream()
    stream.accept_waveform(speak("abcdabcd"))
    text = stream.text
    assert len(stream.finals) > 1
    stream._finals = [replace(result, text=Unread(result.text)) for result in stream._finals]
    assert stream.text == text


def test_finish_twice_and_audio_after_it(recognizers: dict[str, Recognizer]) -> None:
    stream = recognizers[PREFIX_BEAM].create_stream()
    stream.accept_waveform(SAMPLES)
    assert stream.finish() and stream.finish() == []
    with pytest.raises(ValueError, match="the audio of this stream has ended; create another stream"):
        stream.accept_waveform(SAMPLES)


def test_a_failing_with_block_does_not_finish(recognizers: dict[str, Recognizer]) -> None:
    stream = recognizers[PREFIX_BEAM].create_stream()
    with pytest.raises(KeyError), stream:
        raise KeyError
    assert stream.finals == ()


def test_refused_samples_leave_the_stream_as_it_was(recognizers: dict[str, Recognizer]) -> None:
    recognizer = recognizers[PREFIX_BEAM]
    stream, undisturbed = recognizer.create_stream(), recognizer.create_stream()
    stream.accept_waveform(SAMPLES[:3000], 16000)
    for samples, rate, message in (
        (np.array([np.nan], dtype=np.float32), 16000, "NaN"),
        (np.zeros(10, dtype=np.int64), 16000, "samples are int64"),
        (SAMPLES, 8000, "runs at 16000 Hz, found 8000 Hz"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.accept_waveform(samples, rate)
    stream.accept_waveform(SAMPLES[3000:], 16000)
    stream.finish()
    assert stream.finals == best_only(run(undisturbed, SAMPLES, [3000], 16000))


def test_chunks_that_the_model_was_not_trained_for(recognizers: dict[str, Recognizer]) -> None:
    recognizer = recognizers[PREFIX_BEAM]
    with pytest.raises(ValueError, match="chunk 5 with left context 4: .* choose one of 4/4, 8/2"):
        recognizer.create_stream(5)
    with pytest.raises(ValueError, match="chunk 4 with left context 2: .* choose one of 4/4, 8/2"):
        recognizer.create_stream(4, 2)
    with pytest.raises(ValueError, match="chunk 0 must be at least 1 frame"):
        recognizer.create_stream(0)
    stream = recognizer.create_stream(5, allow_untrained=True)
    run(stream, SAMPLES, [])
    assert stream.text == " ".join(TEXT.replace(" ", ""))


def test_streams_of_one_recognizer_in_several_threads(recognizers: dict[str, Recognizer]) -> None:
    recognizer, texts = recognizers[PREFIX_BEAM], {}

    def work(name: str) -> None:
        stream = recognizer.create_stream()
        run(stream, speak(name * 5), list(range(0, 5000, 700)))
        texts[name] = stream.text

    threads = [threading.Thread(target=work, args=(name,)) for name in ("ab", "cd", "da", "bc")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {name: " ".join(name * 5) for name in ("ab", "cd", "da", "bc")}


@pytest.mark.parametrize("kind, record", [("torchscript", meta_record()), ("onnx", onnx_record())])
def test_a_recognizer_checks_its_options_at_once(tmp_path: Path, kind: str, record: dict) -> None:
    path = SAVERS[kind](tmp_path / "model.zip", record | {"decoder": False, "reverse_decoder": False})
    with pytest.raises(ValueError, match="no attention decoder"):
        Recognizer(path, DecodingOptions("attention_rescoring"))
    assert Recognizer(str(path)).options.mode == PREFIX_BEAM


@pytest.mark.parametrize("mode", MODES)
def test_every_backend_gives_the_tokens_of_the_model_in_memory(recognizers: dict[str, Recognizer], mode: str) -> None:
    memory = Recognizer(make_model(), recognizers[mode].options)
    for chunk, left in memory.model.meta.chunkings:
        results = [run(each.create_stream(chunk, left), SAMPLES, [100, 4001]) for each in (memory, recognizers[mode])]
        expected, found = ([(r.text, [t[:4] for t in r.tokens]) for r in segments] for segments in results)
        assert found == expected
        assert " ".join(text for text, _ in found if text) == " ".join(TEXT.replace(" ", ""))


def test_a_model_that_does_not_fit_its_metadata_is_named(tmp_path: Path) -> None:
    path = save_archive(tmp_path / "model.zip", onnx_record() | {"frame_samples": 1})
    with pytest.raises(ValueError, match="model.zip: the model does not run as its meta.json describes it .*; export"):
        Recognizer(path)
