"""Check a model, load it into the native library, and run it step by step.

Shapes: B streams, N samples, T encoder frames, C cached frames, D width, K best tokens of a frame.
"""

import ctypes
import functools
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from wenet_fusion_kernels.sizes import MOST, Expected, Sizes, expected_ranges, expected_tensors
from wenet_fusion_kernels.spectrum import check_spectrum
from wenet_fusion_kernels.state import Block, State, StreamState, is_own, newest

MOST_BIAS = 1 << 30  # largest bias of the depthwise convolution, so that its sums fit into 32 bits
WEIGHTS = (-64, 64)  # smallest and largest weight, so that AVX2 can add two products in 16 bits
MOST_SAMPLES = 1 << 26  # samples of a step: about an hour at 16 kHz
MOST_ROWS = 1 << 16  # rows of `run_products`
FAMILY_VARIABLE = "WENET_FUSION_ISA"  # environment variable with the processor family to use, for tests

_LAYOUT: tuple[Literal["C_CONTIGUOUS"], Literal["ALIGNED"]] = ("C_CONTIGUOUS", "ALIGNED")
_POINTERS = (
    "samples lengths state past past_frames next_state next_past encoded top_log_probs top_ids blank scratch".split()
)


class _Step(ctypes.Structure):
    """`Step` in src/model.hpp."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("batch", "frames", "cached", "blocks")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


def _open_library() -> ctypes.CDLL:
    path = Path(__file__).with_name("library.so")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(f"{path} cannot be loaded ({error}); pip install ./runtime/native builds it") from None
    library.wenet_fusion_family.restype = ctypes.c_char_p
    library.wenet_fusion_load.restype = ctypes.c_void_p
    library.wenet_fusion_load.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int]
    library.wenet_fusion_free.argtypes = [ctypes.c_void_p]
    library.wenet_fusion_free.restype = None
    library.wenet_fusion_state_floats.restype = ctypes.c_int64
    library.wenet_fusion_state_floats.argtypes = [ctypes.c_void_p]
    library.wenet_fusion_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.wenet_fusion_products.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.wenet_fusion_multiply.restype = ctypes.c_int64
    library.wenet_fusion_multiply.argtypes = [ctypes.c_int, ctypes.c_int64]
    return library


_LIBRARY = _open_library()
_INDEXES = range(_LIBRARY.wenet_fusion_families())  # the fastest family first


@functools.cache
def _name(index: int) -> str:
    """Return the name of a family, empty if its code does not run here. For AMX, Linux is asked for permission."""
    found: bytes = _LIBRARY.wenet_fusion_family(index)
    return found.decode()


def _index(name: str) -> int | None:
    """Return the index of a family; None if its code does not run here. Faster families are not asked for."""
    return next((index for index in reversed(_INDEXES) if _name(index) == name), None)


def families() -> list[str]:
    """Return the processor families whose code runs here, the fastest first; the last one is "portable"."""
    return [name for name in map(_name, _INDEXES) if name]


def chosen_family(name: str | None = None) -> str:
    """Return the processor family to use.

    Args:
        name: a family; None: the one in the environment variable WENET_FUSION_ISA, or the fastest if it is unset.
    Raises:
        ValueError: the code of this family does not run here.
    """
    found = name or os.environ.get(FAMILY_VARIABLE) or families()[0]
    if _index(found) is None:
        origin = "" if name else f" ({FAMILY_VARIABLE})"
        raise ValueError(f"family '{found}'{origin} does not run here; choose one of {', '.join(families())}")
    return found


def is_measured() -> bool:
    """Return whether the step was measured to be faster than onnxruntime on processors like this one.

    These are x86-64 processors with AMX or AVX-512 VNNI, and those with AVX2 but without VNNI. The code for
    other processors gives the same results; its speed has not been measured yet.
    """
    return bool(_LIBRARY.wenet_fusion_is_measured())


def multiply(turns: int, family: str | None = None) -> int:
    """Multiply bytes and add the products in registers, so that benchmarks can measure the processor's limit.

    Args:
        turns: number of turns of a loop.
        family: see `chosen_family`.
    Returns:
        The number of multiply-adds. No step computes more of them in the time of this call.
    """
    each: int = _LIBRARY.wenet_fusion_multiply(_index(chosen_family(family)), turns)
    return each * turns


class Output(NamedTuple):
    """The output of a step; frames after a stream's last one are undefined."""

    encoded: np.ndarray  # (B, T, D) float32
    frames: np.ndarray  # (B,) int64, valid frames
    top_log_probs: np.ndarray  # (B, T, K) float32, descending
    top_ids: np.ndarray  # (B, T, K) int64
    blank_log_probs: np.ndarray  # (B, T) float32


