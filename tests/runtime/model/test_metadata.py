"""The metadata of an exported file: every field, and the message for a wrong one."""

from pathlib import Path

import pytest
from support.runtime.fake_model import FRAME, SAVERS, TOKENS, LoudnessModel, meta_record, onnx_record, speak
from wenet_fusion_runtime.model.acoustic_model import AcousticModel
from wenet_fusion_runtime.model.conformance import ModelFault
from wenet_fusion_runtime.model.metadata import StateTensor, parse_meta
from wenet_fusion_runtime.model.model_file import read_meta
from wenet_fusion_runtime.model.torch_backend import TorchBackend


@pytest.mark.parametrize("kind", SAVERS)
def test_meta_of_a_file(tmp_path: Path, kind: str) -> None:
    meta = read_meta(SAVERS[kind](tmp_path / "model.zip"))
    assert (meta.kind, meta.requires) == (f"wenet_fusion.{kind}", "onnxruntime" if kind == "onnx" else "none")
    assert (meta.sample_rate, meta.frame_samples, meta.chunk_sizes) == (8000, 320, (4, 8))
    assert (meta.default_chunk, meta.default_left, meta.left(4), meta.left(5)) == (8, 2, 4, 4)
    assert meta.frame_seconds == 0.04 and meta.vocabulary.tokens == tuple(TOKENS)
    for pair in meta.chunkings:
        meta.check_chunk(*pair)
    for chunk, left in ((5, 1), (4, 3), (4, 5), (8, 0)):
        meta.check_chunk(chunk, left, allow_untrained=True)
        with pytest.raises(ValueError, match=f"chunk {chunk} with left context {left}: .* choose one of 4/4, 8/2"):
            meta.check_chunk(chunk, left)
    meta.check_chunk(1, 0, allow_untrained=True)
    with pytest.raises(ValueError, match="left -1 at least 0 chunks"):
        meta.check_chunk(8, -1, allow_untrained=True)
    with pytest.raises(ValueError, match="chunk 0 must be at least 1"):
        meta.check_chunk(0, 1, allow_untrained=True)


def test_only_an_archive_describes_its_state() -> None:
    state = parse_meta(onnx_record(), "memory").state
    assert state[0] == StateTensor("samples", "float32", ("batch", 80)) and state[2].shape == ("batch", "cache")
    assert parse_meta(meta_record() | {"state": []}, "memory").state == ()


def test_defaults_of_rescoring_and_emission_delay_are_read() -> None:
    delay = {"start_shift_seconds": -0.3, "end_shift_seconds": 0.1}
    record = meta_record() | {"decoding": {"ctc_weight": 0.5, "reverse_weight": 0.25}, "word_times": delay}
    meta = parse_meta(record, "memory")
    assert (meta.ctc_weight, meta.reverse_weight) == (0.5, 0.25)
    assert (meta.emission_delay.start_shift_seconds, meta.emission_delay.end_shift_seconds) == (-0.3, 0.1)
    assert parse_meta(meta_record(), "memory").emission_delay == (0.0, 0.0)
    for name in delay:
        with pytest.raises(ValueError, match="must be seconds between -10 and 10"):
            parse_meta(record | {"word_times": delay | {name: 10.5}}, "memory")


def test_left_context_is_looked_up_for_trained_sizes() -> None:
    pairs = [{"size": 8, "left": 4}, {"size": 8, "left": 8}, {"size": 12, "left": 6}]
    meta = parse_meta(meta_record() | {"chunkings": pairs, "default_chunking": pairs[2]}, "memory")
    assert meta.chunk_sizes == (8, 12) and meta.chunkings == ((8, 4), (8, 8), (12, 6))
    assert [meta.left(8), meta.left(12), meta.left(6)] == [8, 6, 12]  # derived from the default, 8 would have 9


@pytest.mark.parametrize("key", list(onnx_record()))
def test_a_missing_key_is_named(key: str) -> None:
    record = onnx_record()
    del record[key]
    with pytest.raises(ValueError, match=f"model.pt: meta.json has no key '{key}'; export the model again"):
        parse_meta(record, "model.pt")


