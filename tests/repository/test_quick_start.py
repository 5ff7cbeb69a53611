"""The README's commands as a newcomer runs them, with the runtime alone, installed by pip into a new environment."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from conftest import absent
from support.model.tones import write_speech
from support.runtime import server_process
from support.runtime.browser import browser, drop, expect, is_ready, opened_pages
from support.runtime.browser import missing as browser_missing
from support.runtime.server_process import ServerProcess
from virtual_microphone import RATE
from virtual_microphone import main as play_into
from virtual_microphone import missing as microphone_missing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROGRAM = "wenet-fusion-runtime"
WORDS = "two one three three one two".split()
TEXT = " ".join(WORDS)


def can_build() -> bool:
    """Return whether this environment can build wheels, so that pip need not download a build tool."""
    return (
        subprocess.run([sys.executable, "-c", "import setuptools.command.bdist_wheel"], capture_output=True).returncode
        == 0
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of the installed command. Programs that the tests start find this command, but no sources.

    The new environment uses the packages of this one that the runtime needs: installing torch again would take minutes.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", symlinks=os.name != "nt")  # without pip, which takes seconds
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    # Python does not run the .pth files of folders that this .pth adds, so editable installations are not found.
    packages = {sysconfig.get_paths()[name] for name in ("purelib", "platlib")}
    Path(site.stdout.strip(), "packages.pth").write_text("\n".join(packages))
    # Copy the sources, because pip builds in their folder.
    shutil.copytree(ROOT / "runtime", folder / "runtime", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--disable-pip-version-check",
        "--no-deps",
        "--ignore-installed",
        *(["--no-build-isolation"] if can_build() else []),
        folder / "runtime",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        absent(f"pip cannot install the runtime here: {result.stderr[-500:]}", "WENET_FUSION_REQUIRE_INSTALL")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        patch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setattr(server_process, "PROGRAM", [str(scripts / PROGRAM)])
        yield scripts


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of the words at a microphone's rate."""
    return write_speech(tmp_path_factory.mktemp("speech") / "speech.wav", WORDS, RATE)


def readme_commands() -> dict[str, list[str]]:
    """The README's uses of the runtime, `$ wenet-fusion-runtime NAME ...`: arguments and output by NAME."""
    lines = re.findall(rf"^\$ {PROGRAM} (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {words[0]: words[1:] for words in map(shlex.split, lines)}


def as_in_readme(name: str, model: Path, recording: Path, address: str = "") -> list[str]:
    """A command of the README with another model, recording and address."""
    changes = {"$M": str(model), "localhost:10086": address}
    return [
        name,
        *(str(recording) if word.endswith(".wav") else changes.get(word, word) for word in readme_commands()[name]),
    ]


def test_the_readme_shows_the_commands_and_the_tutorial_what_they_print() -> None:
    assert set(readme_commands()) == {"transcribe", "mic", "serve", "client"}
    readme, tutorial = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/tutorial.md"))
    for said in ("listening to 1 'default'", "nothing lost", "listening on http://127.0.0.1:10086/", "last text 0."):
        assert re.search(rf"^.*{re.escape(said)}.*$", tutorial, re.MULTILINE), said
    assert "(docs/page.png)" in readme and (ROOT / "docs" / "page.png").stat().st_size > 10_000


def test_what_runs_is_what_was_installed(installed: Path) -> None:
    command = [installed / "python", "-c", "import wenet_fusion_runtime; print(wenet_fusion_runtime.__file__)"]
    result = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()).is_relative_to(installed.parent)


def test_the_extra_of_the_native_step_installs_the_folder_beside_it(installed: Path) -> None:
    command = [
        installed / "python",
        "-c",
        "from importlib.metadata import requires; print(requires('wenet-fusion-runtime'))",
    ]
    result = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=True)
    assert f"wenet-fusion-kernels @ {(installed.parents[1] / 'runtime' / 'native').as_uri()} ; " in result.stdout


def test_transcribe(installed: Path, tone_model: Path, speech: Path) -> None:
    command = as_in_readme("transcribe", tone_model, speech)
    result = subprocess.run([installed / PROGRAM, *command], capture_output=True, text=True)
    count = command.count(str(speech))
    assert (result.returncode, result.stdout) == (0, f"{speech}\t{TEXT}\n" * count) and count == 2, result.stderr


def test_mic(installed: Path, tone_model: Path, speech: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if reason := microphone_missing():
        absent(reason, "WENET_FUSION_REQUIRE_AUDIO")
    command = as_in_readme("mic", tone_model, speech)
    assert play_into(["--gap", "0", "--play", str(speech), "--", str(installed / PROGRAM), *command]) == 0
    out, err = capfd.readouterr()
    assert out.split() == WORDS
    assert "listening to 1 'default' (ALSA), 44100 Hz; Ctrl-C ends\n" in err and err.endswith(
        " s of audio, nothing lost\n"
    )


def test_serve_and_client(installed: Path, tone_model: Path, speech: Path) -> None:
    assert as_in_readme("serve", tone_model, speech) == ["serve", str(tone_model)]
    with ServerProcess(tone_model) as server:
        for path, kind in (("", "text/html"), ("app.js", "text/javascript"), ("recorder.js", "text/javascript")):
            with urlopen(server.url + path, timeout=30) as answer:
                assert answer.headers["Content-Type"].startswith(kind)
        command = as_in_readme("client", tone_model, speech, f"localhost:{server.port}")
        result = subprocess.run([installed / PROGRAM, *command], capture_output=True, text=True)
        assert (result.returncode, result.stdout) == (0, f"{TEXT}\n"), result.stderr
        assert " s of audio, text 0." in result.stderr and result.stderr.endswith(" s after the end\n")
        with urlopen(f"{server.url}transcribe?format=text", speech.read_bytes(), timeout=30) as answer:
            assert answer.read().decode() == f"{TEXT}\n"
        server.stop()
        assert server.wait() == 0


def test_the_page_of_the_installed_server(installed: Path, tone_model: Path, speech: Path) -> None:
    if reason := browser_missing():
        absent(reason, "WENET_FUSION_REQUIRE_BROWSER")
    with ServerProcess(tone_model) as server, browser() as chromium, opened_pages(chromium, server.url) as open_page:
        page = open_page()
        drop(page, speech)
        expect(page.locator("li p")).to_have_text(TEXT)
        is_ready(page)
