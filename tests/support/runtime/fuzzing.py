"""Fuzzing: try inputs that hypothesis generates or damages, for a share of a time budget.

WENET_FUSION_FUZZ_SECONDS is the time of all tests in tests/fuzz together, WENET_FUSION_FUZZ_SEED repeats a run. An
input either works or ends with a clear error; its time, memory, open files and warnings are checked. The current input
is stored in the temporary folder, so that an input that kills the process can be tried again.
"""

import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import hypothesis
import psutil
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

SECONDS = float(os.environ.get("WENET_FUSION_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("WENET_FUSION_FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
SLOWEST = 20.0  # seconds of the processor for one input
LONGEST = 120.0  # seconds of wall time for one input: machines are shared
MEMORY_BYTES = 1 << 29  # memory for the inputs of a test, in addition to the memory of the process
MOST_FILES = 3  # descriptors that may stay open
EXAMPLES = 50  # between two looks at the clock
NUMBERS = (0, 1, 2, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)

T = TypeVar("T")


def fuzz(strategy: SearchStrategy[T], check: Callable[[T], object], share: float, place: str = "") -> None:
    """Try inputs for a share of the time.

    Args:
        strategy: makes inputs.
        check: uses an input; it may raise ValueError or OSError with a message.
        share: share of the time budget.
        place: text that every message must contain, such as a path; without `place`, messages may have several lines.
    """
    print(f"WENET_FUSION_FUZZ_SEED={SEED}")
    counts = {"tried": 0, "refused": 0}
    trace = Path(tempfile.gettempdir()) / f"wenet_fusion_fuzz_{os.getpid()}"

    def attempt(value: T) -> None:
        trace.write_text(repr(value), encoding="utf-8", errors="backslashreplace")
        counts["tried"] += 1
        begun, used = time.monotonic(), time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # warnings of numpy, which users would see
                check(value)
        except (ValueError, OSError) as error:
            counts["refused"] += 1
            message = str(error)
            assert message and place in message and not (place and "\n" in message), f"no clear message: {error!r}"
        assert time.process_time() - used < SLOWEST and time.monotonic() - begun < LONGEST

    seed, end = SEED, time.monotonic() + share * SECONDS
    files = psutil.Process().num_fds()
    with _bounded_memory():
        while time.monotonic() < end:
            run = settings(
                max_examples=EXAMPLES,
                database=None,
                deadline=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )(hypothesis.seed(seed)(given(strategy)(attempt)))
            run()
            seed += 1
    trace.unlink(missing_ok=True)
    assert psutil.Process().num_fds() <= files + MOST_FILES
    print(counts)


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let the process allocate MEMORY_BYTES more. Beyond this comes a MemoryError, which no input may cause."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    resource.setrlimit(resource.RLIMIT_DATA, (pages * resource.getpagesize() + MEMORY_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


# ---- strategies


@st.composite
def damaged(draw: st.DrawFn, contents: Sequence[bytes], pieces: Sequence[bytes] = ()) -> bytes:
    """Change one of the contents in one to five places, half of these in the first 200 bytes, where headers are."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 5))):
        whole = st.integers(0, len(content))
        place = draw(st.one_of(st.integers(0, min(200, len(content))), whole))
        kind = draw(st.sampled_from(["byte", "number", "piece", "delete", "repeat", "cut"]))
        if kind == "byte":
            content[place : place + 1] = draw(st.binary(max_size=3))
        elif kind == "number":
            size, order = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from(["little", "big"]))
            number = draw(st.sampled_from(NUMBERS)) & ((1 << 8 * size) - 1)
            content[place : place + size] = number.to_bytes(size, order)
        elif kind == "piece" and pieces:
            content[place:place] = draw(st.sampled_from(pieces))
        elif kind == "delete":
            del content[place : place + draw(st.integers(1, 60))]
        elif kind == "repeat":
            start = draw(whole)
            content[place:place] = content[start : start + draw(st.integers(1, 2000))]
        else:
            del content[place:]
    return bytes(content)


def json_values(keys: Sequence[str] = ()) -> SearchStrategy[object]:
    """Return a strategy for any JSON value; some objects have the given keys."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([-1, 0, 1, 1 << 20, 1 << 30, 1 << 62, 10**30, 10**400]),
        st.floats(allow_nan=False),
        st.sampled_from([float("nan"), float("inf"), 1e308, -1e308, 1e-320]),
        st.text(max_size=20),
        st.sampled_from(["", " ", "\0", "\ud800", "\x1b[2J", "a\nb", "../x", "<unk>", "9" * 400]),
    )
    names = st.one_of(st.sampled_from(list(keys) or ["a"]), st.text(max_size=5))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
        max_leaves=8,
    )


@st.composite
def changed_record(draw: st.DrawFn, records: Sequence[dict]) -> dict:
    """Replace, remove or add one to three values of a record, at any depth."""
    record = _copied(draw(st.sampled_from(records)))
    for _ in range(draw(st.integers(1, 3))):
        holder: object = record
        while True:
            names = list(range(len(holder))) if isinstance(holder, list) else list(holder)
            if not names:
                break
            name = draw(st.sampled_from(names))
            if isinstance(holder[name], (dict, list)) and draw(st.booleans()):
                holder = holder[name]
                continue
            if type(holder[name]) is int and draw(st.booleans()):
                holder[name] = draw(
                    st.sampled_from([-1, 0, 1, holder[name] + 1, 4 * holder[name], *(1 << n for n in (9, 16, 20, 24))])
                )
            elif draw(st.integers(0, 4)):
                holder[name] = draw(json_values(names if isinstance(holder, dict) else ()))
            else:
                del holder[name]
            break
    return record


def _copied(value: object) -> object:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, (list, tuple)) else value
