"""The import law: imports point down and stand on top of a file, few modules use torch.jit, importing does no work."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
RUNTIME, TOOLKIT, KERNELS = "wenet_fusion_runtime", "wenet_fusion", "wenet_fusion_kernels"

# A unit (a package, or a module beside the packages) may import itself and units of lower layers.
LAYERS = {
    KERNELS: -3,  # one unit
    f"{RUNTIME}.console": -2,
    f"{RUNTIME}.files": -1,
    f"{RUNTIME}.audio": 0,
    f"{RUNTIME}.results": 0,
    f"{RUNTIME}.search": 1,
    f"{RUNTIME}.model": 2,
    f"{RUNTIME}.stream": 3,
    f"{RUNTIME}.engine": 4,
    RUNTIME: 5,  # its __init__, which holds the public API
    f"{RUNTIME}.server": 6,
    f"{RUNTIME}.cli": 7,
    "config": 8,
    "provenance": 8,
    "ranks": 8,
    "model": 9,
    "scoring": 9,
    "text": 9,
    "data": 10,
    "training": 11,
    "recipe": 12,
    "migration": 13,
    "trained_model": 13,
    "evaluation": 14,
    "export": 15,
    TOOLKIT: 16,  # its __init__, which holds the public API
    "cli": 17,
}

# (module, imported package or module): why the import may be inside a function.
LATE = {
    ("wenet_fusion_runtime.files", "fcntl"): "Windows has none",
    ("wenet_fusion.evaluation.plotting", "matplotlib"): "an extra, for pictures only",
    ("wenet_fusion.evaluation.inspection", "matplotlib.colors"): "an extra, for pictures only",
    ("wenet_fusion_runtime.model.torch_backend", "torch"): "a device may run the other backend, and `info` needs none",
    ("wenet_fusion_runtime.model.onnx_backend", "onnxruntime"): "a device may run the other one; `info` needs none",
    ("wenet_fusion_runtime.model.wenet.kaldi_features", "kaldi_native_fbank"): "an extra, for WeNet's models only",
    ("wenet_fusion_runtime.model.wenet.recipe_settings", "yaml"): "an extra, for WeNet's models only",
    ("wenet_fusion_runtime.audio.containers.media_decoder", "av"): "an extra, for formats that libsndfile lacks only",
    ("wenet_fusion_runtime.audio.microphone", "sounddevice"): "an extra, for capturing from devices only",
    ("wenet_fusion_runtime.search.language_models.language_model", "kenlm"): "an extra, for binary files only",
    ("wenet_fusion_runtime.cli.serve", "wenet_fusion_runtime.server.server"): "needs an extra, for serving only",
    ("wenet_fusion_runtime.server.connection_limits", "resource"): "Windows has none",
    ("wenet_fusion_runtime.server.decoding.decoder_process", "resource"): "Windows has none",
    ("wenet_fusion_runtime.server.decoding.decoder_process", "av"): "an extra, imported once for all uploads",
    ("wenet_fusion.data.lists.lhotse_cuts", "lhotse"): "an extra, for manifests of lhotse only",
    ("wenet_fusion.data.sequential.byte_stream", "fsspec"): "an extra, for object stores only",
    ("wenet_fusion_runtime.cli.client", f"{RUNTIME}.server.websocket.websocket_client"): "needs an extra, for it only",
    ("wenet_fusion.training.progress.wandb_logger", "wandb"): "an extra, for runs that log there only",
    ("wenet_fusion.training.progress.mlflow_logger", "mlflow.entities"): "an extra, for runs that log there only",
    ("wenet_fusion.training.progress.mlflow_logger", "mlflow.tracking"): "an extra, for runs that log there only",
    **{("wenet_fusion.export.targets.onnx_graph", name): "an extra, for ONNX only" for name in ("onnx", "onnxruntime")},
}
RUNTIME_NEEDS = {"numpy", "soundfile", "soxr"}  # the packages that the runtime may require
# Modules that need an extra, with the packages that they import; only these modules and LATE may import them.
AIOHTTP = "server http.app http.body http.request_handler http.responses http.upload_answer http.uploads".split()
AIOHTTP += "openai.transcription_answer websocket.live_connection websocket.socket websocket.websocket_client".split()
BY_WAY = "connection_limits service http.server_info openai.realtime_connection websocket.connection".split()
EXTRAS = {
    **{f"wenet_fusion_runtime.server.{name}": {"aiohttp"} for name in (*AIOHTTP, "websocket.client_session")},
    **{f"wenet_fusion_runtime.server.{name}": set() for name in BY_WAY},
    "wenet_fusion_runtime.server.http.metrics": {"prometheus_client"},
}
JIT = {
    "wenet_fusion.model.streaming": "marks the methods that export scripts",
    "wenet_fusion.export.wenet_methods": "marks those that WeNet's runtime calls",
    "wenet_fusion.export.targets.torchscript": "writes the file",
    "wenet_fusion_runtime.model.torch_backend": "runs the file",
    "wenet_fusion_runtime.model.wenet.scripted_graphs": "runs WeNet's files",
}


class Module(NamedTuple):
    name: str
    tree: ast.Module

    @property
    def unit(self) -> str:
        return unit_of(self.name)


def unit_of(name: str) -> str:
    top, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    if not room or room.startswith("__") or top == KERNELS:
        return top
    return room if top == TOOLKIT else f"{top}.{room}"


def read_modules() -> list[Module]:
    modules = []
    for base, package in ((ROOT / "runtime/native", KERNELS), (ROOT / "runtime", RUNTIME), (ROOT, TOOLKIT)):
        for path in sorted((base / package).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules.append(Module(name, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return modules


class Import(NamedTuple):
    name: str  # dotted
    late: bool  # inside a function
    for_types: bool  # under TYPE_CHECKING


def imports(module: Module) -> Iterator[Import]:
    yield from _imports(module.tree, late=False, for_types=False)


def _imports(node: ast.AST, late: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, late, for_types) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            # `from package import module` names a module of the package or a value in it: both have the same unit.
            module = "." * child.level + (child.module or "")
            names = [f"{module}.{alias.name}" for alias in child.names] if module in (RUNTIME, TOOLKIT) else [module]
            yield from (Import(name, late, for_types) for name in names)
        else:
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            is_guard = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from _imports(child, late or is_function, for_types or is_guard)


def violations(modules: list[Module]) -> list[str]:
    """Every breach of the law, as text."""
    found = []
    for module in modules:
        for imported in imports(module):
            found += [f"{module.name}: {problem}" for problem in import_problems(module, imported)]
        found += [f"{module.name}: {problem}" for problem in [*jit_problems(module), *work_problems(module)]]
    return found


def import_problems(module: Module, imported: Import) -> Iterator[str]:
    top = imported.name.partition(".")[0]
    if imported.name.startswith("."):
        yield "relative import; write the whole name"
    may_wait = any(module.name == name and f"{imported.name}.".startswith(f"{late}.") for name, late in LATE)
    if imported.late and not may_wait:
        yield f"import of {imported.name} hides in a function"
    if imported.name in EXTRAS and module.name not in EXTRAS and not (may_wait or imported.for_types):
        yield f"{imported.name} needs an extra"
    if top in (RUNTIME, TOOLKIT, KERNELS):
        unit = unit_of(imported.name)
        if unit not in LAYERS:
            yield f"{imported.name} has no layer"
        elif unit != module.unit and LAYERS[unit] >= LAYERS[module.unit]:
            yield f"layer {LAYERS[module.unit]} imports {imported.name} of layer {LAYERS[unit]}"
    elif module.unit.startswith(RUNTIME) and not imported.for_types and not may_wait:
        installed = sys.stdlib_module_names | RUNTIME_NEEDS | EXTRAS.get(module.name, set())
        yield from [f"the runtime needs {imported.name}"] if top not in installed else []


def jit_problems(module: Module) -> Iterator[str]:
    if module.name not in JIT:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr == "jit":
                yield f"line {node.lineno} uses {ast.unparse(node)}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                prefix = getattr(node, "module", None)
                names = [f"{prefix}.{alias.name}" if prefix else alias.name for alias in node.names]
                if any(name.startswith("torch.jit") for name in names):
                    yield f"line {node.lineno} imports torch.jit"


def work_problems(module: Module) -> Iterator[str]:
    """A module's body defines; statements that do something are work."""
    harmless = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
    )
    for node in module.tree.body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_guard = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
        if not (isinstance(node, harmless) or is_docstring or is_guard):
            yield f"line {node.lineno} works at import: {ast.unparse(node).splitlines()[0]}"


