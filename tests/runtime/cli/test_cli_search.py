"""Arguments of the runtime's commands for the search: hot words, penalties, n-best."""

import json
from pathlib import Path

import pytest
import soundfile
from support.runtime.fake_model import SAMPLE_RATE, LoudnessModel, save_model, speak
from wenet_fusion_runtime import DecodingOptions, HotWord, Recognizer, load_language_model, load_model
from wenet_fusion_runtime.audio.reader import load_audio
from wenet_fusion_runtime.cli.__main__ import main
from wenet_fusion_runtime.search.modes import PREFIX_BEAM

ARPA = """\\data\\
ngram 1=4

\\1-grams:
-4\t<unk>
-99\t<s>
-1\t</s>
-0.1\td

\\end\\
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    save_model(path / "unsure.pt", module=LoudnessModel(sharpness=8.0))
    soundfile.write(path / "speech.wav", speak("a c"), SAMPLE_RATE)
    return path


def transcribe(folder: Path, *arguments: str) -> int:
    return main(["transcribe", str(folder / "unsure.pt"), str(folder / "speech.wav"), *arguments])


def expected(folder: Path, **options: object) -> str:
    """Return the text from Python for the same options."""
    if "language_model" in options:
        options["language_model"] = load_language_model(folder / options["language_model"])
    with Recognizer(load_model(folder / "unsure.pt"), DecodingOptions(**options)).create_stream() as stream:
        stream.accept_waveform(load_audio(folder / "speech.wav", SAMPLE_RATE))
    return stream.text + "\n"


@pytest.mark.parametrize(
    "arguments, options",
    [
        ("--hot_word b=2 --hot_word d=-3", {"hot_words": [HotWord("b", 2.0), HotWord("d", -3.0)]}),
        ("--hot_words {}/list.txt --hot_word d=-3", {"hot_words": [HotWord("b", 2.0), HotWord("d", -3.0)]}),
        ("--blank_penalty 6", {"blank_penalty": 6.0}),
        ("--length_penalty -4", {"length_penalty": -4.0}),
        ("--token_threshold 0.01", {"token_threshold": 0.01}),
        ("--confidence_threshold 1", {"confidence_threshold": 1.0}),
        ("--language_model {}/lm.arpa", {"language_model": "lm.arpa"}),
        (
            "--language_model {}/lm.arpa --lm_weight 0.2 --word_bonus 3",
            {"language_model": "lm.arpa", "lm_weight": 0.2, "word_bonus": 3.0},
        ),
    ],
)
def test_arguments_have_the_effect_of_the_options_in_python(
    folder: Path, arguments: str, options: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "lm.arpa").write_text(ARPA, encoding="utf-8")
    (folder / "list.txt").write_text("# of one line\nb\t2\n", encoding="utf-8")
    assert transcribe(folder, "--mode", PREFIX_BEAM, *arguments.format(folder).split()) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (expected(folder, mode=PREFIX_BEAM, **options), "") and out != expected(
        folder, mode=PREFIX_BEAM
    )


def test_the_command_skips_frames_as_the_option_in_python_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(folder / "surer.pt", module=LoudnessModel(sharpness=20.0))
    scores = []
    for arguments in ([], ["--blank_skip_threshold", "0.6"]):
        command = [
            "transcribe",
            str(folder / "surer.pt"),
            str(folder / "speech.wav"),
            "--format",
            "json",
            "--nbest",
            "7",
        ]
        assert main([*command, *arguments]) == 0
        scores.append([each["ctc_score"] for each in json.loads(capsys.readouterr().out)["hypotheses"]])
    recognizer = Recognizer(folder / "surer.pt", DecodingOptions(blank_skip_threshold=0.6))
    stream = recognizer.create_stream()
    stream.accept_waveform(load_audio(folder / "speech.wav", SAMPLE_RATE))
    assert scores[1] == [round(each.ctc_score, 4) for each in stream.finish()[-1].hypotheses] != scores[0]


def test_unusable_hot_words_are_listed_and_counted_and_the_others_are_used(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "mixed.txt"
    path.write_text("b\t2\ne\nd\t-3\nB\t1\nc\tlots\nb\t9\n", encoding="utf-8")
    assert transcribe(folder, "--mode", PREFIX_BEAM, "--hot_words", str(path), "--hot_word", "f g") == 1
    out, err = capsys.readouterr()
    assert out == expected(folder, mode=PREFIX_BEAM, hot_words=[HotWord("b", 2.0), HotWord("d", -3.0)])
    assert err.splitlines() == [
        f"error: {path}:5: hot word 'c' has boost 'lots', which is not a number",
        f"error: {path}:2: hot word 'e': no token is 'e'",
        f"error: {path}:4: hot word 'B': no token is 'B', but there are tokens for 'b'",
        f"error: {path}:6: hot word 'b': has boost 9 here, 2 before",
        "error: --hot_word: hot word 'f g': no token is 'f', 'g'",
        "error: 5 of 7 hot words cannot be used; going on without them",
    ]


def test_nbest_shows_hypotheses_and_their_scores(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert transcribe(folder, "--format", "json", "--nbest", "3", "--hot_word", "b=2", "--ctc_weight", "0.5") == 0
    record = json.loads(capsys.readouterr().out)
    best = record["hypotheses"]
    assert len(best) == 3 and best[0]["text"] == record["text"] and best[0]["context_score"] >= 2.0
    assert [each["score"] for each in best] == sorted((each["score"] for each in best), reverse=True)
    for each in best:
        added = each["context_score"] + each["lm_score"] + each["length_score"]
        assert each["score"] == pytest.approx(0.5 * each["ctc_score"] + each["attention_score"] + 1.5 * added, abs=1e-3)
    assert transcribe(folder, "--format", "json") == 0
    assert "hypotheses" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--nbest 3", "--nbest has no effect without --format json"),
        ("--format json --nbest 0", "nbest must be at least 1, found 0"),
        ("--format json --nbest 9", "nbest 9 is more than beam_size 7; choose a larger beam"),
        ("--beam_size 5000", "beam_size 5000 is larger than the vocabulary of 7 tokens; choose 7 or less"),
        ("--blank_penalty nan", "blank_penalty must be 0 to 1000, found nan"),
        ("--blank_skip_threshold 2", "blank_skip_threshold must be 0.5 to 1, found 2.0"),
        ("--hot_words none.txt", "error: none.txt: No such file or directory\n"),
        ("--hot_word a --mode ctc_greedy_search", "ctc_greedy_search keeps a single hypothesis"),
        ("--lm_weight 1 --word_bonus 1", "--lm_weight and --word_bonus have no effect without --language_model FILE"),
        ("--language_model none.arpa", "error: none.arpa: No such file or directory\n"),
        ("--word_bonus 1", "--word_bonus has no effect without --language_model FILE"),
        ("--language_model {}/cut.arpa", "/cut.arpa:9: the file ends before \\end\\; the file was cut off"),
        (
            "--language_model {}/upper.arpa",
            "upper.arpa ('D': no token is 'D', but there are tokens for 'd'); train it on",
        ),
        ("--language_model {}/lm.arpa --lm_weight -1", "lm_weight must be 0 to 1000, found -1.0"),
        ("--language_model {}/lm.arpa --mode ctc_greedy_search", "ctc_greedy_search keeps a single hypothesis"),
    ],
)
def test_bad_input_is_one_line(folder: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in {"lm": ARPA, "cut": ARPA[:-6], "upper": ARPA.replace("\td", "\tD")}.items():
        (folder / f"{name}.arpa").write_text(text, encoding="utf-8")
    assert transcribe(folder, *arguments.format(folder).split()) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and message in err and err.count("\n") == 1
