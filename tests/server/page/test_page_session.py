"""The page's session with sockets and a clock of the test: when a connection counts as lost, and when it gives up."""

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from conftest import absent
from support.runtime.browser import browser, missing
from wenet_fusion_runtime.server.http.pages import FOLDER

pytestmark = pytest.mark.slow

# A clock and sockets of the test. `seconds(n)` sends n seconds of audio at 10 Hz and lets n seconds pass. While
# `isStalled` is set, sent data stay in the browser.
HARNESS = """
let clock = 0;
let timers = [];
performance.now = () => clock;
const later = (call, wait, every) => (timers.push({ call, at: clock + wait, every }), timers[timers.length - 1]);
window.setTimeout = (call, wait) => later(call, wait, null);
window.setInterval = (call, wait) => later(call, wait, wait);
window.clearInterval = (timer) => (timers = timers.filter((other) => other !== timer));
function advance(milliseconds) {
  const end = clock + milliseconds;
  for (;;) {
    const [next] = timers.filter(({ at }) => at <= end).sort((one, other) => one.at - other.at);
    if (next === undefined) break;
    clock = next.at;
    if (next.every === null) timers = timers.filter((timer) => timer !== next);
    else next.at += next.every;
    next.call();
  }
  clock = end;
}
let sockets = [];
let isStalled = false;
let isReachable = true;
window.WebSocket = class {
  constructor() {
    this.bufferedAmount = this.samples = 0;
    sockets.push(this);
    if (!isReachable) return;
    setTimeout(() => { this.onopen(); this.answer({ type: "server_ready" }); window.onready(this); }, 10);
  }
  answer(message) { this.onmessage?.({ data: JSON.stringify({ status: "ok", ...message }) }); }
  final(end) {
    const nbest = JSON.stringify([{ sentence: "a" }]);
    this.answer({ type: "final_result", nbest, start: 0, end, words: [], committed: 0 });
  }
  drop() { this.onclose?.({ code: 1006 }); }
  send(data) {
    if (typeof data !== "string") this.samples += data.length;
    if (isStalled) this.bufferedAmount += data.byteLength ?? data.length;
  }
  close() { this.isClosed = true; }
};
window.onready = () => {};
const { Session } = await import("/session.js");
const events = [];
const note = (name) => () => events.push([name, Math.round(clock / 1000)]);
const named = Object.fromEntries(["ready", "lost", "partial", "final", "end"].map((name) => [name, note(name)]));
const session = new Session("ws://there", 10, {}, { ...named, problem: (problem) => note(problem.title)() });
const second = () => { if (!session.isOver) session.send(new Int16Array(10)); advance(1000); };
const seconds = (count) => { for (let i = 0; i < count; i++) second(); };
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """A document without scripts, on a server with the scripts of the page."""
    if reason := missing():
        absent(reason, "WENET_FUSION_REQUIRE_BROWSER")
    handler = functools.partial(Quiet, directory=FOLDER)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser() as started:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = started.new_page()
        page.url_of_scripts = f"http://127.0.0.1:{server.server_port}/style.css"
        yield page
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def run(page: Any, script: str) -> Any:
    page.goto(page.url_of_scripts)
    return page.evaluate(f"async () => {{ {HARNESS} {script} }}")


def test_a_connection_that_takes_no_more_data_is_replaced(page: Any) -> None:
    found = run(
        page,
        """seconds(5); sockets[0].final(3); isStalled = true; seconds(21);
        isStalled = false; seconds(10);
        return [events.map(([name]) => name), sockets[0].isClosed, sockets.length, sockets[1].samples];""",
    )
    assert found == [["ready", "final", "lost", "ready"], True, 2, 10 * (5 + 21 + 10 - 3)]


def test_a_connection_that_stalls_after_the_end_is_replaced(page: Any) -> None:
    found = run(
        page,
        """seconds(5); isStalled = true; second(); session.end(); advance(25000);
        return [events.map(([name]) => name), sockets[1].samples];""",
    )
    assert found == [["ready", "lost", "ready"], 60]


def test_a_connection_that_brings_nothing_after_the_end_is_replaced(page: Any) -> None:
    """All audio has left the browser, so only the server's silence shows that the connection is lost."""
    found = run(
        page,
        """seconds(5); sockets[0].final(3); session.end(); advance(29000);
        const [before] = [sockets.length];
        advance(4000);
        sockets[1].final(2); sockets[1].answer({ type: "speech_end" }); advance(60000);
        return [before, events.map(([name]) => name), sockets.length, sockets[1].samples];""",
    )
    assert found == [1, ["ready", "final", "lost", "ready", "final", "end"], 2, 20]


