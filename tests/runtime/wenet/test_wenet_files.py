"""The files of a WeNet model, and the messages for files that users give by mistake."""

import io
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runtime.fake_model import save_model, write_zip
from support.wenet.fake_wenet import OLD_TOKENS, TOKENS, FakeWenet, Shape, speak
from support.wenet.wenet_exports import save_graphs, save_script, save_sherpa, write_recipe, write_units
from torch import nn
from wenet_fusion_runtime import DecodingOptions, HotWord, Recognizer, load_model
from wenet_fusion_runtime.model.metadata import TORCHSCRIPT
from wenet_fusion_runtime.model.wenet.unit_file import read_units
from wenet_fusion_runtime.model.wenet.wenet_files import GRAPHS, SCRIPTED, SHERPA

pytestmark = pytest.mark.usefixtures("float32")
READER = Shape(sharpness=4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_script(tmp_path_factory.mktemp("wenet"), FakeWenet(READER))


def test_each_kind_is_found_from_its_folder_and_its_file(folder: Path, tmp_path: Path) -> None:
    graphs = save_graphs(tmp_path / "graphs", FakeWenet(READER), 8, 2)
    sherpa = save_sherpa(tmp_path / "sherpa", FakeWenet(READER), 8, 2)
    for path, kind in (
        (folder, SCRIPTED),
        (folder / "final.zip", SCRIPTED),
        (graphs, GRAPHS),
        (graphs / "encoder.onnx", GRAPHS),
        (sherpa, SHERPA),
        (sherpa.parent, SHERPA),
    ):
        assert load_model(path).meta.kind == kind
    assert load_model(save_model(tmp_path / "final.zip")).meta.kind == TORCHSCRIPT
    assert load_model(tmp_path).meta.kind == TORCHSCRIPT  # a folder with a file of ours


def test_the_vocabulary_is_given_or_found(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "s0" / "exp" / "u2pp" / "final.zip"
    script.parent.mkdir(parents=True)
    script.write_bytes((folder / "final.zip").read_bytes())
    write_recipe(script.parent)
    with pytest.raises(FileNotFoundError, match="final.zip: has no vocabulary: copy the recipe's units.txt .*--units"):
        load_model(script)
    units = write_units(tmp_path / "elsewhere")
    expected = read_units(units)
    assert load_model(script, units=units).meta.vocabulary == expected
    write_recipe(script.parent, tokenizer_conf={"symbol_table_path": "data/dict/lang_char.txt"})
    with pytest.raises(FileNotFoundError, match="train.yaml names data/dict/lang_char.txt, which was not found"):
        load_model(script.parent)
    write_units(tmp_path / "s0" / "data" / "dict", name="lang_char.txt")
    assert load_model(script.parent).meta.vocabulary == expected
    with pytest.raises(ValueError, match="is not a model of WeNet: .*; leave .*units.txt out"):
        load_model(save_model(tmp_path / "ours.zip"), units=units)


def test_earlier_vocabularies_end_with_sos_eos(tmp_path: Path) -> None:
    folder = save_script(tmp_path, FakeWenet(READER, OLD_TOKENS))
    words = [HotWord("dab", 2.0)]
    recognizer = Recognizer(load_model(folder), DecodingOptions(hot_words=words))
    stream = recognizer.create_stream()
    stream.accept_waveform(speak("abcd"))
    stream.finish()
    assert stream.text == "abcd"
    vocabulary = recognizer.model.meta.vocabulary
    assert (vocabulary.id("a"), vocabulary.id("<sos/eos>"), vocabulary.text([6, 2, 6])) == (2, None, "a")


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "<blank> 0\n<unk> 1\na 3\n",
            "line 3 must be a token, a space and the number 2, found 'a 3'; give the units.txt",
        ),
        ("<unk> 0\n<blank> 1\n", "token 0 must be one of <blank>, <blk>, <eps>"),
        ("", "token 0 must be one of"),
        ("hello world\n", "line 1 must be a token"),
        ("<blank> 0\n<unk> 1\n\x1b[31m 2\n", r"line 3 must be a token, .* found '\\x1b\[31m 2'"),
        ("<blank> 0\n<unk> 1\n<sos/eos> 2\n", "has 3 tokens, but .*final.zip scores 7"),
        ("<blank> 0\n<unk> 1\n", "has 2 tokens, but the model ends a sentence with token 2"),
    ],
)
def test_other_vocabularies_are_refused(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "units.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_model(folder, units=tmp_path / "units.txt")


def test_units_of_any_script(tmp_path: Path) -> None:
    for tokens in (("<blk>", "<UNK>", "<sos/eos>", "\u4e2d", "1", "12", "\u2581the"), (*TOKENS, "'")):
        found = read_units(write_units(tmp_path, tokens))
        assert found.tokens[3:] == tokens[3:] and found.join == "pieces"
    spaced = read_units(write_units(tmp_path, (*TOKENS, "<space>")))
    assert spaced.text([3, 7, 4]) == "a b"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder_conf": {"use_dynamic_chunk": False}}, "trained on whole recordings .without use_dynamic_chunk."),
        ({"encoder_conf": {"output_size": 256}}, "trained on whole recordings"),
        ({"dataset_conf": {"feats_type": "log_mel_spectrogram"}}, "reads log_mel_spectrogram features"),
        ({"dataset_conf": {"fbank_conf": {"num_mel_bins": "many"}}}, "num_mel_bins must be a number of at least 1"),
        ({"dataset_conf": [1]}, "dataset_conf must hold settings, found"),
        ({"model_conf": {"reverse_weight": -1}}, "reverse_weight must be a number of at least 0, found '-1'"),
    ],
)
def test_recipes_that_cannot_be_streamed_are_refused(folder: Path, tmp_path: Path, changes: dict, message: str) -> None:
    script = tmp_path / "final.zip"
    script.write_bytes((folder / "final.zip").read_bytes())
    write_units(tmp_path)
    write_recipe(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"train.yaml: .*{message}"):
        load_model(script)


