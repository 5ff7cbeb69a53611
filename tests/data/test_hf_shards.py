"""Datasets of Hugging Face become shards with unchanged audio and transcripts, from each of their forms on disk."""

import io
import sys

import numpy as np
import pytest
import soundfile
from support.recipes.scripts import load_script

from wenet_fusion.data.lists.manifest import read_manifest
from wenet_fusion.data.sources import read_samples

datasets = pytest.importorskip("datasets")
RATE = 8000
make_hf_shards = load_script("make_hf_shards")


def sound(number: int, form: str = "FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(number).uniform(-0.5, 0.5, 800 + number), RATE, format=form)
    return file.getvalue()


def rows(tmp_path) -> dict[str, list]:
    """Rows with audio inside the dataset, the last one beside it; one transcript is not in NFC, one is empty."""
    (tmp_path / "beside.wav").write_bytes(sound(3, "WAV"))
    audio = [{"bytes": sound(number), "path": f"{number}.flac"} for number in range(3)]
    audio += [{"bytes": None, "path": str(tmp_path / "beside.wav")}]
    return {"id": ["a", "b", "c", "d"], "sound": audio, "sentence": ["one", "\uff54wo", "", "three"]}


def saved(content: dict[str, list], folder, form: str) -> str:
    encoded = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({name: datasets.Value("string") for name in content} | {"sound": encoded})
    # Reading rows of Audio needs torchcodec, reading columns does not.
    dataset = datasets.Dataset.from_dict(content, features).cast_column("sound", datasets.Audio(decode=False))
    if form == "splits":
        datasets.DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(folder)
    elif form == "saved":
        dataset.save_to_disk(folder)
    else:
        folder.mkdir()
        dataset.to_parquet(folder / "train-00000-of-00001.parquet")
    return str(folder)


def pack(source: str, tmp_path, *options: str):
    arguments = [source, str(tmp_path / "shards"), str(tmp_path / "data.list"), "--audio", "sound"]
    assert make_hf_shards.main([*arguments, "--text", "sentence", *options]) == 0
    return read_manifest(tmp_path / "data.list", "shard")


@pytest.mark.parametrize("form, options", [("saved", ()), ("splits", ("--split", "train")), ("parquet", ())])
def test_shards_hold_the_audio_as_it_is_there(form, options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    content = rows(tmp_path)
    found = pack(
        saved(content, tmp_path / "dataset", form), tmp_path, "--key", "id", "--num_utts_per_shard", "3", *options
    )
    assert [(item.key, item.text) for item in found] == [("a", "one"), ("b", "two"), ("c", ""), ("d", "three")]
    assert [item.seconds for item in found] == [(800 + number) / RATE for number in range(4)]
    for item, audio in zip(found, content["sound"]):
        expected, _ = soundfile.read(io.BytesIO(audio["bytes"] or sound(3, "WAV")), dtype="float32")
        assert np.array_equal(read_samples(item, RATE), expected)
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'data.list'}: 4 utterances, 0.00 h in 2 shards\n"
    assert "note: 1 transcripts were normalised" in printed.err
    assert len(list((tmp_path / "shards").glob("*.tar"))) == len(list((tmp_path / "shards").glob("*.index"))) == 2
    for index in (tmp_path / "shards").glob("*.index"):
        index.unlink()
    assert read_manifest(tmp_path / "data.list", "shard") == found, "the index says what the tars hold"


def test_what_cannot_be_used_is_named(tmp_path):
    content = rows(tmp_path)
    content["id"][1] = "a"
    content["sound"][2] = {"bytes": b"no audio", "path": "2.flac"}
    content["sentence"][3] = None
    source = saved(content, tmp_path / "dataset", "saved")
    with pytest.raises(ValueError, match="3 utterances cannot be listed") as caught:
        pack(source, tmp_path, "--key", "id")
    for problem in ("a: key is there twice", "c: 2.flac: ", "d: has no transcript"):
        assert problem in str(caught.value)
    assert [item.key for item in pack(source, tmp_path, "--key", "id", "--allow_missing")] == ["a"]
    assert [item.key for item in pack(source, tmp_path, "--allow_missing")] == ["000000000", "000000001"]


def test_wrong_arguments_have_a_remedy(tmp_path, monkeypatch):
    content = rows(tmp_path)
    source = saved(content, tmp_path / "dataset", "splits")
    with pytest.raises(ValueError, match="give its split with --split, one of train, test"):
        pack(source, tmp_path)
    with pytest.raises(ValueError, match="has no column 'words'; give --key, one of id, sound, sentence"):
        pack(source, tmp_path, "--split", "train", "--key", "words")
    with pytest.raises(ValueError, match="nothing: cannot be opened as a dataset"):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        pack(str(tmp_path / "nothing"), tmp_path)
    marked = saved({**content, "sentence": ["one", "[noise]", "", ""]}, tmp_path / "marked", "saved")
    with pytest.raises(ValueError, match=r"row 1: 000000001 holds \[noise\]; choose with --special_tokens"):
        pack(marked, tmp_path)
    assert [item.text for item in pack(marked, tmp_path, "--special_tokens", "remove")] == ["one", "", "", ""]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"needs datasets .*: pip install 'wenet-fusion\[huggingface\]'"):
        pack(source, tmp_path)