def test_a_server_that_works_after_the_end_is_waited_for(page: Any) -> None:
    found = run(
        page,
        """seconds(5); session.end();
        for (let end = 1; end <= 4; end++) { advance(25000); sockets[0].final(end); }
        return [events.map(([name]) => name), sockets.length];""",
    )
    assert found == [["ready", *["final"] * 4], 1]


def test_a_network_that_is_gone_after_the_end_is_given_up(page: Any) -> None:
    """Attempts to connect hang, and no more audio comes that could wait too long."""
    found = run(
        page,
        """seconds(5); session.end(); isReachable = false; sockets[0].drop(); advance(180000);
        return [events, sockets.length, sockets.every(({ isClosed }, index) => index === 0 || isClosed)];""",
    )
    (_, lost, (name, at)), connections, are_closed = found
    assert lost[0] == "lost" and name == "Connection lost" and 35 <= at <= 60 and 2 <= connections <= 3 and are_closed


def test_a_server_that_never_answers_is_unreachable(page: Any) -> None:
    found = run(
        page,
        """const titles = [];
        isReachable = false;
        const other = new Session("ws://there", 10, {}, { ...named, problem: ({ title }) => titles.push(title) });
        for (let i = 0; i < 60 && !other.isOver; i++) { other.send(new Int16Array(10)); advance(1000); }
        return [titles, Math.round(clock / 1000), other.wasReady];""",
    )
    assert found == [["The server cannot be reached"], 21, False]


def test_a_slow_connection_is_not_taken_for_lost(page: Any) -> None:
    """Half of the audio gets through."""
    found = run(
        page,
        """isStalled = true;
        for (let i = 0; i < 80 && !session.isOver; i++) { second(); if (i % 6 === 5) sockets[0].bufferedAmount -= 60; }
        return [events, sockets.length];""",
    )
    (ready, problem), connections = found
    assert ready[0] == "ready" and problem[0] == "The connection is too slow" and problem[1] > 50 and connections == 1


def test_audio_that_is_sent_again_at_once_is_not_a_slow_connection(page: Any) -> None:
    found = run(
        page,
        """seconds(45); sockets[0].drop(); isStalled = true; seconds(3); sockets[1].bufferedAmount = 0; seconds(3);
        return events.map(([name]) => name);""",
    )
    assert found == ["ready", "lost", "ready"]


def test_a_server_that_drops_each_session_is_given_up(page: Any) -> None:
    found = run(
        page,
        """seconds(5); window.onready = (socket) => socket.drop(); sockets[0].drop(); seconds(60);
        return [events[events.length - 1], sockets.length];""",
    )
    (name, at), connections = found
    assert name == "Connection lost" and 35 <= at <= 40 and connections < 15


@pytest.mark.parametrize("brings", ["socket.final(1)", "advance(61000)"])
def test_a_session_that_made_progress_restores_the_time_to_reconnect(page: Any, brings: str) -> None:
    """It brought a final text, or lasted for a minute."""
    found = run(
        page,
        f"""seconds(5);
        for (let i = 0; i < 6; i++) {{
          const socket = sockets[sockets.length - 1];
          {brings};
          socket.drop();
          seconds(10);
        }}
        return [events.filter(([name]) => name !== "final").map(([name]) => name), sockets.length];""",
    )
    assert found == [["ready", *["lost", "ready"] * 6], 7]
