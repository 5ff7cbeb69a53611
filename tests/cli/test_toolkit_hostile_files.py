"""Given a path to any kind of file, every verb ends with a message that names the path, without a traceback."""

import pytest
from support.runtime.hostile_files import write_hostile_files
from wenet_fusion_runtime.console import exit_status

from wenet_fusion.cli.__main__ import main

VERBS = {
    "configuration": "check data data.list --config {}",
    "list": "check data {} --config train.yaml",
    "vocabulary": "check data data.list --config train.yaml tokenizer.units={}",
    "sentencepiece model": "check data data.list --config train.yaml tokenizer.kind=bpe tokenizer.bpe_model={}",
    "checkpoint to check": "check model {}",
    "checkpoint to evaluate": "evaluate --checkpoint {} --data data.list --result_dir results",
    "checkpoint to align": "align {} --data data.list --output aligned",
    "checkpoint to export": "export {} out.zip",
    "file to inspect": "inspect {}",
    "run to average": "average --model_dir {} --train_data data.list --output out.pt",
    "results": "report {}",
}


@pytest.mark.parametrize("name", VERBS)
def test_a_path_to_any_other_file_gives_one_message(tone_run, tiny_units, tmp_path, capsys, monkeypatch, name):
    place, hostile = tmp_path / "place", tmp_path / "hostile"
    place.mkdir()
    hostile.mkdir()
    monkeypatch.chdir(place)
    (place / "train.yaml").write_text(f"tokenizer: {{units: {tiny_units}}}\n")
    (place / "data.list").write_text(tone_run.dev_list.read_text())
    for path in write_hostile_files(hostile):
        status = exit_status(lambda path=path: main([part.format(path) for part in VERBS[name].split()]))
        err = capsys.readouterr().err
        assert status == 1 and err.startswith("error: ") and len(err) < 9000, (path.name, err)
        assert path.name in err and "Traceback" not in err, (path.name, err)