def test_the_law_holds():
    modules = read_modules()
    assert violations(modules) == []
    assert {module.unit for module in modules} == set(LAYERS), "every unit has a layer, every layer's unit exists"


def test_every_exception_is_still_needed():
    modules = {module.name: module for module in read_modules()}
    for name, package in LATE:
        assert any(item.late and item.name.startswith(package) for item in imports(modules[name]))
    for name, packages in EXTRAS.items():
        found = {item.name.partition(".")[0] for item in imports(modules[name])}
        assert packages <= found and (packages or any(item.name in EXTRAS for item in imports(modules[name])))
    for name in JIT:
        assert any(isinstance(node, ast.Attribute) and node.attr == "jit" for node in ast.walk(modules[name].tree))


@pytest.mark.parametrize(
    "name, source, expected",
    [
        ("wenet_fusion.model.ctc", "import wenet_fusion.recipe", "layer 9 imports wenet_fusion.recipe of layer 12"),
        ("wenet_fusion.model.ctc", "from wenet_fusion import recipe", "layer 9 imports wenet_fusion.recipe"),
        ("wenet_fusion.model.ctc", "import wenet_fusion.text.tokenizer", "layer 9 imports wenet_fusion.text"),
        ("wenet_fusion.text.tokenizer", "import wenet_fusion.model.ctc", "layer 9 imports wenet_fusion.model"),
        ("wenet_fusion.config", "import wenet_fusion.provenance", "layer 8 imports wenet_fusion.provenance of layer 8"),
        ("wenet_fusion.data.sources", "if True:\n  from wenet_fusion.evaluation import run", "layer 10 imports"),
        ("wenet_fusion.data.sources", "class A:\n  def f():\n    import json", "import of json hides in a function"),
        ("wenet_fusion.data.lists.kaldi", "from . import sources", "relative import"),
        ("wenet_fusion.recipe", "from wenet_fusion import evaluate", "wenet_fusion.evaluate has no layer"),
        ("wenet_fusion.data.lists.kaldi", "from wenet_fusion.newcomer import x", "wenet_fusion.newcomer has no layer"),
        ("wenet_fusion.data.lists.kaldi", "import torch\nm = torch.jit.script(f)", "line 2 uses torch.jit"),
        ("wenet_fusion.data.lists.kaldi", "from torch import jit", "line 1 imports torch.jit"),
        (
            "wenet_fusion.data.lists.kaldi",
            "import torch\ntorch.manual_seed(1)",
            "line 2 works at import: torch.manual_seed(1)",
        ),
        ("wenet_fusion.data.lists.kaldi", "with open('x') as f:\n  y = f.read()", "line 1 works at import"),
        ("wenet_fusion_runtime.search.greedy", "import torch", "the runtime needs torch"),
        ("wenet_fusion_runtime.search.greedy", "import wenet_fusion_runtime.stream.blocks", "layer 1 imports"),
        ("wenet_fusion_runtime.server.websocket.protocol", "import aiohttp", "the runtime needs aiohttp"),
        ("wenet_fusion_runtime.cli.mic", "import wenet_fusion_runtime.server.http.app", "http.app needs an extra"),
        ("wenet_fusion_runtime.search.greedy", "import wenet_fusion.config", "layer 1 imports wenet_fusion.config"),
        ("wenet_fusion_kernels.sizes", "import wenet_fusion_runtime.files", "layer -3 imports"),
    ],
)
def test_a_seeded_bug_is_caught(name, source, expected):
    found = violations([Module(name, ast.parse(source))])
    assert any(expected in problem for problem in found), found


