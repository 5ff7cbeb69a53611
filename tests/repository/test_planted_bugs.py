"""The list of planted bugs fits the sources: every bug can still be planted, and its tests exist."""

import shlex

from support.repository.plant_bugs import ROOT, read_bugs


def test_every_bug_can_be_planted() -> None:
    bugs = read_bugs()
    assert len(bugs) >= 40
    stale = [f"{bug.file}: {bug.name}" for bug in bugs if (ROOT / bug.file).read_text("utf-8").count(bug.find) != 1]
    assert stale == []
    assert [bug.name for bug in bugs if bug.find == bug.replace] == []
    files = {word for bug in bugs for word in shlex.split(bug.tests) if word.startswith("tests/")}
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    assert len({bug.name for bug in bugs}) == len(bugs)
