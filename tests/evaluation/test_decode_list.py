"""Decode a list with a model that recognises letters by loudness: texts by key and condition, and resuming."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import torch
from conftest import changed
from support.runtime.fake_model import SAMPLE_RATE, make_model, speak
from wenet_fusion_runtime import DecodingOptions, Grammar, HotWord
from wenet_fusion_runtime.search.modes import GREEDY, PREFIX_BEAM

from wenet_fusion.data.lists.manifest import scan_manifest
from wenet_fusion.evaluation import decode_list as module
from wenet_fusion.evaluation.decode_list import Condition, Decoded, DecodedBatch, collect, decode_list, plan_batches
from wenet_fusion.evaluation.options import PLAIN, EvaluationOptions, Variant
from wenet_fusion.evaluation.run import fingerprint
from wenet_fusion.evaluation.stored_batches import StoredBatches
from wenet_fusion.model.chunking import Chunking, parse_chunking

TEXTS = {"long": "a b c d a b", "one": "c", "none": "", "two": "d a", "three": "b c d"}


@pytest.fixture
def recordings(tmp_path):
    """Recordings of letters, the last one damaged."""
    lines = []
    for key, text in TEXTS.items():
        soundfile.write(tmp_path / f"{key}.wav", speak(text.replace(" ", "")), SAMPLE_RATE, subtype="FLOAT")
        lines.append(json.dumps({"key": key, "wav": f"{key}.wav", "txt": text}))
    (tmp_path / "damaged.wav").write_bytes(b"no audio")
    lines.append(json.dumps({"key": "damaged", "wav": "damaged.wav", "txt": "a", "duration": 0.5}))
    (tmp_path / "data.list").write_text("\n".join(lines) + "\n")
    return scan_manifest(tmp_path / "data.list").utterances


def test_every_utterance_has_its_own_text_under_every_condition(recordings):
    model = make_model()
    options = EvaluationOptions((GREEDY, PREFIX_BEAM), (Chunking(8, 2), Chunking(4, 4)), max_batch_seconds=1.5)
    assert 2 <= len(plan_batches(recordings, 1.5)) < len(recordings)
    found = decode_list(model, recordings, options)
    assert set(found.tokens) == {
        Condition(mode, PLAIN, label) for mode in (GREEDY, PREFIX_BEAM) for label in ("8/2", "4/4")
    }
    for way in found.tokens:
        assert found.texts(way, model.meta.vocabulary) == TEXTS
        assert found.encoder_seconds[way] > 0 < found.search_seconds[way]
    assert list(found.unreadable) == ["damaged"] and "damaged.wav" in found.unreadable["damaged"]
    assert found.audio_seconds == pytest.approx(sum(item.seconds for item in recordings if item.key in TEXTS))


def test_conditions_are_not_mixed_up(recordings, monkeypatch):
    """The searches of each chunking get the scores of that chunking, and each variant gets its own options."""
    steps = []
    step = module.offline_step
    monkeypatch.setattr(module, "offline_step", lambda *args: steps.append(args[2:]) or step(*args))
    variants = (Variant(PLAIN, DecodingOptions()), Variant("hot", DecodingOptions(hot_words=(HotWord("a", 90.0),))))
    found = decode_list(
        make_model(), recordings, EvaluationOptions((PREFIX_BEAM,), (Chunking(8, 2), Chunking(4, 4)), variants)
    )
    assert steps == [(8, 2), (4, 4)]
    plain, hot = found.tokens[PREFIX_BEAM, PLAIN, "8/2"], found.tokens[PREFIX_BEAM, "hot", "8/2"]
    assert plain["one"] == [5] and hot["one"] != [5]


def test_a_plan_is_complete_and_the_same_every_time(recordings):
    plan = plan_batches(recordings, 1.5)
    assert sorted(item.key for batch in plan for item in batch) == sorted(item.key for item in recordings)
    assert plan == plan_batches(recordings, 1.5)
    assert max(map(len, plan_batches(recordings * 20, 1e9))) == module.MAX_ROWS


def test_batches_are_joined_in_any_order():
    def batch(number, keys, tokens):
        return DecodedBatch(
            number, keys, {f"bad{number}": "x"}, 1.0, [Decoded(GREEDY, PLAIN, "full", tokens, 2.0, 3.0)]
        )

    found = collect([batch(1, ["c"], [[3]]), batch(0, ["a", "b"], [[1], [2]])])
    way = Condition(GREEDY, PLAIN, "full")
    assert found.tokens == {way: {"c": [3], "a": [1], "b": [2]}} and set(found.unreadable) == {"bad0", "bad1"}
    assert (found.audio_seconds, found.encoder_seconds[way], found.search_seconds[way]) == (2.0, 4.0, 6.0)
    with pytest.raises(ValueError, match="shorter"):
        collect([batch(0, ["a", "b"], [[1]])])


def test_a_list_without_any_readable_recording_is_refused(recordings):
    damaged = [item for item in recordings if item.key == "damaged"]
    with pytest.raises(ValueError, match="no utterance could be read; the first problem: .*damaged.wav"):
        decode_list(make_model(), damaged, EvaluationOptions((GREEDY,), (Chunking(8, 2),)))


# ---- resuming


def test_progress_of_other_weights_is_not_used(trained, recordings, tmp_path):
    """If one bit of a weight changes under the same configuration, no decoded batch is reused."""
    options = EvaluationOptions((GREEDY,), (Chunking(8, 2),))
    before = fingerprint(trained, recordings, options)
    StoredBatches(tmp_path, before).keep(
        0, DecodedBatch(0, ["a"], {}, 1.0, [Decoded(GREEDY, PLAIN, "8/2", [[4]], 0.1, 0.1)])
    )
    assert before == fingerprint(changed(trained, lambda model: None), recordings, options), "a copy is the same model"

    def nudge(model):
        weight = list(model.parameters())[-1]
        weight.view(-1)[-1] = torch.nextafter(weight.view(-1)[-1], torch.tensor(np.inf))

    def nudge_statistics(model):
        value = next(value for name, value in model.named_buffers() if name.endswith("running_var"))
        value.view(-1)[0] += 1e-3

    for change in (nudge, nudge_statistics):
        other = changed(trained, change)
        assert other.config == trained.config
        after = fingerprint(other, recordings, options)
        assert after != before
        part = tmp_path / "unfinished" / "rank0.jsonl"
        kept = part.read_text()
        assert StoredBatches(tmp_path, after).resume() == []
        part.write_text(kept)
    assert [batch.keys for batch in StoredBatches(tmp_path, before).resume()] == [["a"]]


@pytest.mark.parametrize(
    "change",
    [
        {"modes": (PREFIX_BEAM,)},
        {"chunkings": (parse_chunking("4/4"),)},
        {"variants": (Variant(PLAIN, DecodingOptions(blank_penalty=1.0)),)},
        {"variants": (Variant(PLAIN, DecodingOptions(), "other.arpa (SHA-256 1)"),)},
        {"variants": (Variant(PLAIN, DecodingOptions(grammar=Grammar("one"))),)},
        {"max_batch_seconds": 7.0},
    ],
)
def test_progress_depends_on_every_setting(trained, recordings, change):
    options = EvaluationOptions((GREEDY,), (Chunking(8, 2),))
    assert fingerprint(trained, recordings, options) != fingerprint(
        trained, recordings, dataclasses.replace(options, **change)
    )
    assert fingerprint(trained, recordings, options) != fingerprint(trained, recordings[1:], options)


@pytest.mark.parametrize("change", [{"key": "other"}, {"start": 0.1}, {"end": 0.2}, {"channel": 2}])
def test_progress_depends_on_what_is_decoded_of_each_recording(trained, recordings, change):
    options = EvaluationOptions((GREEDY,), (Chunking(8, 2),))
    others = [dataclasses.replace(recordings[0], **change), *recordings[1:]]
    assert fingerprint(trained, recordings, options) != fingerprint(trained, others, options)


def test_progress_of_several_ranks_comes_back_in_the_order_of_the_plan(tmp_path):
    batches = [
        DecodedBatch(n, [f"u{n}"], {"x": "y"}, n / 2, [Decoded(GREEDY, PLAIN, "8/2", [[n]], 0.1, 0.2)])
        for n in range(4)
    ]
    stored = StoredBatches(tmp_path, "f")
    for n in (3, 0, 2, 1):
        stored.keep(n % 2, batches[n])
    assert StoredBatches(tmp_path, "f").resume() == batches == StoredBatches(tmp_path, "f").resume(), "resumed twice"
    with (tmp_path / "unfinished" / "earlier.jsonl").open("a") as file:
        file.write('{"number": 9, "ke')
    assert StoredBatches(tmp_path, "f").resume() == batches
    StoredBatches(tmp_path, "f").finish()
    assert list(tmp_path.iterdir()) == []