def test_a_recipe_of_a_static_chunk_sets_the_default(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "final.zip").write_bytes((folder / "final.zip").read_bytes())
    write_units(tmp_path)
    write_recipe(tmp_path, encoder_conf={"use_dynamic_chunk": False, "static_chunk_size": 12})
    meta = load_model(tmp_path).meta
    assert (meta.default_chunk, meta.left(12)) == (12, 43)
    (tmp_path / "train.yaml").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="train.yaml: is no YAML .*; copy it again, or leave it out"):
        load_model(tmp_path)


class OldWenet(nn.Module):
    """The encoder's method of WeNet 1."""

    @torch.jit.export
    def forward_encoder_chunk(
        self, xs: torch.Tensor, offset: int, required_cache_size: int, subsampling_cache: torch.Tensor
    ) -> torch.Tensor:
        return xs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Transducer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.joiner = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.joiner(x)


def wenet_checkpoint() -> dict[str, torch.Tensor]:
    return {f"{name}": torch.zeros(2) for name in ("encoder.global_cmvn.mean", "ctc.ctc_lo.weight")}


def test_damaged_bytes_are_not_read_as_xz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These bytes begin like an old xz file with a dictionary of 2 GiB, which its decoder would allocate."""
    monkeypatch.setattr(lzma, "LZMAFile", lambda *arguments, **more: pytest.fail("read as xz"))
    (tmp_path / "model.zip").write_bytes(bytes([0, 0, 0, 0, 0x80]) + bytes(8))
    with pytest.raises(ValueError, match=r"model.zip: "):
        load_model(tmp_path / "model.zip")


def test_files_given_by_mistake_are_explained(tmp_path: Path) -> None:
    torch.save(wenet_checkpoint(), tmp_path / "final.pt")
    torch.save({"model": {"joiner.weight": torch.zeros(1)}}, tmp_path / "icefall.pt")
    torch.jit.save(torch.jit.script(Transducer()), str(tmp_path / "jit_script.pt"))
    torch.jit.save(torch.jit.script(OldWenet()), str(tmp_path / "old.zip"))
    write_zip(tmp_path / "vosk.zip", {"vosk-model/am/final.mdl": b"x"})
    with tarfile.open(tmp_path / "model.nemo", "w:gz") as archive:
        entry = tarfile.TarInfo("./model_config.yaml")
        archive.addfile(entry, io.BytesIO())
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "train.yaml").touch()
    (tmp_path / "exp" / "final.pt").touch()
    (tmp_path / "vosk" / "am").mkdir(parents=True)
    (tmp_path / "vosk" / "graph").mkdir()
    (tmp_path / "icefall").mkdir()
    (tmp_path / "icefall" / "joiner-epoch-99.onnx").touch()
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "model.onnx").touch()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "final.pt").touch()
    export = (
        r"python wenet/bin/export_jit.py --config \S+train.yaml --checkpoint \S+final.pt --output_file \S+final.zip"
    )
    for name, kind, message in (
        ("final.pt", ValueError, f"is a checkpoint of WeNet; export it, in the folder of the recipe: {export}"),
        ("icefall.pt", ValueError, "is a model of icefall, which this runtime does not run: use sherpa-onnx"),
        ("jit_script.pt", ValueError, "is a model of icefall"),
        ("old.zip", ValueError, "WeNet's module has no subsampling_rate"),
        ("vosk.zip", ValueError, "is a Vosk .Kaldi. model"),
        ("model.nemo", ValueError, "is a NeMo model"),
        ("exp", OSError, f"holds WeNet's checkpoints, but no exported model; .*{export}"),
        ("vosk", OSError, "is a Vosk .Kaldi. model"),
        ("icefall", OSError, "is a model of icefall"),
        ("lone", OSError, "holds model.onnx, but no vocabulary: put its tokens.txt beside it, or give the file with"),
        ("weights", OSError, "holds final.pt, but no exported model; export it with WeNet's export_jit.py"),
        ("nothing", OSError, "is a directory; give the exported file in it"),
    ):
        with pytest.raises(kind, match=message) as error:
            load_model(tmp_path / name, units=write_units(tmp_path / "units") if name == "old.zip" else None)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)


def test_a_foreign_graph_is_named(tmp_path: Path, folder: Path) -> None:
    graphs = save_graphs(tmp_path, FakeWenet(Shape()), 8, 2)
    with pytest.raises(ValueError, match="ctc.onnx: is one of WeNet's three graphs: put encoder.onnx, .* give the"):
        load_model(graphs / "ctc.onnx")
    (graphs / "decoder.onnx").unlink()
    with pytest.raises(ValueError, match="encoder.onnx: is one of WeNet's three graphs"):
        load_model(graphs / "encoder.onnx")


def test_a_damaged_script_is_reported(tmp_path: Path, folder: Path) -> None:
    content = (folder / "final.zip").read_bytes()
    (tmp_path / "final.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="final.zip: is not an exported model, or is damaged"):
        load_model(tmp_path)
    (tmp_path / "final.zip").write_bytes(content.replace(b"data.pkl", b"dota.pkl"))
    write_units(tmp_path)
    with pytest.raises(ValueError, match="final.zip: .*cannot load it"):
        load_model(tmp_path)


def test_a_model_with_other_features_than_its_recipe(folder: Path) -> None:
    """The normalisation in the module shows the number of its features."""
    graphs = load_model(folder).backend.graphs
    module = nn.Module()
    module.encoder = nn.Module()
    module.encoder.global_cmvn = nn.Module()
    module.encoder.global_cmvn.register_buffer("mean", torch.zeros(40))
    assert graphs.bins() is None
    graphs.module = module
    assert graphs.bins() == 40


def test_samples_outside_of_the_range_are_clipped(folder: Path) -> None:
    recognizer = Recognizer(load_model(folder))
    stream = recognizer.create_stream()
    stream.accept_waveform(np.full(8000, 7.0, np.float32))
    assert stream.finish()[-1].end_seconds == pytest.approx(0.84)


class ReverbWenet(FakeWenet):
    """Rev.com's models name the categories of speech that their layers need."""

    @torch.jit.export
    def get_cat_labels(self) -> list[str]:
        return ["verbatim", "nonverbatim"]


def test_a_model_that_needs_categories_is_refused(tmp_path: Path) -> None:
    save_script(tmp_path, ReverbWenet(READER))
    with pytest.raises(
        ValueError, match="final.zip: is a model of Rev.com's Reverb, .*category .verbatim, nonverbatim"
    ):
        load_model(tmp_path)