def test_a_record_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="model.pt: meta.json: .*; export the model again"):
        parse_meta(["a", "list"], "model.pt")
    with pytest.raises(ValueError, match="model.pt: meta.json: is a 'x', expected .*; export the model again"):
        parse_meta({"kind": "x"}, "model.pt")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 3}, "has format 3, expected 2; update wenet-fusion-runtime"),
        ({"format": 1}, "has format 1, expected 2; export the model again"),
        ({"format": "\n"}, r"has format '\\n', expected 2; export the model again"),
        ({"chunkings": []}, r"default_chunking \(8, 2\) is not among chunkings"),
        ({"kind": "other"}, "is a 'other', expected 'wenet_fusion.torchscript' or 'wenet_fusion.onnx'"),
        ({"kind": "\n"}, r"is a '\\n', expected 'wenet_fusion.torchscript' or"),
        ({"blank": "\n"}, r"found '\\n' and 2"),
        ({"blank": 5}, "blank and sos_eos must be 0 and 2, found 5 and 2"),
        ({"sample_rate": None}, "not 'NoneType'; export the model again"),
        ({"sample_rate": "fast"}, "invalid literal .* 'fast'; export the model again"),
        ({"units": ["a"]}, "tokens 0, 1, 2 must be"),
        ({"decoding": 1.0}, "not subscriptable"),
        ({"state": [["x", "float16", ["batch"]]]}, "state x has dtype 'float16', expected float32 or int64; export"),
        ({"state": [["x", "int64", [1]]]}, r"state x has shape \[1\], expected 'batch', then numbers or 'cache'"),
        ({"state": [["x", "int64", ["batch", "time"]]]}, r"state x has shape \['batch', 'time'\], expected"),
        ({"state": [["x", "int64", ["batch", 1 << 16, 1 << 16]]]}, "state x has shape .*, which is too large"),
        ({"state": [["x", "int64", ["batch", "cache", "cache"]]]}, "state x has shape .*, which is too large"),
        ({"sample_rate": 1}, "1 Hz is not accepted, expected 4000 to 384000 Hz"),
        ({"frame_samples": 1 << 22}, "a chunk and tail_samples must have at most 16777216 samples"),
        ({"chunkings": [{"size": 8, "left": 2}, {"size": 1 << 15, "left": 64}]}, "a left context 1048576 frames"),
        ({"decoding": {"ctc_weight": float("nan"), "reverse_weight": 0}}, "ctc_weight must be 0 to 1000, found nan"),
        ({"decoding": {"ctc_weight": -1, "reverse_weight": 0}}, "ctc_weight must be 0 to 1000, found -1"),
        ({"decoding": {"ctc_weight": 1, "reverse_weight": 1.5}}, "reverse_weight must be 0 to 1, found 1.5"),
        (
            {"reverse_decoder": False, "decoding": {"ctc_weight": 1, "reverse_weight": 0.5}},
            "reverse_weight must be 0 to 0, found 0.5",
        ),
        ({"decoder": "false"}, "decoder must be true or false, found 'false'; export"),
        (
            {"units": [*TOKENS[:6], "d\x1b[2J"]},
            r"units d\\x1b\[2J contains a control character; export the model again",
        ),
        ({"precision": "float32\n"}, r"precision float32\\n contains a control character"),
        ({"engine": "none\u2028"}, r"engine none\\u2028 contains"),
        ({"versions": {"torch\r": "1"}}, "versions .* contains"),
        ({"latency": {"8": [{"\x9b": 1}]}}, "latency .* contains"),
        ({"config": "model:\n\tlayers: \x00"}, r"config model:layers: \\x00 contains"),
        ({"x\ud800": 1}, "the key .* contains"),
        ({"state": [["x", "int64"]]}, "missing 1 required positional argument: 'shape'"),
    ],
)
def test_wrong_values_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_meta(onnx_record() | change, "model.pt")
    assert str(error.value).startswith("model.pt: meta.json: ")


def test_tokens_beyond_the_vocabulary_are_refused_in_files_of_earlier_versions() -> None:
    """Such a file states neither a checksum of its units nor the size of its head."""
    meta = parse_meta(meta_record() | {"units": meta_record()["units"][:4]}, "memory")
    model = AcousticModel(TorchBackend(LoudnessModel().eval()), meta)
    samples = speak("abcd")[None, : 8 * FRAME]
    with pytest.raises(ModelFault, match="in memory: .* .ids is 0 to 6, expected tokens of the 4 units.; export the"):
        model.step(samples, [8 * FRAME], 8, 2, model.init_state(1, 8, 2))


def test_line_ends_in_the_configuration_and_letters_of_all_scripts_are_no_control_characters() -> None:
    change = {"config": "model:\r\n\tlayers: 1\n", "units": [*TOKENS[:5], "\u0628\u200d", "\u0161\U0001f600"]}
    meta = parse_meta(meta_record() | change, "memory")
    assert meta.config == change["config"] and meta.vocabulary.tokens[6] == "\u0161\U0001f600"
