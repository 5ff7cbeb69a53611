"""Stage 0 of the recipes for public corpora converts official layouts and lhotse's manifests to Kaldi's format."""

from pathlib import Path

import prepare_aishell
import prepare_librispeech
import prepare_manifests
import pytest
import soundfile
from support.recipes.corpus_layouts import write_aishell, write_librispeech_part

from wenet_fusion.data.lists.kaldi import read_table


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    for seed, part in enumerate(("train-clean-100", "train-other-500")):
        write_librispeech_part(tmp_path / "LibriSpeech" / part, 6, seed)
    return tmp_path / "LibriSpeech"


def test_parts_of_librispeech_become_one_set(librispeech: Path, tmp_path: Path) -> None:
    parts = [librispeech / "train-other-500", librispeech / "train-clean-100"]
    assert prepare_librispeech.main([*map(str, parts), str(tmp_path / "train")]) == 0
    scp, text, speakers = (read_table(tmp_path / "train" / name) for name in ("wav.scp", "text", "utt2spk"))
    assert list(scp) == list(text) == list(speakers) == sorted(scp) and len(scp) == 12
    assert set(speakers.values()) == {"0", "1", "10", "11"} and set(" ".join(text.values()).split()) == {
        "ONE", "TWO", "THREE"
    }  # fmt: skip
    for key, path in scp.items():
        assert Path(path).is_absolute() and Path(path).stem == key and soundfile.info(path).samplerate == 16000


def test_what_librispeech_lacks_is_named(librispeech: Path, tmp_path: Path) -> None:
    part, output = librispeech / "train-clean-100", tmp_path / "out"
    for folder, message in {librispeech: "has no SPEAKER/CHAPTER", tmp_path / "absent": "no such folder"}.items():
        with pytest.raises((OSError, ValueError), match=f"{message}.*give a part"):
            prepare_librispeech.main([str(folder), str(output)])
    with pytest.raises(ValueError, match=r"(?s)keys occur twice.*0-7-0000: .*"):
        prepare_librispeech.main([str(part), str(part), str(output)])
    (part / "0" / "7" / "0-7-0001.flac").rename(part / "0" / "7" / "0-7-0009.flac")
    with pytest.raises(
        ValueError, match=r"(?s)2 recordings or transcripts are missing.*0-7-0001 has no rec.*0-7-0009.flac: has no tr"
    ):
        prepare_librispeech.main([str(part), str(output)])
    assert not output.exists()


def test_the_sets_of_aishell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "data_aishell"
    write_aishell(corpus, {"train": 6, "dev": 3, "test": 2})
    soundfile.write(corpus / "wav" / "train" / "S0000" / "BAC009S0000W9999.wav", [0.0] * 160, 16000)
    assert prepare_aishell.main([str(corpus), str(tmp_path / "data")]) == 0
    assert "note: 1 recordings have no transcript" in capsys.readouterr().out
    tables = {name: read_table(tmp_path / "data" / name / "text") for name in ("train", "dev", "test")}
    assert [len(table) for table in tables.values()] == [6, 3, 2]
    assert set("".join(tables["train"].values())) <= set("一二三"), "without the spaces of the transcript"
    assert read_table(tmp_path / "data" / "dev" / "utt2spk")["BAC009S1000W0000"] == "S1000"


def test_letters_of_aishell_are_upper_case(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a 看 ｔ 恤 vip\n\n", encoding="utf-8")
    assert prepare_aishell.read_transcript(tmp_path / "t") == {"a": "看Ｔ恤VIP"}


def test_what_aishell_lacks_is_named(tmp_path: Path) -> None:
    corpus, output = tmp_path / "data_aishell", str(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="no such file; give the folder data_aishell"):
        prepare_aishell.main([str(corpus), output])
    write_aishell(corpus, {"train": 2, "dev": 1, "test": 1})
    (corpus / "wav" / "S0009.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="1 speakers are not unpacked"):
        prepare_aishell.main([str(corpus), output])
    (corpus / "wav" / "S0009.tar.gz").unlink()
    (lost,) = (corpus / "wav" / "train").glob("*/*W0001.wav")
    lost.unlink()
    with pytest.raises(ValueError, match="(?s)1 of 4 transcripts have no recording.*W0001"):
        prepare_aishell.main([str(corpus), output])
    assert not (tmp_path / "data").exists()
    (next((corpus / "wav" / "dev").glob("*/*.wav"))).unlink()
    with pytest.raises(FileNotFoundError, match="dev: has no SPEAKER"):
        prepare_aishell.main([str(corpus), output])


def test_lists_of_other_toolkits_become_kaldi_folders(tmp_path: Path) -> None:
    for number in range(2):
        soundfile.write(tmp_path / f"r{number}.wav", [0.1] * 16000, 16000)
    (tmp_path / "data.list").write_text(
        '{"key": "b", "wav": "r1.wav", "txt": "two", "start": 0.25, "end": 0.5, "speaker": "s"}\n'
        '{"key": "a", "wav": "r0.wav", "txt": "one"}\n'
    )
    assert prepare_manifests.main([str(tmp_path / "data.list"), str(tmp_path / "out")]) == 0
    content = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert content == {
        "wav.scp": f"a {tmp_path}/r0.wav\nb {tmp_path}/r1.wav\n",
        "text": "a one\nb two\n",
        "utt2spk": "a a\nb s\n",
        "segments": "a a 0.0 -1\nb b 0.25 0.5\n",
    }


def test_lhotse_prepares_what_the_official_layout_gives(librispeech: Path, tmp_path: Path) -> None:
    pytest.importorskip("lhotse", reason="lhotse is an optional extra")
    from lhotse.recipes.librispeech import prepare_librispeech as prepare

    prepare(librispeech, dataset_parts=["train-clean-100"], output_dir=tmp_path / "manifests")
    supervisions = tmp_path / "manifests" / "librispeech_supervisions_train-clean-100.jsonl.gz"
    prepare_manifests.main([str(supervisions), str(tmp_path / "ours")])
    prepare_librispeech.main([str(librispeech / "train-clean-100"), str(tmp_path / "official")])
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["text", "utt2spk", "wav.scp"]
    for name in ("wav.scp", "text", "utt2spk"):
        assert read_table(tmp_path / "ours" / name) == read_table(tmp_path / "official" / name)