def test_innocent_sources_pass():
    source = (
        '"""Doc."""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n'
        "from wenet_fusion_runtime.results.vocabulary import BLANK\nX = 1\ndef f(): ...\nif __name__ == "
        "'__main__':\n    f()\n"
    )
    assert violations([Module("wenet_fusion_runtime.search.greedy", ast.parse(source))]) == []


IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def run_python(source, *arguments, cwd):
    environment = {
        "HOME": str(cwd),
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}",  # this tree, wherever another one is installed
        "TMPDIR": str(cwd),
    }
    command = [sys.executable, "-c", source, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_importing_everything_prints_nothing_and_writes_nothing(tmp_path):
    names = [module.name for module in read_modules() if module.unit != KERNELS]  # which may not be installed
    result = run_python(IMPORT_ALL, *names, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_runtime_imports_without_torch_and_without_the_toolkit(tmp_path):
    source = "import sys\nsys.modules.update(dict.fromkeys(['torch', 'torchaudio', 'wenet_fusion']))" + IMPORT_ALL
    names = [module.name for module in read_modules() if module.unit.startswith(RUNTIME)]
    result = run_python(source, *names, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    source = "import sys\nsys.modules.update(dict.fromkeys(['aiohttp', 'prometheus_client']))" + IMPORT_ALL
    result = run_python(source, *(name for name in names if name not in EXTRAS), cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    seeded = run_python(source, "wenet_fusion_runtime.server.service", cwd=tmp_path)
    assert "ModuleNotFoundError" in seeded.stderr
    source = "import sys\nsys.modules.update(dict.fromkeys(['torch', 'torchaudio', 'wenet_fusion']))" + IMPORT_ALL
    seeded = run_python(source, "wenet_fusion_runtime.cli.__main__", "wenet_fusion.recipe", cwd=tmp_path)
    assert "ModuleNotFoundError" in seeded.stderr
