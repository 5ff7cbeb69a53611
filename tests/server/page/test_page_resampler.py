"""The page's resampler and recorder in Chromium: independent of cuts, complete, and accurate."""

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from conftest import absent
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runtime.browser import browser, missing
from wenet_fusion_runtime.server.http.pages import FOLDER

pytestmark = pytest.mark.slow

# (from, to) Hz: rates of devices and of models; the last model has a higher rate than its device
RATES = [(48000, 16000), (44100, 16000), (48000, 8000), (44100, 8000), (96000, 16000), (16000, 16000), (8000, 16000)]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """A document without scripts, on a server with the scripts of the page."""
    if reason := missing():
        absent(reason, "WENET_FUSION_REQUIRE_BROWSER")
    handler = functools.partial(Quiet, directory=FOLDER)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser() as started:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = started.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/style.css")
        yield page
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def resampled(page: Any, samples: np.ndarray, rates: tuple[int, int], cuts: tuple[int, ...] = ()) -> np.ndarray:
    """Return the output of the resampler for samples that come in pieces, cut at `cuts`."""
    found = page.evaluate(
        """async ([samples, [from, to], cuts]) => {
          const { Resampler } = await import("/resampler.js");
          const resampler = new Resampler(from, to);
          const pieces = [0, ...cuts].map((start, index) => samples.slice(start, cuts[index] ?? samples.length));
          return [...pieces.map((piece) => resampler.process(Float32Array.from(piece))), resampler.flush()]
            .flatMap((part) => Array.from(part));
        }""",
        [samples.tolist(), list(rates), list(cuts)],
    )
    return np.array(found)


def tone(hertz: float, rate: int, seconds: float = 0.2) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rates", RATES)
def test_any_cut_gives_the_same(page: Any, rates: tuple[int, int]) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 1500)
    whole = resampled(page, samples, rates)

    @settings(max_examples=10, deadline=None, derandomize=True)
    @given(st.lists(st.integers(0, len(samples)), max_size=8).map(lambda cuts: tuple(sorted(cuts))))
    def law(cuts: tuple[int, ...]) -> None:
        assert np.array_equal(resampled(page, samples, rates, cuts), whole)

    law()
    assert np.array_equal(
        resampled(page, samples, rates, tuple(range(128, len(samples), 128))), whole
    )  # the blocks of browsers


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("count", [0, 1, 2, 441, 1000])
def test_lengths_are_exact(page: Any, rates: tuple[int, int], count: int) -> None:
    assert len(resampled(page, np.ones(count), rates)) == -(-count * rates[1] // rates[0])


@pytest.mark.parametrize("rates", RATES)
def test_frequencies_that_both_rates_can_carry_are_kept_in_place(page: Any, rates: tuple[int, int]) -> None:
    for share in (0.01, 0.3, 0.7, 0.89):  # of half the lower rate
        hertz = share * min(rates) / 2
        found, wanted = resampled(page, tone(hertz, rates[0]), rates), tone(hertz, rates[1])
        inner = slice(len(wanted) // 4, -len(wanted) // 4)
        assert np.abs(found - wanted)[inner].max() < 1e-3, hertz  # -60 dB: no delay, no change of level


@pytest.mark.parametrize("rates", [rates for rates in RATES if rates[0] > rates[1]])
def test_frequencies_that_the_lower_rate_cannot_carry_are_removed(page: Any, rates: tuple[int, int]) -> None:
    """Without the filter the tone would alias at full level."""
    for share in (1.01, 1.3, 1.9):
        found = resampled(page, tone(share * rates[1] / 2, rates[0]), rates)
        inner = slice(len(found) // 4, -len(found) // 4)
        assert np.abs(found)[inner].max() < 2e-4, share  # -74 dB


def test_the_recorder_hands_over_every_sample(page: Any) -> None:
    """Two channels are averaged, clipped and converted to 16 bits; `stop` returns the last samples."""
    samples = np.random.default_rng(1).uniform(-1.2, 1.2, (2, 5000)).astype(np.float32)
    found = page.evaluate(
        """async ([channels, from, to]) => {
          const context = new OfflineAudioContext(1, channels[0].length, from);
          await context.audioWorklet.addModule("/recorder.js");
          const buffer = new AudioBuffer({ length: channels[0].length, numberOfChannels: 2, sampleRate: from });
          channels.forEach((channel, index) => buffer.copyToChannel(Float32Array.from(channel), index));
          const source = new AudioBufferSourceNode(context, { buffer });
          const recorder = new AudioWorkletNode(context, "recorder", { processorOptions: { outputRate: to } });
          const found = [];
          const ended = new Promise((resolve) => {
            recorder.port.onmessage = ({ data }) => (data.ended ? resolve() : found.push(Array.from(data.samples)));
          });
          source.connect(recorder).connect(context.destination);
          source.start();
          await context.startRendering();
          recorder.port.postMessage("stop");
          await ended;
          return found;
        }""",
        [samples.tolist(), 48000, 16000],
    )
    # Browsers work in blocks of 128: the last one is filled with silence.
    mono = np.pad(samples, [(0, 0), (0, -samples.shape[1] % 128)]).astype(np.float64).mean(0)
    wanted = np.clip(np.floor(32768 * resampled(page, mono, (48000, 16000)) + 0.5), -32768, 32767)
    assert {len(block) for block in found[:-1]} == {640}  # 40 ms
    assert np.abs(np.concatenate(found)[: len(wanted)] - wanted).max() <= 1  # float32 and float64
    assert len(np.concatenate(found)) == len(wanted)
