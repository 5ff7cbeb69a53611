"""The sizes of a model, and the tensors and ranges that follow from them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MOST = 1 << 20  # a larger size is a mistake
MOST_LAYERS = 1000
MOST_TAPS = 1 << 10  # sums of this many products of bytes are exact in float32
MOST_INPUTS = 1 << 16  # inputs of a layer: sums of this many products of bytes fit into 32 bits


class Sizes(NamedTuple):
    """The sizes of a model, in the order of `Sizes` in src/model.hpp.

    >>> Sizes(400, 160, 256, 80, 64, 256, 12, 4, 2048, 8, 64, 5000, 20).frame_samples
    640
    """

    window: int  # samples of a window of the front-end
    hop: int  # samples between windows
    bins: int  # frequencies of the spectrum: half the length of its Fourier transform
    mels: int  # mel bins
    channels: int  # of the subsampling convolutions
    dim: int  # D
    layers: int
    heads: int
    feed_forward: int  # hidden width of the feed-forward branches
    kernel: int  # taps of the depthwise convolution
    max_distance: int  # largest distance with its own position bias
    vocabulary: int
    top: int  # K, best tokens that a step returns for a frame

    @property
    def frame_samples(self) -> int:
        """Samples of an encoder frame."""
        return 4 * self.hop

    @property
    def subsampled(self) -> int:
        """Values of a frame after the subsampling convolutions."""
        return self.channels * (((self.mels - 3) // 2 + 1 - 3) // 2 + 1)

    def check(self) -> None:
        """Raise ValueError if a size is impossible."""
        for name, value in self._asdict().items():
            if type(value) is not int or not 1 <= value <= MOST:
                raise ValueError(f"{name} is {value!r}, expected a whole number from 1 to {MOST}")
        if self.mels < 7 or self.window < self.hop or self.dim % self.heads or self.top > self.vocabulary:
            raise ValueError(
                f"expected mels of 7 or more, window >= hop, dim a multiple of heads, and top <= vocabulary: {self}"
            )
        if self.bins & (self.bins - 1) or not 2 <= self.window <= 2 * self.bins:
            raise ValueError(f"expected bins that are a power of two, and window from 2 to 2 * bins: {self}")
        if max(self.subsampled, self.dim, self.feed_forward) > MOST_INPUTS:
            raise ValueError(f"at most {MOST_INPUTS} inputs of a layer are possible: {self}")
        if self.kernel > MOST_TAPS or self.layers > MOST_LAYERS:
            raise ValueError(f"a kernel of at most {MOST_TAPS} and at most {MOST_LAYERS} layers are possible: {self}")


class Expected(NamedTuple):
    """A tensor that a model needs."""

    name: str
    dtype: type
    shape: tuple[int, ...]


def expected_tensors(sizes: Sizes) -> list[Expected]:
    """Return the tensors of a model, in the order in which the library takes them."""
    return list(_tensors(sizes))


def expected_ranges(sizes: Sizes) -> list[str]:
    """Return the names of the quantised inputs, in the order in which the library takes their ranges."""
    in_layer = ("expand_in", "reduce_in", "qkv", "attended", "pointwise_in", "depthwise", "pointwise_out")
    each = (*in_layer, "expand_out", "reduce_out")
    return ["subsampled", *(f"layers.{layer}.{name}" for layer in range(sizes.layers) for name in each), "ctc"]


def _tensors(sizes: Sizes) -> Iterator[Expected]:
    n, dim = sizes, sizes.dim
    yield Expected("spectrum", np.float32, (2 * n.bins, n.window))
    yield Expected("mel", np.float32, (n.mels, n.bins))
    yield Expected("mean", np.float32, (n.mels,))
    yield Expected("inverse_std", np.float32, (n.mels,))
    yield from _convolution("conv_1", n.channels, 1)
    yield from _convolution("conv_2", n.channels, n.channels)
    yield from _linear("subsampled", n.subsampled, dim)
    for layer in range(n.layers):
        name = f"layers.{layer}"
        yield from _linear(f"{name}.expand_in", dim, n.feed_forward)
        yield from _linear(f"{name}.reduce_in", n.feed_forward, dim)
        yield from _linear(f"{name}.qkv", dim, 3 * dim)
        yield from _linear(f"{name}.attended", dim, dim)
        yield from _linear(f"{name}.pointwise_in", dim, dim)
        yield from _linear(f"{name}.pointwise_out", dim, dim)
        yield Expected(f"{name}.depthwise.taps", np.int8, (dim, 1, n.kernel))
        yield Expected(f"{name}.depthwise.scale", np.float32, (dim,))
        yield Expected(f"{name}.depthwise.bias", np.int32, (dim,))
        yield from _linear(f"{name}.expand_out", dim, n.feed_forward)
        yield from _linear(f"{name}.reduce_out", n.feed_forward, dim)
    yield Expected("distances", np.float32, (2 * n.max_distance + 1, n.layers * n.heads))
    yield from _linear("ctc", dim, n.vocabulary)


def _convolution(name: str, outputs: int, inputs: int) -> Iterator[Expected]:
    yield Expected(f"{name}.weight", np.float32, (outputs, inputs, 3, 3))
    yield Expected(f"{name}.bias", np.float32, (outputs,))


def _linear(name: str, inputs: int, outputs: int) -> Iterator[Expected]:
    yield Expected(f"{name}.weight", np.int8, (inputs, outputs))
    yield Expected(f"{name}.scale", np.float32, (outputs,))
    yield Expected(f"{name}.bias", np.float32, (outputs,))
