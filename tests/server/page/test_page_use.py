"""The page in Chromium: keys, error messages, phones, colours, and the server's content policy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from conftest import absent
from support.runtime.browser import INSECURE, OpenPage, browser, drop, expect, gives_up, is_ready, missing, opened_pages
from support.runtime.fake_model import SAMPLE_RATE, speak
from support.runtime.server_process import ServerProcess

pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}
WIDTH = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if reason := missing():
        absent(reason, "WENET_FUSION_REQUIRE_BROWSER")
    with browser() as started:
        yield started


@pytest.fixture
def open_page(chromium: Any, server: ServerProcess) -> Iterator[OpenPage]:
    with opened_pages(chromium, server.url) as start:
        yield start


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "abc.wav"
    soundfile.write(path, speak("abc"), SAMPLE_RATE, subtype="PCM_16")
    return path


def focused(page: Any) -> str:
    return page.evaluate(
        "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
    )


def outline(page: Any) -> str:
    return page.evaluate("getComputedStyle(document.activeElement).outlineStyle")


# ---- keys


def test_everything_works_from_the_keyboard(open_page: OpenPage, recording: Path) -> None:
    page = open_page()
    order = []
    for _ in range(3):
        page.keyboard.press("Tab")
        order.append(focused(page))
        assert outline(page) == "solid"
    assert order == ["record", "choose", "more"] and page.locator("#example").is_hidden()
    page.keyboard.press("Enter")
    assert page.locator("#options").is_visible() and focused(page) == "chunk"
    page.keyboard.press("Tab")
    page.keyboard.type("a b")  # Space writes a space here
    assert page.locator("#hot-words").input_value() == "a b" and page.locator("#status").inner_text() == "Ready"
    page.keyboard.press("Escape")
    assert page.locator("#options").is_hidden() and focused(page) == "more"
    page.locator("#hot-words").evaluate("(field) => (field.value = '')")
    for start, stop in (("Enter", "Enter"), ("Space", "Space"), ("Enter", "Escape")):
        page.locator("#record").focus()
        page.keyboard.press(start)
        expect(page.locator("#status")).to_have_text("Listening")
        expect(page.locator("#record")).to_have_accessible_name("Stop")
        page.keyboard.press(stop)
        is_ready(page)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Space")  # no element has the focus
    expect(page.locator("#status")).to_have_text("Listening")
    page.keyboard.press("Space")
    is_ready(page)
    page.locator("#file").set_input_files(recording)
    expect(page.locator("li p")).to_have_text("a b c")
    page.locator("#record").focus()
    page.keyboard.press("Shift+Tab")
    assert focused(page) == "srt" and outline(page) == "solid"  # the buttons of the text come first


def test_a_screen_reader_hears_states_and_closed_segments(open_page: OpenPage, recording: Path) -> None:
    page = open_page()
    assert page.get_by_role("status").inner_text() == "Ready"
    for _ in range(2):
        drop(page, recording)
        is_ready(page)
    expect(page.locator("li p")).to_have_text(["a b c", "a b c"])
    assert page.get_by_role("log").locator("p").all_text_contents() == ["a b c", "a b c"]
    spoken = ":is([role=log], [role=status], [role=alert], [aria-live])"
    assert page.locator(f"{spoken} .open").count() == 0, "text that grows is not spoken"


# ---- problems


def shows_problem(page: Any, title: str, *help_words: str) -> None:
    """Check that the page shows a problem with its remedy, and no empty take."""
    alert = page.get_by_role("alert")
    expect(alert.locator(".title")).to_have_text(title)
    for words in help_words:
        expect(alert.locator(".help")).to_contain_text(words)
    is_ready(page)
    assert page.locator(".take").count() == 0


def test_a_blocked_microphone(open_page: OpenPage) -> None:
    page = open_page(permissions=())
    page.keyboard.press("Space")
    shows_problem(page, "The microphone is blocked", "Allow it", "address bar")
    page.context.grant_permissions(["microphone"])
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#status")).to_have_text("Listening")
    assert page.get_by_role("alert").count() == 0
    page.keyboard.press("Escape")
    is_ready(page)


@pytest.mark.parametrize(
    "name, title, remedy",
    [
        ("NotFoundError", "No microphone was found", "Connect one"),
        ("NotReadableError", "The microphone does not answer", "Another program"),
        ("OtherError", "The microphone could not be started", "The browser says: of its own"),
    ],
)
def test_other_reasons_of_the_browser(open_page: OpenPage, name: str, title: str, remedy: str) -> None:
    throws = f"throw new DOMException('of its own', '{name}')"
    page = open_page(script=f"navigator.mediaDevices.getUserMedia = async () => {{ {throws}; }}")
    page.keyboard.press("Space")
    shows_problem(page, title, remedy)
    page.keyboard.press("Escape")
    assert page.get_by_role("alert").count() == 0


def test_an_insecure_address_has_no_microphone_but_takes_files(
    open_page: OpenPage, server: ServerProcess, recording: Path
) -> None:
    page = open_page(url=f"http://{INSECURE}:{server.port}/", permissions=())
    page.errors[:] = [text for text in page.errors if "untrustworthy" not in text]  # browsers ignore a header there
    page.keyboard.press("Space")
    shows_problem(page, "No microphone at this address", "https", f"http://localhost:{server.port}")
    drop(page, recording)
    expect(page.locator("li p")).to_have_text("a b c")
    assert page.get_by_role("alert").count() == 0
    page.get_by_role("button", name="Copy").click()  # no clipboard either
    expect(page.get_by_role("button", name="Press Ctrl+C")).to_be_visible()
    assert "a b c" in page.evaluate("getSelection().toString()")


def test_a_microphone_that_is_unplugged(open_page: OpenPage) -> None:
    page = open_page(
        script="""
      const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      navigator.mediaDevices.getUserMedia = async (wanted) => (window.device = await open(wanted));
    """
    )
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_have_text("Listening")
    page.evaluate("window.device.getTracks()[0].dispatchEvent(new Event('ended'))")
    expect(page.get_by_role("alert").locator(".title")).to_have_text("The microphone was disconnected")
    is_ready(page)


def test_a_full_server_then_none_then_one_again(chromium: Any, fake_archive: Path, recording: Path) -> None:
    with ServerProcess(fake_archive, "--max_sessions", 1) as server, opened_pages(chromium, server.url) as open_page:
        first, second = open_page(), open_page()
        drop(first, recording)
        expect(first.locator("li p")).to_have_text("a b c")
        first.keyboard.press("Space")
        expect(first.locator("#status")).to_have_text("Listening")
        second.keyboard.press("Space")
        shows_problem(second, "The server is full", "Try again in a moment")
        server.kill()
        gives_up(first)
        is_ready(first)
        # The earlier text is kept; a beep of the browser's own microphone may follow it.
        assert first.locator("li p").all_text_contents()[0] == "a b c"
        second.get_by_role("button", name="Try again").click()
        shows_problem(second, "The server cannot be reached", "Check the network")
        with ServerProcess(fake_archive, "--port", server.port):
            first.get_by_role("button", name="Try again").click()
            expect(first.locator("#status")).to_have_text("Listening")
            first.keyboard.press("Space")
            is_ready(first)


def test_a_file_is_not_taken_during_a_recording(open_page: OpenPage, recording: Path) -> None:
    page = open_page()
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_have_text("Listening")
    drop(page, recording)
    assert page.locator(".take").count() == 1 and page.locator("#choose").is_disabled()
    page.keyboard.press("Space")
    is_ready(page)


def test_a_server_with_a_token(chromium: Any, fake_archive: Path, recording: Path) -> None:
    token = {"WENET_FUSION_TOKEN": "sesame"}
    with ServerProcess(fake_archive, environment=token) as server, opened_pages(chromium, server.url) as open_page:
        page = open_page(url=f"{server.url}?token=sesame")
        page.keyboard.press("Space")
        expect(page.locator("#status")).to_have_text("Listening")
        page.keyboard.press("Space")
        is_ready(page)
        drop(page, recording)
        expect(page.locator(".take").last.locator("li p")).to_have_text("a b c")
        is_ready(page)
        page.goto(server.url)
        expect(page.get_by_role("alert").locator(".title")).to_have_text("This server asks for a token")
        assert page.locator("#record").is_disabled() and "401" in page.errors.pop()


# ---- looks and rules


def test_a_phone_never_scrolls_sideways(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(**PHONE)
    assert page.evaluate(WIDTH) == [360, 360]
    path = tmp_path / f"{'a-very-long-name' * 10}.wav"
    soundfile.write(path, speak("abcd" * 20), SAMPLE_RATE, subtype="PCM_16")
    drop(page, path)
    expect(page.locator("li p")).to_contain_text("a b c d")
    is_ready(page)
    page.locator("li p").first.evaluate("(text) => (text.textContent = 'unbroken'.repeat(30))")
    page.locator("#more").click()
    assert page.evaluate(WIDTH) == [360, 360]
    page.locator("#hot-words").fill("no such word")
    page.locator("#record").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert page.evaluate(WIDTH) == [360, 360]
    button = page.locator("#record").bounding_box()
    assert button["width"] >= 44 and button["y"] + button["height"] <= 640  # in reach of a thumb


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_page: OpenPage, recording: Path, scheme: str) -> None:
    """Contrast of at least 4.5 to 1, as WCAG 2.1 asks for text."""
    page = open_page(color_scheme=scheme)
    drop(page, recording)
    expect(page.locator("li p")).to_have_text("a b c")
    page.locator("#more").click()
    page.locator("#hot-words").fill("no such word")
    page.locator("#record").click()
    expect(page.get_by_role("alert")).to_be_visible()
    paper = colour(page.locator("html"), "backgroundColor")
    names = (
        "#model",
        "h2",
        "li time",
        "li p",
        ".tentative",
        "#status",
        "#time",
        ".note",
        ".actions button",
        ".tools button",
    )
    for name in names:
        assert contrast(colour(page.locator(name).first, "color"), paper) >= 4.5, name
    behind = colour(page.locator("#problem"), "backgroundColor")
    assert all(
        contrast(colour(page.locator(f"#problem {name}"), "color"), behind) >= 4.5 for name in (".title", ".help")
    )


def colour(element: Any, which: str) -> tuple[float, ...]:
    text = element.evaluate(f"(element) => getComputedStyle(element).{which}")
    return tuple(float(part) / 255 for part in text[text.index("(") + 1 : -1].split(",")[:3])


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    light = [
        sum(
            weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
            for weight, part in zip((0.2126, 0.7152, 0.0722), colour)
        )
        for colour in (one, other)
    ]
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_the_server_forbids_foreign_code_and_the_page_needs_none(open_page: OpenPage, server: ServerProcess) -> None:
    page = open_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    answer = page.reload()
    expect(page.locator("#status")).to_have_text("Ready")
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy and "style-src 'self';" in policy and "unsafe" not in policy
    assert asked and all(url.startswith(server.url) for url in asked)
    page.evaluate("document.body.setAttribute('style', 'color: red')")  # a forbidden style is reported
    assert "Content Security Policy" in page.errors.pop() and page.errors == []
