"""The page in Chromium, with a recording as its microphone, shows the text of the recording."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
from conftest import absent
from support.model.tones import HERTZ, RATE
from support.model.tones import speak as speak_tones
from support.runtime.browser import CutProxy, OpenPage, browser, drop, expect, gives_up, is_ready, missing, opened_pages
from support.runtime.server_process import ServerProcess
from wenet_fusion_runtime import Recognizer
from wenet_fusion_runtime.audio.reader import load_audio
from wenet_fusion_runtime.audio.resampling import Resampler

pytestmark = pytest.mark.slow

WORDS = "two one three three one two two three one".split()
DEVICE_RATE = 48000  # Hz, of the recording


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording: half a second for the browser to start, the words, and a pause that closes the segment.

    The noise fades in and out: the model was not trained on the digital silence that the browser adds around it.
    """
    rng = np.random.default_rng(3)
    before, after = (0.003 * rng.standard_normal(count).astype(np.float32) for count in (RATE // 2, 2 * RATE))
    before *= np.linspace(0, 1, before.size, dtype=np.float32) ** 2
    after *= np.linspace(1, 0, after.size, dtype=np.float32) ** 2
    samples = np.concatenate([before, speak_tones(WORDS, rng), after])
    path = tmp_path_factory.mktemp("speech") / "three tones.wav"
    soundfile.write(path, Resampler(RATE, DEVICE_RATE).process(samples, last=True), DEVICE_RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def text(tone_model: Path, speech: Path) -> str:
    """The text of the recording, without a browser."""
    stream = Recognizer(tone_model).create_stream()
    stream.accept_waveform(load_audio(speech, RATE))
    stream.finish()
    assert stream.text == " ".join(WORDS)
    return stream.text


@pytest.fixture(scope="module")
def server(tone_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without PyAV, which could read what the browser records."""
    folder = tmp_path_factory.mktemp("no_pyav")
    (folder / "av.py").write_text("raise ModuleNotFoundError(\"No module named 'av'\", name='av')\n")
    path = os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", "")))
    with ServerProcess(tone_model, "--example", "one & two", environment={"PYTHONPATH": path}) as started:
        yield started


@pytest.fixture(scope="module")
def chromium(speech: Path) -> Iterator[Any]:
    if reason := missing():
        absent(reason, "WENET_FUSION_REQUIRE_BROWSER")
    with browser(speech) as started:
        yield started


@pytest.fixture
def open_page(chromium: Any, server: ServerProcess) -> Iterator[OpenPage]:
    with opened_pages(chromium, server.url) as start:
        yield start


def test_the_page_suggests_a_sentence(open_page: OpenPage) -> None:
    assert open_page().locator("#example").inner_text() == "Say, for example: one & two"


def shown(page: Any) -> str:
    """The text of all closed segments of the last take."""
    return " ".join(page.locator(".take").last.locator("li p").all_text_contents())


def watched(page: Any) -> Callable[[], list[list[str]]]:
    """Record the text of the open segment; return a function that reads it: [final text, pale text], ..."""
    page.evaluate("""() => {
      window.shown = [];
      new MutationObserver(() => {
        const [row] = [...document.querySelectorAll(".open")].slice(-1);
        window.shown.push([".committed", ".tentative"].map((name) => row.querySelector(name).textContent));
      }).observe(document.getElementById("transcript"), { childList: true, subtree: true, characterData: true });
    }""")
    return lambda: page.evaluate("window.shown")


def frames_sent(page: Any) -> list[dict[str, Any]]:
    """A list to which every text message of the page's WebSockets is added."""
    sent: list[dict[str, Any]] = []
    page.on(
        "websocket",
        lambda socket: socket.on(
            "framesent", lambda data: sent.append(json.loads(data)) if isinstance(data, str) else None
        ),
    )
    return sent


def saved(page: Any, button: str) -> tuple[str, str]:
    """Name and content of the file that a button of the last take saves."""
    with page.expect_download() as download:
        page.locator(".take").last.locator(button).click()
    return download.value.suggested_filename, Path(download.value.path()).read_text(encoding="utf-8")


# ---- recognition


def test_the_text_of_the_microphone_is_that_of_the_file(open_page: OpenPage, speech: Path, text: str) -> None:
    page = open_page()
    shown_so_far = watched(page)
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_have_text("Listening")
    expect(page.locator("li p")).to_have_text(text)  # the pause closed the segment
    delay = float(page.locator("#delay").inner_text().removesuffix(" s"))
    assert 0 <= delay < 60 and page.locator("#time").inner_text() != "0:00"
    page.keyboard.press("Space")
    is_ready(page)
    assert shown(page) == text and page.locator(".open").is_hidden()
    drop(page, speech)
    expect(page.locator("h2").last).to_have_text(speech.name)
    expect(page.locator(".take").last.locator("li p")).to_have_text(text)
    is_ready(page)
    partials = [(firm, pale) for firm, pale in shown_so_far() if firm + pale]
    assert len({firm for firm, pale in partials if firm and pale}) >= 1  # final words beside words that may change
    assert all(text.startswith(firm) for firm, _ in partials)  # and final words stay


def test_stopping_early_loses_no_recorded_word(open_page: OpenPage) -> None:
    page = open_page()
    page.locator("#record").click()
    expect(page.locator(".open p")).to_contain_text("two one three three")
    page.locator("#record").click()
    is_ready(page)
    words = shown(page).split()
    assert words == WORDS[: len(words)] and len(words) >= 4


def test_a_slow_connection_loses_no_word(open_page: OpenPage, text: str) -> None:
    page = open_page(
        script="""window.WebSocket = class extends WebSocket {
      set onopen(begin) { super.onopen = () => setTimeout(begin, 2000); }
    }"""
    )
    page.locator("#record").click()
    expect(page.locator("li p")).to_have_text(text)


def test_words_that_were_shown_outlive_the_server(chromium: Any, tone_model: Path) -> None:
    with ServerProcess(tone_model) as server, opened_pages(chromium, server.url) as open_page:
        page = open_page()
        page.locator("#record").click()
        expect(page.locator(".open p")).to_contain_text("two one three")
        server.kill()
        gives_up(page)
        is_ready(page)
        words = shown(page).split()
        assert words == WORDS[: len(words)] and len(words) >= 3


def test_a_lost_connection_costs_no_word(chromium: Any, server: ServerProcess, text: str) -> None:
    with CutProxy(server.port) as proxy, opened_pages(chromium, proxy.url) as open_page:
        page = open_page()
        page.locator("#record").click()
        for words in ("two one", "two one three three one"):
            expect(page.locator(".open p")).to_contain_text(words)
            expect(page.locator("#status")).to_have_text("Listening")  # the connection is open
            assert proxy.cut() > 0
        expect(page.locator("li p")).to_have_text(text)
        expect(page.locator("#status")).to_have_text("Listening")
        assert page.get_by_role("alert").count() == 0


def test_options_reach_the_server(open_page: OpenPage, speech: Path, text: str) -> None:
    """Including a context, which is too long for a URL."""
    context = " ".join(["Then the talk turned to something else."] * 400)
    page = open_page(
        script="""window.forms = [];
      const send = window.fetch;
      window.fetch = (url, options) => {
        const fields = options && [...options.body].map(([name, value]) => [name, value.name ?? value]);
        if (fields) window.forms.push([new URL(url).search, fields]);
        return send(url, options);
      };"""
    )
    sent = frames_sent(page)
    page.locator("#more").click()
    assert page.locator("#chunk option").all_text_contents() == ["0.16 s", "0.32 s (default)"]
    page.locator("#chunk").select_option("4")
    page.locator("#hot-words").fill("two\n one three ,three")
    page.locator("#context").fill(f" {context}\n")
    page.locator("#record").click()
    expect(page.locator("li p")).to_have_text(text)
    page.locator("#record").click()
    is_ready(page)
    phrases = [{"phrase": "two"}, {"phrase": "one three"}, {"phrase": "three"}]
    assert sent == [
        {
            "signal": "start",
            "sample_rate": RATE,
            "timestamps": True,
            "continuous_decoding": True,
            "chunk": 4,
            "hot_words": phrases,
            "context": context,
        },
        {"signal": "end"},
    ]
    drop(page, speech)
    is_ready(page)
    expect(page.locator(".take").last.locator("li p")).to_have_text(text)
    written = {"chunk": "4", "hot_words": json.dumps(phrases, separators=(",", ":")), "context": json.dumps(context)}
    ((query, form),) = page.evaluate("window.forms")
    assert query == "?stream=true" and form == [*map(list, written.items()), ["file", speech.name]]
    page.locator("#hot-words").fill("seventeen")
    page.locator("#record").click()
    expect(page.get_by_role("alert")).to_contain_text("seventeen")  # the server's message names it
    expect(page.get_by_role("alert").locator(".title")).to_have_text("The server does not accept these options")


# ---- files


def test_text_can_be_copied_and_saved(open_page: OpenPage, server: ServerProcess, speech: Path, text: str) -> None:
    page = open_page(permissions=("clipboard-read", "clipboard-write"))
    page.locator("#file").set_input_files(speech)
    expect(page.locator("li p")).to_have_text(text)
    is_ready(page)
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"{text}\n"
    assert saved(page, ".txt") == ("three tones.txt", f"{text}\n")
    request = Request(f"{server.url}transcribe?format=srt", speech.read_bytes(), method="POST")
    with urlopen(request, timeout=30) as response:
        assert saved(page, ".srt") == ("three tones.srt", response.read().decode())


def test_formats_that_only_the_browser_knows(open_page: OpenPage) -> None:
    """The browser records tones as WebM, which a server without PyAV cannot read: the browser decodes it."""
    page = open_page()
    page.evaluate(
        """async (tones) => {
      const context = new AudioContext();
      const [tone, target] = [context.createOscillator(), context.createMediaStreamDestination()];
      const loudness = new GainNode(context, { gain: 0 });
      tone.connect(loudness).connect(target);
      const recorder = new MediaRecorder(target.stream, { mimeType: "audio/webm" });
      const pieces = [];
      recorder.ondataavailable = ({ data }) => pieces.push(data);
      const ended = new Promise((resolve) => (recorder.onstop = resolve));
      recorder.start();
      tone.start();
      let time = context.currentTime + 0.4;
      for (const hertz of tones) {
        tone.frequency.setValueAtTime(hertz, time);
        loudness.gain.setValueCurveAtTime([0, 0.15, 0.3, 0.15, 0], time, 0.18);
        time += 0.35;
      }
      await new Promise((resolve) => setTimeout(resolve, 1000 * (time - context.currentTime) + 400));
      recorder.stop();
      await ended;
      const data = new DataTransfer();
      data.items.add(new File(pieces, "tones.webm", { type: "audio/webm" }));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }""",
        [HERTZ["two"], HERTZ["three"], HERTZ["one"]],
    )
    expect(page.locator("li p")).to_have_text("two three one")
    is_ready(page)
    assert page.errors.pop().startswith("Failed to load resource") and page.errors == []  # the server's refusal


def test_a_file_that_nobody_can_read(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page()
    path = tmp_path / "notes.txt"
    path.write_text("no sound")
    drop(page, path, "text/plain")
    expect(page.get_by_role("alert")).to_contain_text("notes.txt could not be read")
    is_ready(page)
    assert page.locator(".take").count() == 0 and page.locator("#intro").is_visible()
    assert page.errors.pop().startswith("Failed to load resource") and page.errors == []
