"""Headless Chromium with a recording as its microphone, the page in it, and a proxy that cuts its connections."""

import base64
import importlib.util
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = "chromium"
PATIENCE = 20_000  # milliseconds until an expectation fails
INSECURE = "insecure"  # a host name of this computer that browsers treat as insecure, unlike localhost
OpenPage = Callable[..., Any]  # type of the function that `opened_pages` yields
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",
    f"--host-resolver-rules=MAP {INSECURE} 127.0.0.1",
)


def missing() -> str | None:
    """Return what must be installed to run a browser; None if nothing is missing."""
    lacking = [] if shutil.which(CHROMIUM) else [CHROMIUM]
    lacking += [] if importlib.util.find_spec("playwright") else ["the Python package playwright"]
    if not lacking:
        return None
    return f"no browser without {', '.join(lacking)}: apt-get install chromium; pip install playwright"


@contextmanager
def browser(microphone: Path | None = None) -> Iterator[Any]:
    """Start a browser (playwright's `Browser`).

    Args:
        microphone: recording that the microphone plays once, from its first use; None: beeps.
    """
    from playwright.sync_api import expect as assertions
    from playwright.sync_api import sync_playwright

    assertions.set_options(timeout=PATIENCE)
    flags = [] if microphone is None else [f"--use-file-for-fake-audio-capture={microphone}%noloop"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=shutil.which(CHROMIUM), args=[*_FLAGS, *flags], timeout=60_000
        )
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened_pages(started: Any, url: str) -> Iterator[OpenPage]:
    """Yield a function that opens the page and waits until it is ready.

    Fails at the end if a page wrote an error to the console (e.g. a breach of its content policy) that the test
    did not remove from `page.errors`.
    """
    contexts, errors = [], []

    def is_error(message: Any) -> bool:
        is_lost = message.text.startswith("WebSocket connection to")  # the page reports this itself
        return message.type in ("error", "warning") and not is_lost

    def start(url: str = url, script: str = "", permissions: tuple[str, ...] = ("microphone",), **options: Any) -> Any:
        """Open a page. `script` runs before the page's scripts; `options` go to the browser's context."""
        context = started.new_context(permissions=permissions, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: is_error(message) and errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        if script:
            page.add_init_script(script)
        page.goto(url)
        expect(page.locator("#status")).to_have_text("Ready")
        page.errors = errors
        return page

    try:
        yield start
    finally:
        for context in contexts:
            context.close()
    assert errors == []


def expect(subject: Any) -> Any:
    """Return playwright's `expect`: assertions that wait."""
    from playwright.sync_api import expect as assertions

    return assertions(subject)


def is_ready(page: Any) -> None:
    """Wait until no recording or file is running."""
    expect(page.locator("#status")).to_have_text("Ready")
    expect(page.locator("#record")).to_have_accessible_name("Start")


def gives_up(page: Any) -> None:
    """Wait until the page has lost its connection, let a minute pass, and wait until it gives up."""
    expect(page.locator("#status")).to_contain_text("Connecting again")
    page.evaluate("{ const now = performance.now.bind(performance); performance.now = () => now() + 60000; }")
    expect(page.get_by_role("alert").locator(".title")).to_have_text("Connection lost")


def drop(page: Any, path: Path, kind: str = "audio/wav") -> None:
    """Drop a file onto the page by a script."""
    page.evaluate(
        """([content, name, type]) => {
          const data = new DataTransfer();
          data.items.add(new File([Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))], name, { type }));
          for (const kind of ["dragenter", "dragover", "drop"]) {
            document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
          }
        }""",
        [base64.b64encode(path.read_bytes()).decode(), path.name, kind],
    )


class CutProxy:
    """A TCP proxy from a free port to another port, within `with`, whose connections a test can cut or silence."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._open: list[socket.socket] = []
        self._silent: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Close all connections, and return how many there were; new ones are accepted."""
        cut, self._open = self._open, []
        for each in cut:
            _shut(each)
        return len(cut) // 2

    def silence(self) -> None:
        """Stop forwarding, but leave the connections open, as if the network were lost."""
        silent, self._open = self._open, []
        self._silent += silent

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._open += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def __enter__(self) -> "CutProxy":
        return self

    def __exit__(self, *_: object) -> None:
        _shut(self._listening)
        self._open += self._silent
        self.cut()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while (data := source.recv(1 << 16)) and source not in self._silent:
                target.sendall(data)
        if source not in self._silent:
            _shut(target)


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
