"""The layout stays readable: small folders, small files, one module per name, short signatures."""

import ast
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("wenet_fusion/", "runtime/wenet_fusion_runtime/")
SCRIPTS = ("tools/", "benchmarks/", "examples/")
MOST_MODULES, MOST_LINES, MOST_PARAMETERS, MOST_LOOSE, MOST_README = 15, 300, 8, 5, 150
CORE = ("model", "text", "data", "training", "config")
MOST_CORE_LINES = 10600


def tracked() -> list[Path]:
    """Return the Python files of the repository, relative to its root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        names = listed.stdout.split()
    else:  # an unpacked archive
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    return [Path(name) for name in names if (ROOT / name).is_file()]


def modules() -> list[Path]:
    """Return the files that are modules: all but packages' __init__ and __main__."""
    return [path for path in tracked() if not path.name.startswith("__")]


def test_no_folder_is_crowded() -> None:
    counts = Counter(str(path.parent) for path in modules())
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_the_toolkit_has_few_loose_files() -> None:
    loose = [path.name for path in tracked() if str(path.parent) == "wenet_fusion"]
    assert len(loose) <= MOST_LOOSE, loose


def test_no_two_modules_have_one_name() -> None:
    names = Counter(
        path.name for path in modules() if str(path).startswith((*PRODUCT, *SCRIPTS)) and path.name != "setup.py"
    )
    assert [name for name, count in names.items() if count > 1] == []
    names = Counter(path.name for path in modules() if str(path).startswith("tests/"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_is_long() -> None:
    lengths = {str(path): len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in tracked()}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_README


def test_the_core_stays_small() -> None:
    lines = 0
    for path in tracked():
        room = path.parts[1].removesuffix(".py") if path.parts[0] == "wenet_fusion" else ""
        lines += len((ROOT / path).read_text(encoding="utf-8").splitlines()) if room in CORE else 0
    assert 0 < lines <= MOST_CORE_LINES


def test_public_signatures_are_short() -> None:
    long = []
    for path in tracked():
        if not str(path).startswith((*PRODUCT, *SCRIPTS)):
            continue
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                count = len(names) - (names[:1] in (["self"], ["cls"]))
                if count > MOST_PARAMETERS:
                    long.append(f"{path}:{node.lineno} {node.name} has {count}")
    assert long == []
