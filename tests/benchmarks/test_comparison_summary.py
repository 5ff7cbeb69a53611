"""The comparison of the paper's models: its tables hold all finished runs, and the document quotes them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the benchmarks need onnxruntime, an optional extra")
import comparison
from parts.comparison.comparison_page import quote
from parts.comparison.execution import Worker, run_tasks
from parts.comparison.grid import plan
from parts.comparison.outcomes import RunFolders
from parts.comparison.seed_intervals import Errors, evaluation_record, read_errors, relative_difference, seed_interval
from parts.comparison.study import CONFIGURATIONS
from support.recipes.comparison_runs import FakeCommand, small_study, write_results, write_times

from wenet_fusion.config import to_yaml
from wenet_fusion.scoring.error_rate import score

ROOT = Path(__file__).parents[2]


def test_an_interval_of_one_seed_is_that_of_its_utterances() -> None:
    rng = np.random.default_rng(0)
    references = {f"u{n}": "a b c d e" for n in range(200)}
    wrong = {key: " ".join(rng.choice(list("abcde"), 5)) for key in references}
    scoring = score(references, wrong)
    errors = np.array([[utterance.counts.errors for utterance in scoring.utterances]])
    rate = seed_interval(Errors(errors, np.full(200, 5)))
    expected = scoring.interval()
    assert rate.mean == scoring.total.rate and rate.interval == pytest.approx(expected, abs=0.01)


def test_an_interval_covers_seeds_that_differ() -> None:
    """Two seeds with rates of 0 and 20 %: utterances alone would give no width at all."""
    errors = Errors(np.array([[0] * 100, [1] * 100]), np.full(100, 5))
    rate = seed_interval(errors)
    assert rate.mean == 0.1 and rate.interval == (0.0, 0.2) and rate.seeds == 2


def test_a_difference_is_paired_over_utterances() -> None:
    """Ours makes 10 % more errors in every utterance: only a paired bootstrap finds this without noise."""
    hard = np.random.default_rng(1).integers(0, 100, size=300)
    ours, baseline = (
        Errors(np.array([11 * hard]), np.full(300, 1000)),
        Errors(np.array([10 * hard]), np.full(300, 1000)),
    )
    rate = relative_difference(ours, baseline)
    assert rate.mean == pytest.approx(0.1) and rate.interval == pytest.approx((0.1, 0.1))


def test_different_test_sets_are_refused(tmp_path: Path) -> None:
    for name, errors in (("a", [1, 0]), ("b", [1, 0, 0])):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, errors)
        (tmp_path / f"{name}.json").write_text(evaluation_record(tmp_path / name))
    with pytest.raises(ValueError, match="hold different test sets"):
        read_errors([tmp_path / "a.json", tmp_path / "b.json"])
    (tmp_path / "a.json").write_text('{"keys": ["u')
    with pytest.raises(ValueError, match=r"a\.json: not the errors of a test set .*; delete it"):
        read_errors([tmp_path / "a.json"])


def test_a_record_holds_the_errors_in_any_order_of_utterances(tmp_path: Path) -> None:
    for name, errors in (("a", [1, 0, 2]), ("b", [0, 3, 1])):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, errors)
    lines = (tmp_path / "b" / "utterances.jsonl").read_text().splitlines(keepends=True)
    shuffled = [lines[index] for index in np.random.default_rng(0).permutation(len(lines))]
    (tmp_path / "b" / "utterances.jsonl").write_text("".join(sorted(shuffled, key=lambda line: "full" in line)))
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(evaluation_record(tmp_path / name))
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    found, other_way = read_errors(paths), read_errors(paths[::-1])
    condition = ("attention_rescoring", "16/4")
    assert found[condition].errors_SU.tolist() == [[1, 0, 2], [0, 3, 1]]
    assert found.keys() == other_way.keys() and other_way[condition].errors_SU.sum(1).tolist() == [4, 3]


def summarise(study, tmp_path: Path, *options: object) -> int:
    (tmp_path / "study.yaml").write_text(to_yaml(study))
    command = ["summarise", "--study", tmp_path / "study.yaml", "--folder", tmp_path / "exp", "--name", "toy"]
    return comparison.main([*map(str, [*command, "--output", tmp_path / "results", *options])])


def test_before_any_run_the_page_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summarise(small_study(tmp_path), tmp_path) == 0
    text = capsys.readouterr().out
    assert "0 of about 51 trainings have finished" in text
    assert "| FusionFormer | 0 of 4 runs | – | – | – | – | – | – | – |" in text


def test_the_page_holds_every_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, folders = small_study(tmp_path), RunFolders(tmp_path / "exp")
    seconds = {item.folder: 0.5 for item in CONFIGURATIONS} | {"fusionformer": 0.4}
    write_times(folders.times_path("toy"), seconds)

    def wer(folder: Path) -> float | None:
        return None if folder.parent.name == "no_norms" else abs(float(folder.name[4:].split("_")[0]) - 0.002) + 0.01

    assert run_tasks(study, folders, Worker(study, tmp_path, folders, FakeCommand(wer)).do, 1, lambda line: None) == {}
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- comparison_toy -->\n<!-- end -->\nafter\n")
    assert summarise(study, tmp_path, "--page", page) == 0
    text = (tmp_path / "results" / "comparison_toy.md").read_text()
    assert (
        "| FusionFormer | 0.002, 10 | 0 of 4 | 5.00 (0.00–15.00) | +0 (+0 to +0) | 5.00 (0.00–15.00) | 1.00 M |" in text
    )
    assert "| 0.80 / 0.80 | 0.80 |" in text  # ratios to the baseline of a step at both chunk sizes, and of an update
    assert "| norms removed | all runs diverged | 7 of 7 |" in text and "diverged: loss or gradient not finite" in text
    assert "| BatchNorm in LayerNorm's places | 0.002, 10 |" in text and "| not exported |" in text
    assert "| FusionFormer | 3 | 50 |" in text  # at equal time
    record = json.loads((tmp_path / "results" / "comparison_toy.json").read_text())
    ours = record["sizes"]["toy"]["configurations"]["fusionformer"]
    assert ours["choice"]["rate"] == 0.002 and ours["equal_time"]["updates"] == 50
    course = next(item["course"] for item in ours["grid"] if item["rate"] == 0.002)
    assert course["gradients"] == {"median": 2.0, "percentile_99": 2.0, "clipped": 0.0}
    assert course["losses"][:2] == [{"step": 1, "value": 9.0}, {"step": 2, "value": 4.5}]
    assert course["dev_wers"] == [{"step": 40, "value": 0.01}]
    quoted = page.read_text()
    assert quoted.startswith("before\n<!-- comparison_toy -->\n") and quoted.endswith("\n<!-- end -->\nafter\n")
    inner = quoted.removeprefix("before\n<!-- comparison_toy -->\n").removesuffix("\n<!-- end -->\nafter\n")
    assert inner in text and inner in capsys.readouterr().out


@pytest.mark.slow
def test_the_picture_is_drawn_from_what_has_finished(tmp_path: Path) -> None:
    """Some runs are missing, and one has diverged before its first validation."""
    study, folders = small_study(tmp_path, equal_time=False), RunFolders(tmp_path / "exp")
    command = FakeCommand(lambda folder: None if folder.parent.name == "no_norms" else 0.05)
    doing = Worker(study, tmp_path, folders, command)
    for task in plan(study, folders).tasks[::3]:
        doing.do(task)
    assert summarise(study, tmp_path, "--picture", tmp_path / "picture.png") == 0
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing\n")
    with pytest.raises(ValueError, match=r"page\.md: no place for the table"):
        quote(tmp_path / "page.md", "toy", "text")


def test_the_document_quotes_the_results_as_they_are() -> None:
    """A table in docs/comparison.md that differs from the results page is stale."""
    text = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    quoted = re.findall(r"<!-- (comparison_\w+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert quoted
    for name, table in quoted:
        assert table in (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8"), (
            f"run benchmarks/comparison.py summarise --page docs/comparison.md for {name}"
        )
