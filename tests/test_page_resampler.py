"""The page's resampler, run by a browser: any cut gives the same, lengths are exact, what it keeps is unchanged."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from browser import browser, missing
from conftest import absent
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime.serving.pages import FOLDER

pytestmark = pytest.mark.slow

# (from, to) Hz: what devices have, what models want; the last one is faster than its device
RATES = [(48000, 16000), (44100, 16000), (48000, 8000), (44100, 8000), (96000, 16000), (16000, 16000), (8000, 16000)]


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """An empty page at an address whose files are those of the folder."""
    if reason := missing():
        absent(reason, "WENET_FUSION_REQUIRE_BROWSER")
    with browser() as started:
        page = started.new_page()
        page.route("**/*", lambda route: answer(route))
        page.goto("http://localhost:1/")
        yield page


def answer(route: Any) -> None:
    name = route.request.url.rpartition("/")[2]
    if name:
        route.fulfill(path=FOLDER / name, content_type="text/javascript")
    else:
        route.fulfill(body="", content_type="text/html")


def resampled(page: Any, samples: np.ndarray, rates: tuple[int, int], cuts: tuple[int, ...] = ()) -> np.ndarray:
    """What the resampler makes of samples that come in pieces, cut at `cuts`."""
    found = page.evaluate(
        """async ([samples, [from, to], cuts]) => {
          const { Resampler } = await import("/resampler.js");
          const resampler = new Resampler(from, to);
          const pieces = [0, ...cuts].map((start, index) => samples.slice(start, cuts[index] ?? samples.length));
          return [...pieces.map((piece) => resampler.process(Float32Array.from(piece))), resampler.flush()]
            .flatMap((part) => Array.from(part));
        }""",
        [samples.tolist(), list(rates), list(cuts)])
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
    assert np.array_equal(resampled(page, samples, rates, tuple(range(128, len(samples), 128))), whole)    # as browsers cut


@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("count", [0, 1, 2, 441, 1000])
def test_lengths_are_exact(page: Any, rates: tuple[int, int], count: int) -> None:
    assert len(resampled(page, np.ones(count), rates)) == -(-count * rates[1] // rates[0])


@pytest.mark.parametrize("rates", RATES)
def test_what_both_rates_can_carry_is_kept_in_its_place(page: Any, rates: tuple[int, int]) -> None:
    for share in (0.01, 0.3, 0.7, 0.89):    # of half the lower rate
        hertz = share * min(rates) / 2
        found, wanted = resampled(page, tone(hertz, rates[0]), rates), tone(hertz, rates[1])
        inner = slice(len(wanted) // 4, -len(wanted) // 4)
        assert np.abs(found - wanted)[inner].max() < 1e-3, hertz    # -60 dB: no delay, no change of level


@pytest.mark.parametrize("rates", [rates for rates in RATES if rates[0] > rates[1]])
def test_what_the_lower_rate_cannot_carry_is_gone(page: Any, rates: tuple[int, int]) -> None:
    """Without the filter it would come back as another sound, at full level."""
    for share in (1.01, 1.3, 1.9):
        found = resampled(page, tone(share * rates[1] / 2, rates[0]), rates)
        inner = slice(len(found) // 4, -len(found) // 4)
        assert np.abs(found)[inner].max() < 2e-4, share    # -74 dB