class FusedModel:
    """A fused int8 model. It is read-only, and threads can share it; a step uses one core and releases the GIL.

    Args:
        sizes: sizes of the model.
        tensors: arrays of the types and shapes of `expected_tensors`, contiguous or not.
        ranges: scale and zero point of each quantised input; see `expected_ranges`.
        family: processor family to use; see `chosen_family`.
    Raises:
        ValueError: a size, a tensor, a range or the family does not fit; the message names it.
        MemoryError: the weights do not fit into memory.
    """

    def __init__(
        self,
        sizes: Sizes,
        tensors: Sequence[np.ndarray],
        ranges: Sequence[tuple[float, int]],
        family: str | None = None,
    ) -> None:
        sizes.check()
        self.sizes = sizes
        self.family = chosen_family(family)
        spectrum, *arrays = _checked(sizes, tensors)
        check_spectrum(spectrum)
        scales = _checked_ranges(sizes, ranges)
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        numbers = (ctypes.c_int32 * len(sizes))(*sizes)
        model = _LIBRARY.wenet_fusion_load(numbers, pointers, scales.ctypes.data, _index(self.family))
        if not model:
            raise MemoryError("the weights of the model do not fit into memory")
        self._model = ctypes.c_void_p(model)  # shared by shallow copies; cannot be pickled
        self._state_floats: int = _LIBRARY.wenet_fusion_state_floats(self._model)
        # At exit, threads may still run a step.
        weakref.finalize(self._model, _LIBRARY.wenet_fusion_free, model).atexit = False

    def init_state(self, batch: int, cached: int) -> State:
        """Return the state of `batch` streams before their first sample.

        Args:
            batch: B.
            cached: C, number of past encoder frames that attention sees.
        """
        _check_cached(cached)
        return tuple(
            StreamState(self.sizes, cached, Block(np.zeros(self._state_floats, np.float32)), ()) for _ in range(batch)
        )

    def step(self, samples: np.ndarray, lengths: np.ndarray, cached: int, state: State) -> tuple[Output, State]:
        """Run one chunk of B streams; every new frame attends to all cached and all new frames.

        Args:
            samples: (B, N) float32 within [-1, 1]; N a multiple of `frame_samples`.
            lengths: (B,) int64 valid samples. A stream with fewer than N samples ends; do not use its next state.
            cached: C, as given to `init_state`.
            state: from `init_state` or the previous step.
        Raises:
            ValueError: an argument has another shape, or a length exceeds N.
            MemoryError: the step does not fit into memory.
        """
        samples = np.require(samples, np.float32, _LAYOUT)
        lengths = np.array(lengths, np.int64)  # copies, because other threads must not change them after the checks
        n, batch = self.sizes, len(samples)
        frames = samples.shape[-1] // n.frame_samples
        if samples.shape != (batch, frames * n.frame_samples) or frames < 1 or lengths.shape != (batch,) or batch < 1:
            raise ValueError(
                f"samples {samples.shape} and lengths {lengths.shape} must be (B, N) and (B,), N a multiple of "
                f"{n.frame_samples}"
            )
        if samples.shape[1] > MOST_SAMPLES:
            raise ValueError(f"a step takes at most {MOST_SAMPLES} samples, found {samples.shape[1]}")
        if lengths.min() < 0 or lengths.max() > samples.shape[1]:
            raise ValueError(f"lengths {lengths.tolist()} must be 0 to {samples.shape[1]}")
        _check_cached(cached)
        # A copy of a list, so that its blocks live while the library reads them.
        state = tuple(state) if isinstance(state, (tuple, list)) else ()
        if len(state) != batch or not all(is_own(each, n, self._state_floats, cached) for each in state):
            raise ValueError(f"the state is not one of {batch} streams of this model with {cached} cached frames")
        rolling = [Block(np.empty(self._state_floats, np.float32)) for _ in state]
        shape = n.layers, n.heads, 2, frames, n.dim // n.heads
        written = [Block(np.empty(shape, np.float32)) for _ in state]
        encoded = np.empty((batch, frames, n.dim), np.float32)
        top_log_probs = np.empty((batch, frames, n.top), np.float32)
        top_ids = np.empty((batch, frames, n.top), np.int64)
        blank = np.empty((batch, frames), np.float32)
        past, past_frames = _past_blocks(state)
        states = _addresses([each.rolling for each in state])
        tables = (states, past, past_frames, _addresses(rolling), _addresses(written))
        outputs = (encoded, top_log_probs, top_ids, blank)
        call = _Step(
            *(batch, frames, cached, len(past) // batch),
            *(array.ctypes.data for array in (samples, lengths)),
            *(ctypes.addressof(table) for table in tables),
            *(array.ctypes.data for array in outputs),
        )
        if _LIBRARY.wenet_fusion_step(self._model, ctypes.byref(call)):
            raise MemoryError(f"a step of {batch} streams with {frames} frames does not fit into memory")
        after = tuple(
            each._replace(rolling=memory, past=newest((*each.past, block), cached))
            for each, memory, block in zip(state, rolling, written)
        )
        return Output(encoded, -(-lengths // n.frame_samples), top_log_probs, top_ids, blank), after

    def run_products(self, rows: int) -> None:
        """Compute only the integer products of a step, with zeros as inputs, for benchmarks.

        Args:
            rows: number of frames of all streams, 1 or more.
        Raises:
            ValueError: there are no rows, or too many.
            MemoryError: the products do not fit into memory.
        """
        if type(rows) is not int or not 1 <= rows <= MOST_ROWS:
            raise ValueError(f"rows is {rows!r}, expected a whole number from 1 to {MOST_ROWS}")
        if _LIBRARY.wenet_fusion_products(self._model, rows):
            raise MemoryError(f"the products of {rows} frames do not fit into memory")


def _check_cached(cached: int) -> None:
    if type(cached) is not int or not 0 <= cached <= MOST:
        raise ValueError(f"cached is {cached!r}, expected a whole number from 0 to {MOST}")


def _past_blocks(state: State) -> tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_int32]]:
    """Return the addresses and the numbers of frames of the past blocks, (B, largest number of blocks of a stream).

    The first entries of a stream with fewer blocks are zeros.
    """
    most = max(len(each.past) for each in state)
    addresses, frames = (ctypes.c_void_p * (len(state) * most))(), (ctypes.c_int32 * (len(state) * most))()
    for row, each in enumerate(state):
        for index, block in enumerate(each.past, start=(row + 1) * most - len(each.past)):
            addresses[index], frames[index] = block.address, block.memory.shape[3]
    return addresses, frames


def _addresses(blocks: Sequence[Block]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(blocks))(*(block.address for block in blocks))


def _checked(sizes: Sizes, tensors: Sequence[np.ndarray]) -> list[np.ndarray]:
    expected = expected_tensors(sizes)
    if len(tensors) != len(expected):
        raise ValueError(f"found {len(tensors)} tensors, expected {len(expected)}")
    return [_checked_tensor(np.require(tensor, requirements=_LAYOUT), each) for tensor, each in zip(tensors, expected)]


def _checked_tensor(tensor: np.ndarray, expected: Expected) -> np.ndarray:
    if tensor.dtype != expected.dtype or tensor.shape != expected.shape:
        raise ValueError(
            f"{expected.name} is {tensor.dtype} {tensor.shape}, expected {np.dtype(expected.dtype)} {expected.shape}"
        )
    low, high = (-MOST_BIAS, MOST_BIAS) if expected.dtype is np.int32 else WEIGHTS
    if expected.dtype is not np.float32 and not low <= tensor.min() <= tensor.max() <= high:
        raise ValueError(f"{expected.name} has values outside {low} to {high}: {tensor.min()} to {tensor.max()}")
    if expected.dtype is np.float32 and not np.isfinite(tensor).all():
        raise ValueError(f"{expected.name} has values that are not finite")
    return tensor


def _checked_ranges(sizes: Sizes, ranges: Sequence[tuple[float, int]]) -> np.ndarray:
    names = expected_ranges(sizes)
    if len(ranges) != len(names):
        raise ValueError(f"found {len(ranges)} ranges, expected {len(names)}")
    for name, (scale, zero_point) in zip(names, ranges):
        if not 1e-30 < scale < 1e30 or zero_point not in range(256):
            raise ValueError(f"the range of {name} is scale {scale} and zero point {zero_point}")
    return np.array(ranges, np.float32)
